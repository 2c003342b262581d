"""What `lbctl ipvsadm` prints, beside the real ipvsadm on the same table."""

import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbctl.cli.ipvsadm import listing
from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.codec import SyncDaemon, SyncRole
from lbctl.dataplane.ipvs.view import view
from lbctl.lab.waiting import eventually
from lbctl.model import Destination, Endpoint, Listen, Scheduler, Table, VirtualService
from tests.vm.random_table import random_table

pytestmark = pytest.mark.ipvs


def real(*arguments):
    """The real one's lines."""
    done = subprocess.run(["ipvsadm", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def seen(plane):
    """What the daemon answers to `lbctl ipvsadm`."""
    return view(plane.listing(), plane.info(), plane.timeouts(), plane.sync_daemons())


@pytest.mark.parametrize("seed", [1, 2])
def test_saving_and_listing_are_the_same_byte_for_byte(plane, seed):
    assert converge(plane, random_table(seed, 200)).refused == ()
    answer = seen(plane)
    assert list(listing.save(answer)) == real("-Sn")
    assert list(listing.show(answer)) == real("-Ln")


def test_the_other_listings_too(plane):
    assert converge(plane, random_table(3, 40)).refused == ()
    answer = seen(plane)
    for kind in ("stats", "rate", "thresholds", "persistent-conn"):
        assert list(listing.show(answer, kind)) == real("-Ln", f"--{kind}"), kind
        assert list(listing.show(answer, kind, exact=True)) == real("-Ln", f"--{kind}", "--exact")
    assert list(listing.show(answer, ordered=False)) == real("-Ln", "--nosort")
    assert [listing.timeouts(answer)] == real("-L", "--timeout")
    assert list(listing.connections(["Pro"])) == real("-Lcn")
    engines = list(listing.connections(["Pro"], engines=True))
    assert engines == real("-Lcn", "--persistent-conn")


HERE = ("192.0.2.10/32", "198.51.100.1/32", "2001:db8::10/128", "2001:db8:1::1/128")


@pytest.fixture
def flows(plane):
    """Connections through the table, on this machine alone: open, closing, and UDP's."""
    for address in HERE:
        subprocess.run(["ip", "addr", "add", address, "dev", "lo"], check=True)
    pairs = [
        ("192.0.2.10:80/tcp", "198.51.100.1:8080"),
        ("[2001:db8::10]:80/tcp", "[2001:db8:1::1]:8080"),
        ("192.0.2.10:53/udp", "198.51.100.1:8053"),
    ]
    table = Table(
        {
            Listen.parse(listen): VirtualService(
                Scheduler("rr"), {Endpoint.parse(server): Destination(1)}
            )
            for listen, server in pairs
        }
    )
    assert converge(plane, table).refused == ()
    with ExitStack() as stack:
        for family, address, vip in (
            (socket.AF_INET, "198.51.100.1", "192.0.2.10"),
            (socket.AF_INET6, "2001:db8:1::1", "2001:db8::10"),
        ):
            stack.enter_context(socket.create_server((address, 8080), family=family))
            for _ in range(3):
                client = stack.enter_context(socket.create_connection((vip, 80), 20))
                client.sendall(b"some bytes")
            client.shutdown(socket.SHUT_WR)
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagram.sendto(b"a question", ("192.0.2.10", 53))
        yield plane


def test_connections_and_what_they_count_are_shown_as_the_real_one_does(flows):
    """Each is read until both were read between two ticks of the kernel's clocks."""

    def connections():
        lines = Path("/proc/thread-self/net/ip_vs_conn").read_text().splitlines()
        shown = list(listing.connections(lines))
        assert len(shown) == 2 + 7
        assert shown == real("-Lcn")
        return True

    def counted(kind):
        answer = seen(flows)
        assert sum(one["counters"][0] for one in answer["services"]) == 7
        assert list(listing.show(answer, kind)) == real("-Ln", *([f"--{kind}"] if kind else []))
        return True

    eventually(connections, 30)
    for kind in ("", "stats", "rate", "persistent-conn"):
        eventually(lambda kind=kind: counted(kind), 30)


def test_the_sync_daemon_is_shown_as_the_real_one_does(plane):
    for command in ("link add d0 type dummy", "addr add 198.18.0.1/24 dev d0", "link set d0 up"):
        subprocess.run(["ip", *command.split()], check=True)
    assert list(listing.daemons(seen(plane))) == real("-L", "--daemon") == []
    for role in SyncRole:
        plane.start_sync(SyncDaemon(role, "d0", 7))
        assert list(listing.daemons(seen(plane))) == real("-L", "--daemon")
    assert len(real("-L", "--daemon")) == 2
    for role in SyncRole:
        plane.stop_sync(role)


def test_what_is_saved_can_be_restored_by_the_real_one(plane):
    """But for marks above 2^31, which ipvsadm prints as negative and does not read, a third
    flag of `sh` and `mh`, which it prints as nothing, and servers of `-g` and `-i`, which
    it gives the port of the service."""
    assert converge(plane, random_table(4, 40)).refused == ()
    lines = [line for line in listing.save(seen(plane)) if restorable(line)]
    real("-C")
    services = {line.split()[2] for line in lines if line.startswith("-A")}
    lines = [line for line in lines if line.split()[2] in services]
    script = "\n".join(lines) + "\n"
    subprocess.run(["ipvsadm", "-R"], input=script, text=True, check=True)
    assert set(real("-Sn")) == set(lines)


def restorable(line):
    if " -f -" in line or line.endswith("-b "):
        return False
    return line.startswith("-A") or " -m " in line
