"""lc and wlc, and clients that stay with their server."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, raw

from lbctl.dataplane.converge import converge
from lbctl.dataplane.port import RingCopy
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.errors import Unsupported
from lbctl.model import (
    Destination,
    Endpoint,
    Gateway,
    Listen,
    Persistence,
    Scheduler,
    Table,
    VirtualService,
)
from tests.bpf import test_packets as four
from tests.bpf import test_packets6 as six
from tests.bpf.gateway import XDP_REDIRECT, PacketGateway

pytestmark = pytest.mark.kernel

VIP = "192.0.2.10"
WEB, DNS = Listen.parse(f"{VIP}:80/tcp"), Listen.parse(f"{VIP}:53/udp")
WEB6 = Listen.parse(f"[{six.VIP}]:80/tcp")
ONE, TWO, THREE = (Endpoint.parse(f"198.51.100.{n}:80") for n in (11, 12, 13))


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    yield gateway
    gateway.close()


def apply(
    gateway: PacketGateway,
    scheduler: str,
    weights: dict[Endpoint, int],
    persistence: Persistence | None = None,
    listen: Listen = WEB,
) -> None:
    destinations = {endpoint: Destination(weight) for endpoint, weight in weights.items()}
    service = VirtualService(Scheduler(scheduler), destinations, persistence)
    table = Table({listen: service})
    assert not converge(gateway.plane, table).refused
    assert gateway.plane.observe() == table


def tcp(
    gateway: PacketGateway, port: int, flags: str = "S", seq: int = 0, src: str = four.CLIENT
) -> Endpoint:
    segment = TCP(sport=port, dport=80, flags=flags, seq=seq)
    return Endpoint.parse(f"{run(gateway, four.client(VIP, src=src) / segment)[IP].dst}:80")


def run(gateway: PacketGateway, packet: Packet, interface: str = "front") -> Packet:
    """What leaves. (Asking for the verdict would sweep the flow cache after each packet.)"""
    with bpf.opened(gateway.pins / "lb") as program:
        done = bpf.run_program(program, raw(packet), ifindex=gateway.ifindex[interface])
    assert done.action == XDP_REDIRECT
    return Ether(done.data)


def connect(gateway: PacketGateway, port: int) -> Endpoint:
    server = tcp(gateway, port)
    assert tcp(gateway, port, "A", 1) == server
    return server


def opened(gateway: PacketGateway, ports: range) -> Counter[Endpoint]:
    return Counter(connect(gateway, port) for port in ports)


def load(gateway: PacketGateway, endpoint: Endpoint) -> int:
    registry = gateway.plane._registry
    return int(gateway.plane._maps.loads[registry.members[registry.listens[WEB]][endpoint]].open)


def test_lc_evens_out(gateway: PacketGateway) -> None:
    apply(gateway, "lc", {ONE: 1, TWO: 1})
    found = opened(gateway, range(1000, 1100))
    assert abs(found[ONE] - found[TWO]) <= 2
    assert load(gateway, ONE) + load(gateway, TWO) == 100


def test_lc_sends_new_flows_to_who_has_few(gateway: PacketGateway) -> None:
    apply(gateway, "lc", {ONE: 1})
    opened(gateway, range(1000, 1060))
    apply(gateway, "lc", {ONE: 1, TWO: 1})
    assert opened(gateway, range(2000, 2050))[TWO] == 50


def test_flows_that_end_lower_the_load(gateway: PacketGateway) -> None:
    apply(gateway, "lc", {ONE: 1})
    opened(gateway, range(1000, 1010))
    for port in range(1000, 1005):
        tcp(gateway, port, "R", 2)
        tcp(gateway, port, "R", 2)  # once only
    for port in range(1005, 1008):  # both sides close
        tcp(gateway, port, "FA", 2)
        answer = TCP(sport=80, dport=port, flags="FA")
        run(gateway, four.server("198.51.100.11") / answer, "back")
    assert load(gateway, ONE) == 2


def test_the_sweep_corrects_the_load(gateway: PacketGateway) -> None:
    """Flows that fall silent end nowhere: the sweep finds that they are gone."""
    apply(gateway, "lc", {ONE: 1, TWO: 1})
    opened(gateway, range(1000, 1020))
    gateway.plane._maps.gateway.tick_ahead += 1000
    connect(gateway, 3000)
    gateway.plane.tend()
    assert load(gateway, ONE) + load(gateway, TWO) == 1


def test_wlc_follows_weights(gateway: PacketGateway) -> None:
    apply(gateway, "wlc", {ONE: 3, TWO: 1})
    found = opened(gateway, range(1000, 1200))
    assert found[ONE] == pytest.approx(150, abs=8)


@pytest.mark.parametrize("scheduler", ["lc", "wlc"])
def test_a_draining_server_gets_nothing_new(gateway: PacketGateway, scheduler: str) -> None:
    apply(gateway, scheduler, {ONE: 1, TWO: 1})
    apply(gateway, scheduler, {ONE: 0, TWO: 1})
    assert opened(gateway, range(1000, 1020)) == {TWO: 20}


# --- persistence ------------------------------------------------------------------------

CLIENTS = [f"192.0.2.{n}" for n in range(110, 150)]


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "mh", "lc", "wlc", "sh"])
def test_a_client_stays(gateway: PacketGateway, scheduler: str) -> None:
    apply(gateway, scheduler, {ONE: 1, TWO: 1, THREE: 1}, Persistence(60))
    first = {src: tcp(gateway, 1000, src=src) for src in CLIENTS}
    assert len(set(first.values())) > 1
    for port in range(1001, 1006):
        assert {src: tcp(gateway, port, src=src) for src in CLIENTS} == first


def test_until_the_timeout(gateway: PacketGateway) -> None:
    apply(gateway, "rr", {ONE: 1, TWO: 1}, Persistence(60))
    first = tcp(gateway, 1000)
    gateway.plane._maps.gateway.tick_ahead += 10  # some 40 seconds
    assert tcp(gateway, 1001) == first  # and counts anew from here
    gateway.plane._maps.gateway.tick_ahead += 10
    assert tcp(gateway, 1002) == first
    gateway.plane._maps.gateway.tick_ahead += 20
    assert {tcp(gateway, port) for port in (1003,)} != {first}


def test_established_flows_outlive_it(gateway: PacketGateway) -> None:
    apply(gateway, "rr", {ONE: 1, TWO: 1}, Persistence(60))
    first = connect(gateway, 1000)
    gateway.plane._maps.gateway.tick_ahead += 40
    gateway.plane.tend()
    assert tcp(gateway, 1001) != first
    assert tcp(gateway, 1000, "A", 2) == first


def test_the_sweep_asks_each_listen_for_its_timeout(gateway: PacketGateway) -> None:
    apply(gateway, "rr", {ONE: 1, TWO: 1}, Persistence(600))
    first = tcp(gateway, 1000)
    gateway.plane._maps.gateway.tick_ahead += 100
    gateway.plane.tend()
    assert tcp(gateway, 1001) == first


def test_a_draining_or_dead_server_is_left(gateway: PacketGateway) -> None:
    apply(gateway, "rr", {ONE: 1, TWO: 1}, Persistence(60))
    first = tcp(gateway, 1000)
    other = TWO if first == ONE else ONE
    apply(gateway, "rr", {first: 0, other: 1}, Persistence(60))
    assert tcp(gateway, 1001) == other
    apply(gateway, "rr", {first: 1}, Persistence(60))
    assert tcp(gateway, 1002) == first


def test_a_prefix_is_one_client(gateway: PacketGateway) -> None:
    apply(gateway, "rr", {ONE: 1, TWO: 1}, Persistence(60, prefix=28))
    near = {tcp(gateway, 1000, src=f"192.0.2.{n}") for n in range(112, 128)}
    assert len(near) == 1
    assert tcp(gateway, 1000, src="192.0.2.128") not in near


def test_ipv6_prefix(gateway: PacketGateway) -> None:
    six_servers = {Endpoint.parse(f"[2001:db8:1::{n}]:80"): 1 for n in (11, 12)}
    apply(gateway, "rr", six_servers, Persistence(60, prefix=64), WEB6)

    def server(src: str) -> str:
        packet = six.client() / TCP(sport=random.randrange(1024, 65536), dport=80, flags="S")
        packet[IPv6].src = src
        return str(run(gateway, packet)[IPv6].dst)

    near = {server(f"2001:db8:7::{n:x}") for n in range(1, 20)}
    assert len(near) == 1
    assert server("2001:db8:8::1") not in near


def test_udp(gateway: PacketGateway) -> None:
    apply(gateway, "rr", {ONE: 1, TWO: 1}, Persistence(60), DNS)
    packets = [four.client(VIP) / UDP(sport=port, dport=53) for port in range(1000, 1010)]
    assert len({run(gateway, packet)[IP].dst for packet in packets}) == 1


@pytest.mark.parametrize("timeout", [0, 7201])
def test_a_timeout_that_cannot_be_kept(gateway: PacketGateway, timeout: int) -> None:
    service = VirtualService(Scheduler("rr"), {}, Persistence(timeout))
    (refusal,) = converge(gateway.plane, Table({WEB: service})).refused
    assert isinstance(refusal.error, Unsupported)
    assert "XDP keeps a client for 7200 s at most" in str(refusal.error)


@pytest.mark.parametrize("scheduler", ["rr", "sh"])
def test_a_servers_word_ends_a_flow_of_a_client_that_stays(
    gateway: PacketGateway, scheduler: str
) -> None:
    apply(gateway, scheduler, {ONE: 1, TWO: 1}, Persistence(600))
    server = connect(gateway, 1000)
    back = four.server(str(server.address)) / TCP(sport=80, dport=1000, flags="RA", seq=9, ack=9)
    run(gateway, back, "back")
    assert {way.state for way in gateway.plane._flows} == {FlowState.CLOSED, FlowState.CLIENT}


# --- rings --------------------------------------------------------------------------------


def ring(gateway: PacketGateway) -> list[int]:
    """How many slots each server has."""
    words, _, _ = gateway.plane._rings.read(gateway.plane._registry.listens[WEB])
    return sorted(Counter(words).values())


def test_a_ring_that_grows_moves_no_flow(gateway: PacketGateway) -> None:
    """With the twenty-first server."""
    servers = [Endpoint.parse(f"198.51.100.{n}:{p}") for p in (80, 81, 82) for n in range(11, 19)]
    ports = random.Random(5).sample(range(1024, 65536), 300)
    apply(gateway, "mh", dict.fromkeys(servers[:8], 1))
    before = {port: connect(gateway, port) for port in ports}
    for count, slots in ((20, 512), (21, 16384)):
        apply(gateway, "mh", dict.fromkeys(servers[:count], 1))
        found = ring(gateway)
        assert (sum(found), len(found)) == (slots, count)
        assert found[-1] - found[0] <= 1
        assert {port: tcp(gateway, port, "A", 2) for port in ports} == before
        gateway.plane.tend()


def test_packets_follow_a_peers_ring_that_is_larger(gateway: PacketGateway) -> None:
    apply(gateway, "mh", {ONE: 1, TWO: 1})
    assert {connect(gateway, port) for port in range(2000, 2030)} == {ONE, TWO}
    slots = 4 * abi.PAGE_SLOTS
    gateway.plane.import_ring(WEB, RingCopy((ONE, TWO), (2,) * slots, (0,) * slots, {}))
    gateway.plane.tend()  # the pages that it has left are free
    assert {connect(gateway, port) for port in range(2000, 2030)} == {TWO}


def test_a_ring_that_packets_were_not_told_of(gateway: PacketGateway) -> None:
    """Or of a memory: a process was killed after it wrote that to the listen's record. The pages
    that grew too small are free for the next."""
    apply(gateway, "mh", {ONE: 1})
    registry = gateway.plane._registry
    number, key = registry.listens[WEB], abi.key(WEB.address, WEB.port, 6)
    small = gateway.plane._maps.listens[number].ring
    apply(gateway, "mh", {Endpoint.parse(f"198.51.100.11:{p}"): 1 for p in range(80, 101)})
    registry.listen_index.put(key, number, small)
    again = gateway.reopen()
    way = again.plane._registry.listen_index.get(key)
    assert way is not None
    assert way.found == number | gateway.plane._maps.listens[number].ring << abi.WAY_RING_SHIFT
    again.close()
    apply(gateway, "rr", {ONE: 1})
    registry.listen_index.put(key, number, gateway.plane._maps.listens[number].ring)
    again = gateway.reopen()
    way = again.plane._registry.listen_index.get(key)
    assert way is not None
    assert way.flags == abi.LISTEN_MEMORY
    again.close()


def test_who_weighs_little_has_slots(gateway: PacketGateway) -> None:
    apply(gateway, "mh", {ONE: 1, TWO: 1000})
    light, heavy = ring(gateway)
    assert (light, light + heavy) == (1, 512)


# --- limits -------------------------------------------------------------------------------


def limit(gateway: PacketGateway, scheduler: str, **most: int) -> None:
    """Servers one, two, three with these limits; 0: none."""
    places = {"one": ONE, "two": TWO, "three": THREE}
    held = {places[name]: Destination(1, max_connections=n) for name, n in most.items()}
    table = Table({WEB: VirtualService(Scheduler(scheduler), held)})
    assert not converge(gateway.plane, table).refused
    assert gateway.plane.observe() == table


def verdict(gateway: PacketGateway, port: int) -> str:
    return gateway.send(four.client(VIP) / TCP(sport=port, dport=80, flags="S")).verdict


@pytest.mark.parametrize("scheduler", ["rr", "wrr", "lc", "wlc"])
def test_a_full_server_takes_no_more_flows(gateway: PacketGateway, scheduler: str) -> None:
    limit(gateway, scheduler, one=3, two=0)
    found = opened(gateway, range(30000, 30040))
    assert found == {ONE: 3, TWO: 37}


def test_where_all_are_full_a_new_flow_is_dropped_and_old_ones_go_on(
    gateway: PacketGateway,
) -> None:
    limit(gateway, "rr", one=2, two=2)
    before = {port: connect(gateway, port) for port in range(30000, 30004)}
    assert verdict(gateway, 30004) == "drop_all_full"
    for port, server in before.items():
        assert tcp(gateway, port, "A", 1) == server
    tcp(gateway, 30000, "R", 1)
    assert connect(gateway, 30005) == before[30000]
    assert verdict(gateway, 30006) == "drop_all_full"


def test_a_limit_that_is_raised_or_set_later_counts_what_is_there(gateway: PacketGateway) -> None:
    limit(gateway, "rr", one=0, two=0)
    assert opened(gateway, range(30000, 30010)) == {ONE: 5, TWO: 5}
    limit(gateway, "rr", one=5, two=0)
    gateway.plane.stats()
    assert opened(gateway, range(30010, 30020)) == {TWO: 10}
    limit(gateway, "rr", one=7, two=0)
    assert opened(gateway, range(30020, 30030))[ONE] == 2


def test_what_comes_and_goes_during_a_sweep_is_counted(
    gateway: PacketGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind it, where its program has been; the next sweep puts right what counts twice."""
    limit(gateway, "rr", one=5, two=0)
    opened(gateway, range(30000, 30004))
    flows, sweep = gateway.plane._flows, gateway.plane._flows.sweep

    def meanwhile(program: bpf.Descriptor) -> None:
        sweep(program)
        opened(gateway, range(30010, 30016))

    monkeypatch.setattr(flows, "sweep", meanwhile)
    gateway.plane.tend()
    assert load(gateway, ONE) == 5
    assert ONE not in opened(gateway, range(30020, 30030))
    monkeypatch.undo()
    gateway.plane.tend()
    assert load(gateway, ONE) == 5


def test_room_is_found_behind_a_heavy_server(gateway: PacketGateway) -> None:
    """wrr's sequence names it a hundred times for once that it names the other."""
    held = {ONE: Destination(100, max_connections=2), TWO: Destination(1)}
    assert not converge(gateway.plane, Table({WEB: VirtualService(Scheduler("wrr"), held)})).refused
    assert opened(gateway, range(30000, 30040)) == {ONE: 2, TWO: 38}
    gateway.plane.tend()
    assert opened(gateway, range(30100, 30140)) == {TWO: 40}
    tcp(gateway, 30000, "R", 2)
    gateway.plane.tend()
    assert opened(gateway, range(30200, 30220))[ONE] == 1


def test_a_process_that_starts_anew_gives_turns_to_who_has_room(gateway: PacketGateway) -> None:
    limit(gateway, "rr", one=1, two=0)
    opened(gateway, range(30000, 30002))
    gateway.plane.tend()
    tcp(gateway, 30000, "R", 2)
    tcp(gateway, 30001, "R", 2)
    again = gateway.reopen()
    again.plane.tend()
    assert opened(again, range(30010, 30014))[ONE] == 1
    again.close()


def test_a_client_that_stays_leaves_a_full_server(gateway: PacketGateway) -> None:
    held = {ONE: Destination(1, max_connections=2), TWO: Destination(1)}
    service = VirtualService(Scheduler("rr"), held, Persistence(60))
    assert not converge(gateway.plane, Table({WEB: service})).refused
    found = [connect(gateway, port) for port in range(30000, 30010)]
    assert found.count(ONE) <= 2
    assert len(set(found[4:])) == 1


def test_a_limit_and_its_scheduler_come_at_once(gateway: PacketGateway) -> None:
    apply(gateway, "mh", {ONE: 1, TWO: 1})
    limit(gateway, "lc", one=3, two=0)
    assert opened(gateway, range(30000, 30020))[ONE] == 3


@pytest.mark.parametrize("payload", [b"", b"at once"], ids=["full cache", "Fast Open"])
def test_what_is_not_remembered_does_not_go_to_a_full_server(pins: Path, payload: bytes) -> None:
    """The ring places it, and half of its slots are the full server's."""
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=1), pins)
    limit(gateway, "rr", one=1, two=0)
    for port in range(30000, 30004 if payload else 32000):
        with suppress(AssertionError):  # dropped: the cache is full
            connect(gateway, port)
    verdicts: Counter[str] = Counter()
    for port in range(40000, 40040):
        packet = four.client(VIP) / TCP(sport=port, dport=80, flags="S") / payload
        seen = gateway.send(packet)
        verdicts[seen.verdict] += 1
        assert seen.verdict == "drop_all_full" or seen.packet[IP].dst == "198.51.100.12"
    gateway.close()
    assert min(verdicts["drop_all_full"], verdicts["forward"]) > 5


def test_a_hash_keeps_no_limit(gateway: PacketGateway) -> None:
    table = Table({WEB: VirtualService(Scheduler("mh"), {ONE: Destination(1, max_connections=3)})})
    [error] = [one.error for one in converge(gateway.plane, table).refused]
    assert isinstance(error, Unsupported)
    assert "mh keeps no limit of connections" in str(error)
