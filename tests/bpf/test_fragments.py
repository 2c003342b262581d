"""Datagrams in pieces: what comes out, put together again, is the translated whole."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP, defragment, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
    defragment6,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw, raw

from lbctl.dataplane.converge import converge
from lbctl.model import Gateway, Listen, Table
from tests.bpf import test_packets as four
from tests.bpf import test_packets6 as six
from tests.bpf.gateway import PacketGateway, Seen
from tests.bpf.test_packets import service

pytestmark = pytest.mark.kernel

DATA = bytes(range(256)) * 12
TABLE = Table(
    {
        Listen.parse(four.DNS): service("mh", "198.51.100.12:5353"),
        Listen.parse(four.WEB): service("rr", "198.51.100.11:8080"),
        Listen.parse(f"[{six.VIP}]:53/udp"): service("mh", "[2001:db8:1::12]:5353"),
    }
)


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    settings = Gateway("front", ("back",), direct=(ip_network("203.0.113.0/24"),))
    gateway = PacketGateway(settings, shared_pins)
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


def pieces4(packet: Packet) -> list[Packet]:
    return [Ether(raw(one)) for one in fragment(packet, fragsize=1000)]


def pieces6(head: Packet, rest: Packet, number: int) -> list[Packet]:
    whole = (head / IPv6ExtHdrFragment(id=number) / rest)[IPv6]
    ether = head.copy()
    ether.remove_payload()
    return [Ether(raw(ether / one)) for one in fragment6(IPv6(raw(whole)), 1000)]


def send_all(gateway: PacketGateway, pieces: list[Packet], interface: str, verdict: str) -> Packet:
    """What comes out, put together."""
    seen = [gateway.send(one, interface) for one in pieces]
    assert {one.verdict for one in seen} == {verdict}
    if IP in pieces[0]:
        (whole,) = defragment([one.packet for one in seen])
        return whole
    return defragment6([one.packet[IPv6] for one in seen])


def test_ipv4_to_the_server(gateway: PacketGateway) -> None:
    sent = four.client(id=501) / UDP(sport=4, dport=53) / DATA
    wanted = Ether(raw(four.to_server(12, id=501) / UDP(sport=4, dport=5353) / DATA))
    got = send_all(gateway, pieces4(sent), "front", "forward")
    assert raw(got[IP].payload) == raw(wanted[IP].payload)
    assert (got[IP].src, got[IP].dst, got[IP].ttl) == (wanted[IP].src, wanted[IP].dst, 63)


def test_each_ipv4_piece_has_a_right_header(gateway: PacketGateway) -> None:
    for piece in pieces4(four.client(id=502) / UDP(sport=4, dport=53) / DATA):
        out = gateway.send(piece).packet
        again = out.copy()
        del again[IP].chksum
        assert raw(again) == raw(out)
        assert (out.dst, out.src) == (four.SERVER_MAC.format(12), four.BACK_MAC)


def test_ipv4_to_the_client(gateway: PacketGateway) -> None:
    sent = four.server("198.51.100.12", id=503) / UDP(sport=5353, dport=4) / DATA
    wanted = Ether(raw(four.to_client(id=503) / UDP(sport=53, dport=4) / DATA))
    got = send_all(gateway, pieces4(sent), "back", "return")
    assert raw(got[IP].payload) == raw(wanted[IP].payload)
    assert got[IP].src == "192.0.2.10"


def test_tcp_in_pieces_follows_its_flow(gateway: PacketGateway) -> None:
    segment = TCP(sport=5, dport=80, flags="PA", seq=1) / DATA
    wanted = four.to_server(11, id=504) / TCP(sport=5, dport=8080, flags="PA", seq=1) / DATA
    got = send_all(gateway, pieces4(four.client(id=504) / segment), "front", "forward")
    assert raw(got[IP].payload) == raw(Ether(raw(wanted))[IP].payload)


def test_ipv6_to_the_server(gateway: PacketGateway) -> None:
    pieces = pieces6(six.client(), UDP(sport=4, dport=53) / DATA, 601)
    assert len(pieces) > 2
    got = send_all(gateway, pieces, "front", "forward")
    wanted = IPv6(raw((six.to_server(12) / UDP(sport=4, dport=5353) / DATA)[IPv6]))
    assert raw(got.payload) == raw(wanted.payload)
    assert got.dst == "2001:db8:1::12"


def test_ipv6_to_the_client(gateway: PacketGateway) -> None:
    pieces = pieces6(six.server(12), UDP(sport=5353, dport=4) / DATA, 602)
    got = send_all(gateway, pieces, "back", "return")
    wanted = IPv6(raw((six.to_client() / UDP(sport=53, dport=4) / DATA)[IPv6]))
    assert raw(got.payload) == raw(wanted.payload)
    assert got.src == six.VIP


def test_ipv6_pieces_of_what_begins_with_another_header(gateway: PacketGateway) -> None:
    """The fragments' own headers name that one, and no transport (RFC 8200, section 4.5)."""
    rest = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / UDP(sport=4, dport=53) / DATA
    pieces = pieces6(six.client(), rest, 603)
    assert {one[IPv6ExtHdrFragment].nh for one in pieces} == {60}
    seen = [gateway.send(one) for one in pieces]
    assert verdicts(seen) == ["forward"] * len(pieces)
    assert {one.packet[IPv6].dst for one in seen} == {"2001:db8:1::12"}
    lone = pieces6(six.client(), rest, 604)[1]
    assert gateway.send(lone).verdict == "drop_frag_no_first"


def verdicts(seen: list[Seen]) -> list[str]:
    return [one.verdict for one in seen]


def test_what_comes_before_its_first_is_dropped(gateway: PacketGateway) -> None:
    first, *rest = pieces4(four.client(id=505) / UDP(sport=4, dport=53) / DATA)
    seen = [gateway.send(one) for one in (rest[0], first, rest[1])]
    assert verdicts(seen) == ["drop_frag_no_first", "forward", "forward"]


def test_another_datagrams_pieces_do_not_follow(gateway: PacketGateway) -> None:
    first, *_ = pieces4(four.client(id=506) / UDP(sport=4, dport=53) / DATA)
    _, later, *_ = pieces4(four.client(id=507) / UDP(sport=4, dport=53) / DATA)
    assert verdicts([gateway.send(first), gateway.send(later)]) == ["forward", "drop_frag_no_first"]


@pytest.mark.parametrize(
    ("source", "dest", "port", "first"),
    [
        ("198.51.100.12", "198.51.100.1", 5353, "pass_own"),
        ("198.51.100.12", "203.0.113.9", 5353, "pass_direct"),
        ("198.51.100.12", four.CLIENT, 9999, "pass_other"),
    ],
)
def test_a_servers_own_datagram_passes_whole(
    gateway: PacketGateway, source: str, dest: str, port: int, first: str
) -> None:
    pieces = pieces4(four.server(source, dest, id=508) / UDP(sport=port, dport=4) / DATA)
    seen = [gateway.send(one, "back") for one in pieces]
    assert seen[0].verdict == first
    assert {one.verdict.partition("_")[0] for one in seen} == {"pass"}


def test_a_first_fragment_that_hides_the_ports_is_dropped(gateway: PacketGateway) -> None:
    tiny = four.client(flags="MF", proto=6, id=509) / Raw(b"\0" * 8)
    assert gateway.send(tiny).verdict == "drop_truncated"


def test_a_fragment_with_hop_limit_1_is_dropped(gateway: PacketGateway) -> None:
    first, later, *_ = pieces4(four.client(id=510) / UDP(sport=4, dport=53) / DATA)
    gateway.send(first)
    later.ttl = 1
    del later[IP].chksum
    assert gateway.send(later).verdict == "drop_ttl"


def test_overlapping_pieces_are_the_receivers_to_judge(gateway: PacketGateway) -> None:
    first, later, *_ = pieces4(four.client(id=511) / UDP(sport=4, dport=53) / DATA)
    later.frag -= 5
    del later[IP].chksum
    assert verdicts([gateway.send(first), gateway.send(later)]) == ["forward", "forward"]


def test_pieces_are_forgotten(gateway: PacketGateway) -> None:
    first, later, *_ = pieces4(four.client(id=512) / UDP(sport=4, dport=53) / DATA)
    gateway.send(first)
    gateway.plane._maps.gateway.tick_ahead += 60
    assert gateway.send(later).verdict == "drop_frag_no_first"
