"""IPVS's messages without a kernel: what is written can be read, by us and by others."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipvs_tables import destinations, listens, marks, services

from lbctl.dataplane.ipvs.codec import (
    DEST,
    SERVICE,
    Dest,
    Rates,
    Svc,
    SyncDaemon,
    SyncRole,
    Timeouts,
    as_told,
    destination_request,
    info_of,
    server_entry,
    service_entry,
    service_request,
    sync_daemon,
    sync_request,
    timeouts_of,
    timeouts_request,
    told,
)
from lbctl.dataplane.ipvs.genl import Garbled, attribute, attributes, nested
from lbctl.dataplane.port import Counters
from lbctl.model import (
    Destination,
    Encapsulation,
    Endpoint,
    Family,
    Forwarding,
    Listen,
    Mode,
    Persistence,
    Scheduler,
    Tunnel,
    VirtualService,
)

calmly = settings(deadline=None)  # a busy machine is no failure

WEB = Listen.parse("192.0.2.10:80/tcp")
FOUR = Family.IPV4
SERVER = Endpoint.parse("198.51.100.1:8080")
NUMBERS = tuple(range(11, 21))  # conns, packets and bytes in and out, then the five rates


def statistics(kind):
    values = (n.to_bytes(8, "little") for n in NUMBERS)
    return nested(kind, *(attribute(number, v) for number, v in enumerate(values, 1)))


def answered(request, kind, *more):
    """`request` as the kernel sends it back: the same attributes and some of its own."""
    inner = bytes(attributes(memoryview(request))[kind])
    return memoryview(nested(kind, inner, *more))


def service_reply(frontend, service):
    return answered(service_request(frontend, service), SERVICE, statistics(Svc.STATS64))


def server_reply(endpoint, destination, frontend=WEB):
    counts = [attribute(k, n.to_bytes(4, "little")) for k, n in ((7, 1), (8, 2), (9, 3))]
    request = destination_request(frontend, endpoint, destination)
    return answered(request, DEST, *counts, statistics(Dest.STATS64))


@calmly
@given(services(listens | marks))
def test_a_service_is_read_back_as_written(pair):
    frontend, service = pair
    entry = service_entry(service_reply(frontend, service))
    assert (entry.frontend, entry.service) == (frontend, service.header())


@calmly
@given(services(listens), destinations())
def test_a_server_is_read_back_as_written(pair, destination):
    frontend, _ = pair
    entry = server_entry(server_reply(SERVER, destination, frontend), Family.IPV4)
    assert (entry.endpoint, entry.destination) == (SERVER, destination)


@calmly
@given(services(listens), destinations())
def test_a_server_that_is_as_told_is_known_by_its_bytes(pair, destination):
    frontend, _ = pair
    request = destination_request(frontend, SERVER, destination)
    assert as_told(usual_reply(request)) == told(request)
    other = replace(destination, weight=destination.weight ^ 1)
    assert as_told(usual_reply(destination_request(frontend, SERVER, other))) != told(request)


def usual_reply(request):
    """As Linux 6.1 answers: the family of the address after the counts, then statistics."""
    inner = bytes(attributes(memoryview(request))[DEST])
    counts = b"".join(attribute(k, n.to_bytes(4, "little")) for k, n in ((7, 1), (8, 2), (9, 3)))
    return memoryview(nested(DEST, inner[8:] + counts + inner[:8], statistics(Dest.STATS64)))


@calmly
@given(services(listens), destinations())
def test_the_quick_way_and_the_long_way_read_the_same(pair, destination):
    frontend, _ = pair
    quick = server_entry(usual_reply(destination_request(frontend, SERVER, destination)), FOUR)
    long = server_entry(server_reply(SERVER, destination, frontend), FOUR)
    assert quick[:5] == long[:5]
    assert (quick.counters, quick.rates) == (long.counters, long.rates)


def test_counters_and_rates_come_in_the_kernels_order():
    entry = server_entry(server_reply(SERVER, Destination()), Family.IPV4)
    assert entry.counters == Counters(*NUMBERS[:5])
    assert entry.rates == Rates(*NUMBERS[5:])
    assert (entry.active, entry.inactive, entry.persistent) == (1, 2, 3)


def test_a_kernel_without_families_of_servers_means_the_services_own():
    reply = server_reply(SERVER, Destination())
    kept = {k: v for k, v in attributes(attributes(reply)[DEST]).items() if k != Dest.ADDR_FAMILY}
    old = nested(DEST, *(attribute(kind, bytes(value)) for kind, value in kept.items()))
    assert server_entry(memoryview(old), Family.IPV4).endpoint == SERVER


@pytest.mark.parametrize("quick", [True, False])
def test_an_unknown_tunnel_is_garbled(quick):
    destination = Destination(1, Forwarding(Mode.TUN, Tunnel(Encapsulation.GRE)))
    request = destination_request(WEB, SERVER, destination)
    reply = bytes(usual_reply(request) if quick else server_reply(SERVER, destination))
    known, unknown = (attribute(Dest.TUN_TYPE, number) for number in (b"\2", b"\x63"))
    assert known in reply
    with pytest.raises(Garbled, match="tunnel type 99"):
        server_entry(memoryview(reply.replace(known, unknown)), FOUR)


def test_a_service_without_persistence_has_the_whole_client_as_mask():
    """IPv6 counts bits, in host order; a mask as in IPv4 would be EINVAL."""

    def mask(frontend):
        request = memoryview(service_request(frontend, VirtualService(Scheduler("rr"))))
        return bytes(attributes(attributes(request)[SERVICE])[Svc.NETMASK])

    assert mask(WEB) == b"\xff\xff\xff\xff"
    assert mask(Listen.parse("[2001:db8::1]:80/tcp")) == (128).to_bytes(4, "little")


def test_a_flag_that_a_scheduler_does_not_have_is_refused():
    service = VirtualService(Scheduler("rr", frozenset({"sh-port"})))
    with pytest.raises(ValueError, match="scheduler rr has no flag 'sh-port'"):
        service_request(WEB, service)


@calmly
@given(services(listens | marks), st.integers(0, 200))
def test_what_is_cut_off_is_garbled_and_nothing_worse(pair, length):
    reply = service_reply(*pair)
    try:
        entry = service_entry(reply[: min(length, len(reply) - 1)])
    except Garbled:
        return
    pytest.fail(f"read as {entry}")


@calmly
@given(st.binary(max_size=200))
def test_random_bytes_are_garbled_and_nothing_worse(data):
    for read in (service_entry, lambda body: server_entry(body, Family.IPV4)):
        with pytest.raises(Garbled):
            read(memoryview(data))


@pytest.mark.parametrize(
    "daemon",
    [
        SyncDaemon(SyncRole.MASTER, "eth1", 7),
        SyncDaemon(SyncRole.BACKUP, "eth1", 7, 1400, WEB.address, 8849, 2),
        SyncDaemon(SyncRole.BACKUP, "eth1", 0, group=Endpoint.parse("[2001:db8::1]:1").address),
    ],
)
def test_sync_daemons_are_read_back_as_written(daemon):
    assert sync_daemon(memoryview(sync_request(daemon))) == daemon


def test_timeouts_are_read_back_as_written():
    assert timeouts_of(memoryview(timeouts_request(Timeouts(1, 2, 3)))) == Timeouts(1, 2, 3)


def test_the_version_is_dotted():
    body = attribute(1, (0x010201).to_bytes(4, "little")) + attribute(2, b"\0\x10\0\0")
    info = info_of(memoryview(body))
    assert (info.version, info.size) == ("1.2.1", 4096)


def test_pyroute2_reads_our_messages_as_we_mean_them():
    """The codec's own reader could share its writer's mistakes; another's does not."""
    ipvs = pytest.importorskip("pyroute2.netlink.generic.ipvs")
    service = VirtualService(
        Scheduler("sh", frozenset({"sh-port"})), {}, Persistence(600, 24, "sip")
    )
    tunnel = Tunnel(Encapsulation.GUE, 6080, frozenset({"csum"}))
    destination = Destination(5, Forwarding(Mode.TUN, tunnel), 90, 30)
    body = service_request(WEB, service) + bytes(
        nested(
            DEST, bytes(attributes(memoryview(destination_request(WEB, SERVER, destination)))[DEST])
        )
    )
    whole = (20 + len(body)).to_bytes(4, "little") + bytes(12) + b"\1\1\0\0" + body
    message = ipvs.ipvsmsg(whole)
    message.decode()
    found = message.get_attr("IPVS_CMD_ATTR_SERVICE")
    assert found.get_attr("IPVS_SVC_ATTR_SCHED_NAME") == "sh"
    assert found.get_attr("IPVS_SVC_ATTR_PE_NAME") == "sip"
    assert found.get_attr("IPVS_SVC_ATTR_PORT") == 80
    assert found.get_attr("IPVS_SVC_ATTR_TIMEOUT") == 600
    assert found.get_attr("IPVS_SVC_ATTR_NETMASK") == "255.255.255.0"
    assert found.get_attr("IPVS_SVC_ATTR_FLAGS")["flags"] == 0x1 | 0x10
    server = message.get_attr("IPVS_CMD_ATTR_DEST")
    assert server.get_attr("IPVS_DEST_ATTR_PORT") == 8080
    assert server.get_attr("IPVS_DEST_ATTR_WEIGHT") == 5
    assert server.get_attr("IPVS_DEST_ATTR_FWD_METHOD") == 2
    assert server.get_attr("IPVS_DEST_ATTR_U_THRESH") == 90
    assert server.get_attr("IPVS_DEST_ATTR_L_THRESH") == 30
    assert server.get_attr("IPVS_DEST_ATTR_TUN_TYPE") == 1
