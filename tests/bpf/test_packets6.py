"""The packet cases of IPv6: packet in, verdict, whole packet out."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw, raw

from lbctl.dataplane.converge import converge
from lbctl.model import Gateway, Listen, Table
from tests.bpf.gateway import (
    BACK_MAC,
    CLIENT6,
    CLIENT_MAC,
    FRONT_MAC,
    SERVER_MAC,
    PacketGateway,
)
from tests.bpf.test_packets import Case, check, forward, reply, returned, service, tcp

pytestmark = pytest.mark.kernel

VIP = "2001:db8::10"
TABLE = Table(
    {
        Listen.parse(f"[{VIP}]:80/tcp"): service("mh", "[2001:db8:1::11]:8080"),
        Listen.parse(f"[{VIP}]:53/udp"): service("mh", "[2001:db8:1::12]:5353"),
        Listen.parse("[2001:db8::11]:80/tcp"): service(
            "rr", "[2001:db8:1::13]:80", "[2001:db8:1::14]:80"
        ),
        Listen.parse("[2001:db8::12]:80/tcp"): service("sh", "[2001:db8:1::11]:8080"),
        Listen.parse("[2001:db8::13]:80/tcp"): service("mh"),
    }
)


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    settings = Gateway("front", ("back",), direct=(ip_network("2001:db8:2::/48"),))
    gateway = PacketGateway(settings, shared_pins)
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


def client(dst: str = VIP, mac: str = FRONT_MAC, **ip: object) -> Packet:
    return Ether(src=CLIENT_MAC, dst=mac) / IPv6(**{"src": CLIENT6, "dst": dst, **ip})


def server(n: int, dst: str = CLIENT6, **ip: object) -> Packet:
    frame = Ether(src=SERVER_MAC.format(n), dst=BACK_MAC)
    return frame / IPv6(src=f"2001:db8:1::{n}", dst=dst, **ip)


def to_server(n: int, **ip: object) -> Packet:
    frame = Ether(src=BACK_MAC, dst=SERVER_MAC.format(n))
    return frame / IPv6(**{"src": CLIENT6, "dst": f"2001:db8:1::{n}", "hlim": 63, **ip})


def to_client(**ip: object) -> Packet:
    frame = Ether(src=FRONT_MAC, dst=CLIENT_MAC)
    return frame / IPv6(**{"src": VIP, "dst": CLIENT6, "hlim": 63, **ip})


def seg(port: int, flags: str = "A", data: bytes = b"") -> Packet:
    segment = tcp(flags, data)
    segment.dport = port
    return segment


def answer(sport: int, flags: str = "A", data: bytes = b"") -> Packet:
    return reply(flags, sport, data)


OPTIONS = IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt()

CASES = [
    forward("syn", client() / seg(80, "S"), to_server(11) / seg(8080, "S")),
    forward("ack", client() / seg(80), to_server(11) / seg(8080)),
    forward("data", client() / seg(80, "PA", b"abc"), to_server(11) / seg(8080, "PA", b"abc")),
    forward("fin", client() / seg(80, "FA"), to_server(11) / seg(8080, "FA")),
    forward("rst", client() / seg(80, "R"), to_server(11) / seg(8080, "R")),
    forward(
        "full frame",
        client() / seg(80, "A", b"z" * 1440),
        to_server(11) / seg(8080, "A", b"z" * 1440),
    ),
    forward(
        "class and flow label",
        client(tc=0x2E, fl=0x12345) / seg(80),
        to_server(11, tc=0x2E, fl=0x12345) / seg(8080),
    ),
    forward("hop limit 2", client(hlim=2) / seg(80), to_server(11, hlim=1) / seg(8080)),
    forward("hop limit 255", client(hlim=255) / seg(80), to_server(11, hlim=254) / seg(8080)),
    forward(
        "hop-by-hop options",
        client() / IPv6ExtHdrHopByHop() / seg(80),
        to_server(11) / IPv6ExtHdrHopByHop() / seg(8080),
    ),
    forward(
        "three extension headers", client() / OPTIONS / seg(80), to_server(11) / OPTIONS / seg(8080)
    ),
    forward(
        "udp",
        client() / UDP(sport=4, dport=53) / b"query",
        to_server(12) / UDP(sport=4, dport=5353) / b"query",
    ),
    forward(
        "udp, empty", client() / UDP(sport=4, dport=53), to_server(12) / UDP(sport=4, dport=5353)
    ),
    returned("reply", server(11) / answer(8080, "SA"), to_client() / answer(80, "SA")),
    returned(
        "reply data",
        server(11) / answer(8080, "PA", b"hello"),
        to_client() / answer(80, "PA", b"hello"),
    ),
    returned(
        "udp reply",
        server(12) / UDP(sport=5353, dport=4) / b"yes",
        to_client() / UDP(sport=53, dport=4) / b"yes",
    ),
    returned(
        "reply with options",
        server(11) / OPTIONS / answer(8080),
        to_client() / OPTIONS / answer(80),
    ),
    Case("another port of a VIP", client() / seg(81, "S"), "pass_other"),
    Case("another address", client("2001:db8::99") / seg(80, "S"), "pass_other"),
    Case(
        "an address that differs in its first word", client("3001:db8::10") / seg(80), "pass_other"
    ),
    Case("udp to a tcp listen", client() / UDP(sport=1, dport=80), "pass_other"),
    Case("another port of a server", server(11) / answer(22), "pass_other", interface="back"),
    Case("echo to a VIP", client() / ICMPv6EchoRequest(), "pass_icmp"),
    Case("another machine's mac", client(mac="02:00:00:00:00:99") / seg(80), "pass_foreign_mac"),
    Case(
        "to the gateway", server(11, "2001:db8:1::fe") / answer(8080), "pass_own", interface="back"
    ),
    Case(
        "to a direct prefix",
        server(11, "2001:db8:2::9") / answer(8080),
        "pass_direct",
        interface="back",
    ),
    Case("cut in the header", raw(client() / seg(80))[: 14 + 39], "pass_malformed"),
    Case("version 4 in an IPv6 frame", client(version=4) / seg(80), "pass_malformed"),
    Case(
        "fragment without its first",
        client() / IPv6ExtHdrFragment(offset=9, nh=6) / Raw(b"tail of something"),
        "drop_frag_no_first",
    ),
    Case(
        "fragment over the tcp header (RFC 1858)",
        client() / IPv6ExtHdrFragment(offset=1, nh=6) / Raw(b"tail of something"),
        "drop_fragment",
    ),
    Case(
        "fragment to elsewhere",
        client("2001:db8::99") / IPv6ExtHdrFragment(offset=9, nh=6) / Raw(b"tail"),
        "pass_other",
    ),
    Case(
        "fragment of a ping",
        client() / IPv6ExtHdrFragment(offset=9, nh=58) / Raw(b"tail"),
        "pass_icmp",
    ),
    Case(
        "fragment header cut",
        client(nh=44) / Raw(b"\x06\0\0"),
        "drop_truncated",
    ),
    forward(
        "a datagram that is its only fragment (RFC 6946)",
        client() / IPv6ExtHdrFragment(id=5) / seg(80),
        to_server(11) / IPv6ExtHdrFragment(id=5) / seg(8080),
    ),
    Case("longer than the frame", client(plen=2000) / seg(80), "drop_truncated"),
    Case("tcp header cut", client(nh=6) / Raw(raw(seg(80))[:19]), "drop_truncated"),
    Case("udp header cut", client(nh=17) / Raw(b"\0" * 7), "drop_truncated"),
    Case("length within the tcp header", client(plen=12) / seg(80), "drop_truncated"),
    Case(
        "an extension beyond the frame",
        client(nh=0) / Raw(b"\x06\xff" + b"\0" * 30),
        "drop_truncated",
    ),
    Case(
        "five extension headers",
        client() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / OPTIONS / seg(80),
        "drop_truncated",
    ),
    Case(
        "udp that claims to be from the listen itself",
        client(src=VIP) / UDP(sport=53, dport=53),
        "drop_martian",
    ),
    Case("hop limit 1", client(hlim=1) / seg(80), "drop_ttl"),
    Case("reply with hop limit 1", server(11, hlim=1) / answer(8080), "drop_ttl", interface="back"),
    Case("no servers", client("2001:db8::13") / seg(80, "S"), "drop_no_server"),
    Case("larger than the way out", client() / seg(80, "A", b"z" * 1441), "drop_too_big"),
    Case(
        "no neighbour",
        server(11, "2001:db8::77") / answer(8080),
        "drop_no_neighbour",
        interface="back",
    ),
    Case(
        "no route", server(11, "2001:db8:ffff::1") / answer(8080), "drop_no_route", interface="back"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_packet(gateway: PacketGateway, case: Case) -> None:
    check(gateway, case)


def test_round_robin_remembers(gateway: PacketGateway) -> None:
    def send(port: int, flags: str, seq: int) -> str:
        segment = TCP(sport=port, dport=80, flags=flags, seq=seq)
        seen = gateway.send(client("2001:db8::11") / segment)
        assert seen.verdict == "forward"
        return str(seen.packet[IPv6].dst)

    first = [send(port, "S", 0) for port in range(41000, 41020)]
    assert first.count("2001:db8:1::13") == 10
    assert [send(port, "A", 1) for port in range(41000, 41020)] == first


def test_replies_of_a_shared_server(gateway: PacketGateway) -> None:
    gateway.send(client("2001:db8::12") / TCP(sport=42001, dport=80, flags="S"))
    packet = server(11) / TCP(sport=8080, dport=42001, flags="SA")
    assert gateway.send(packet, "back").packet[IPv6].src == "2001:db8::12"
