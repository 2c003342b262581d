"""Servers that several listens reach: whose a reply is, and for how long that is known."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.model import Gateway, Listen, Table
from tests.bpf.gateway import PacketGateway, Seen
from tests.bpf.test_packets import client, server, service

pytestmark = pytest.mark.kernel

OLDER, WEB, TURNS = "192.0.2.10", "192.0.2.11", "192.0.2.12"
SERVER = "198.51.100.11"
TABLE = Table(
    {
        Listen.parse(f"{OLDER}:80/tcp"): service("mh", f"{SERVER}:8080"),
        Listen.parse(f"{WEB}:80/tcp"): service("mh", f"{SERVER}:8080"),
        Listen.parse(f"{TURNS}:80/tcp"): service("rr", "198.51.100.12:80"),
        Listen.parse(f"{OLDER}:53/udp"): service("mh", f"{SERVER}:53"),
        Listen.parse(f"{WEB}:53/udp"): service("mh", f"{SERVER}:53"),
    }
)
ISN = 4_000_000_000
MOMENT = 3  # ticks: 12 s


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    """With 1,280 places for all that is remembered."""
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=1280), pins)
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


def sent(gateway: PacketGateway, port: int, flags: str, seq: int, to: str = WEB) -> Seen:
    return gateway.send(client(to) / TCP(sport=port, dport=80, flags=flags, seq=seq))


def answered_as(gateway: PacketGateway, port: int, flags: str) -> str:
    """The address that a client sees the server's packet come from."""
    packet = server(SERVER) / TCP(sport=8080, dport=port, flags=flags, seq=7, ack=9)
    return str(gateway.send(packet, "back").packet[IP].src)


def pass_time(gateway: PacketGateway, ticks: int) -> None:
    gateway.plane._maps.gateway.tick_ahead += ticks
    gateway.plane.tend()


def connect(gateway: PacketGateway, port: int) -> None:
    assert sent(gateway, port, "S", ISN).verdict == "forward"
    assert answered_as(gateway, port, "SA") == WEB
    assert sent(gateway, port, "A", ISN + 1).verdict == "forward"


def flood(gateway: PacketGateway, count: int, to: str = WEB) -> Counter[str]:
    """SYNs of which nothing more is heard."""
    ports = range(20000, 20000 + count)
    return Counter(sent(gateway, port, "S", port, to).verdict for port in ports)


def flood_of_syns_for_others(gateway: PacketGateway) -> FlowState:
    """To a listen whose scheduler remembers each."""
    assert flood(gateway, 4000, TURNS)["forward"] == 4000
    return FlowState.EMBRYONIC


def flood_of_fragments(gateway: PacketGateway) -> FlowState:
    """First ones that pass, of which nothing more is heard either."""
    for number in range(4000):
        first = client(OLDER)
        first[IP].id, first[IP].flags = number, "MF"
        assert gateway.send(first / UDP(sport=7, dport=9)).verdict == "pass_other"
    return FlowState.FRAGMENT


def states(gateway: PacketGateway) -> Counter[FlowState]:
    return Counter(way.state for way in gateway.plane._flows)


def test_a_connection_whose_client_was_heard_is_known_for_as_long_as_it_may_idle(
    gateway: PacketGateway,
) -> None:
    connect(gateway, 5001)
    pass_time(gateway, 200)
    assert answered_as(gateway, 5001, "PA") == WEB


def test_so_is_one_whose_server_speaks(gateway: PacketGateway) -> None:
    """As with Fast Open, or where the client's first packet was overtaken."""
    sent(gateway, 5001, "S", ISN)
    assert answered_as(gateway, 5001, "A") == WEB
    pass_time(gateway, 200)
    assert answered_as(gateway, 5001, "PA") == WEB


@pytest.mark.parametrize(
    ("from_client", "from_server"),
    [("", "SA"), ("", "RA"), ("A", ""), ("R", ""), ("S", "SA")],
    ids=["SYN-ACK", "RST", "another's ACK", "another's RST", "another's SYN"],
)
def test_nothing_else_makes_one_of_a_syn(
    gateway: PacketGateway, from_client: str, from_server: str
) -> None:
    sent(gateway, 5001, "S", ISN)
    if from_client:
        sent(gateway, 5001, from_client, ISN - 77)
    if from_server:
        assert answered_as(gateway, 5001, from_server) == WEB
    pass_time(gateway, MOMENT)
    assert states(gateway)[FlowState.RETURN_NEW] == states(gateway)[FlowState.RETURN] == 0
    assert answered_as(gateway, 5001, "SA") == OLDER


def test_a_syn_that_is_sent_again_is_noted_anew(gateway: PacketGateway) -> None:
    for _ in range(4):
        sent(gateway, 5001, "S", ISN)
        pass_time(gateway, 1)
    assert answered_as(gateway, 5001, "SA") == WEB


def test_a_port_that_is_used_again_belongs_to_who_is_asked_now(gateway: PacketGateway) -> None:
    connect(gateway, 5001)
    assert sent(gateway, 5001, "S", 7).verdict == "forward"
    assert answered_as(gateway, 5001, "SA") == WEB
    assert sent(gateway, 5001, "S", 7, to=OLDER).verdict == "forward"


def test_a_flood_of_syns_is_forgotten_in_seconds(gateway: PacketGateway) -> None:
    """And while it lasts it takes nobody's place."""
    for port in range(5000, 5020):
        connect(gateway, port)
    known = states(gateway)[FlowState.RETURN]
    seen = flood(gateway, 4000)
    assert states(gateway)[FlowState.RETURN_NEW] > 1200
    assert seen["drop_return_full"] < 150  # a quarter of those that meet a connection's set
    assert states(gateway)[FlowState.RETURN] == known == 20
    late = sum(sent(gateway, port, "S", ISN).verdict == "forward" for port in range(6000, 6100))
    assert late > 95
    pass_time(gateway, MOMENT)
    assert states(gateway) == Counter({FlowState.RETURN: 20})
    for port in range(7000, 7010):
        connect(gateway, port)
    for port in (5000, 5019, 7000, 7009):
        assert answered_as(gateway, port, "PA") == WEB
    sent(gateway, 8000, "S", ISN, to=TURNS)
    assert states(gateway)[FlowState.EMBRYONIC] == 1  # a scheduler with memory has room again


@pytest.mark.parametrize("pour", [flood_of_syns_for_others, flood_of_fragments])
def test_a_flood_of_something_else_starves_no_connection(
    gateway: PacketGateway, pour: Callable[[PacketGateway], FlowState]
) -> None:
    """They find room in its stead; what is more than a SYN keeps its place."""
    for port in range(5000, 5020):
        connect(gateway, port)
        sent(gateway, port, "S", ISN, to=TURNS)
        sent(gateway, port, "A", ISN + 1, to=TURNS)
    filling = pour(gateway)
    assert states(gateway)[filling] > 1150
    for port in range(6000, 6100):
        connect(gateway, port)
    found = states(gateway)
    assert found[FlowState.RETURN] == 120
    assert found[FlowState.ESTABLISHED] == 20
    assert found[filling] > 1050
    for port in range(5000, 5020):
        assert answered_as(gateway, port, "PA") == WEB


def test_a_datagrams_answer_is_its_listens(gateway: PacketGateway) -> None:
    gateway.send(client(WEB) / UDP(sport=5001, dport=53))
    pass_time(gateway, MOMENT)
    packet = server(SERVER) / UDP(sport=53, dport=5001)
    assert gateway.send(packet, "back").packet[IP].src == WEB
