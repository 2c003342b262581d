"""Random histories through the loaded program, the data path in memory and the model: every
verdict is compared, and no flow changes its server while that server lives."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.model import Gateway
from tests.bpf.gateway import PacketGateway
from tests.bpf.program_path import run, stand
from tests.histories.history import TROUBLES, Kind, Trouble
from tests.histories.stand import ACK, PLACES, SYN, TCP6_LISTEN, TCP_LISTEN, UDP_LISTEN, Packet

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def cramped(shared_pins: Path) -> Iterator[PacketGateway]:
    """With so few records that floods fill them all."""
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=1), shared_pins)
    yield gateway
    gateway.close()


KINDS = {
    **{f"mh, {name}": Kind(("mh",), trouble) for name, trouble in TROUBLES.items()},
    **{f"rr, {name}": Kind(("rr",), trouble) for name, trouble in TROUBLES.items()},
    **{f"sh, {name}": Kind(("sh",), trouble) for name, trouble in TROUBLES.items()},
    "wrr, flood": Kind(("wrr",), TROUBLES["flood"]),
    "mh, rr and wrr": Kind(("mh", "rr", "wrr")),
    "mh and rr, flood and forged": Kind(("mh", "rr"), TROUBLES["flood and forged"]),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_no_tcp_flow_leaves_a_server_that_lives(cramped: PacketGateway, kind: Kind) -> None:
    tally = run(cramped, TCP_LISTEN, kind, range(3), 600)
    assert tally.broken == tally.deaf == tally.handshakes == 0, tally
    assert tally.flows > 300
    assert tally.late > 10, "no change met a handshake"


@pytest.mark.parametrize("schedulers", [("mh",), ("mh", "rr", "wrr")], ids=" ".join)
def test_nor_over_ipv6(cramped: PacketGateway, schedulers: tuple[str, ...]) -> None:
    kind = Kind(schedulers, TROUBLES["flood and forged"])
    tally = run(cramped, TCP6_LISTEN, kind, range(3), 600)
    assert tally.broken == tally.deaf == tally.handshakes == 0, tally
    assert tally.flows > 300


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_thousand_histories(cramped: PacketGateway, kind: Kind) -> None:
    """A hundred of each kind."""
    tally = run(cramped, TCP_LISTEN, kind, range(1000, 1100), 400)
    print(tally)
    assert tally.broken == tally.deaf == tally.handshakes == 0, tally


def test_udp_agrees_where_records_are_few(cramped: PacketGateway) -> None:
    assert run(cramped, UDP_LISTEN, Kind(("mh", "rr"), Trouble(flood=2)), range(3), 600).flows


def test_a_draining_server_is_counted_by_its_slots(cramped: PacketGateway) -> None:
    one = stand(cramped, TCP_LISTEN)
    one.change({"s11": 1, "s12": 1}, "mh")
    clients = random.Random(7).sample(range(1024, 65536), 400)
    ports = [port for port in clients if one.packet(Packet(port, ACK, 1)) == "s11"]
    one.change({"s11": 0, "s12": 1})

    def active() -> int:
        one.sweep()
        number = cramped.plane.stats().active[TCP_LISTEN, PLACES["s11"]]
        assert number.source == "estimate"
        return number.after(quiet=60.0) or 0

    one.pass_time(100)
    assert active() == 0
    for port in ports:
        one.packet(Packet(port, ACK, 2))
    assert abs(active() - len(ports)) <= 0.15 * len(ports)
    one.pass_time(10)
    assert active() == 1  # quiet, but not for long enough
    one.pass_time(10)
    assert active() == 0


def test_a_draining_server_of_rr_is_counted_by_its_records(cramped: PacketGateway) -> None:
    one = stand(cramped, TCP_LISTEN)
    one.change({"s11": 1, "s12": 1}, "rr")
    ports = range(20000, 20010)
    first = {port: one.packet(Packet(port, SYN, 1)) for port in ports}
    assert {port: one.packet(Packet(port, ACK, 2)) for port in ports} == first
    one.change({"s11": 0, "s12": 1})

    def active() -> tuple[int | None, str]:
        one.sweep()
        found = cramped.plane.stats().active[TCP_LISTEN, PLACES["s11"]]
        return found.after(quiet=60.0), found.source

    assert active() == (5, "records")
    one.pass_time(200)
    stays = next(port for port, server in first.items() if server == "s11")
    assert one.packet(Packet(stays, ACK, 3)) == "s11"
    one.pass_time(100)
    assert active() == (1, "records")
    one.pass_time(200)
    assert active() == (0, "records")
