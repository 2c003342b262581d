"""Packet in, verdict, whole packet out: the loaded program against scapy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw, raw

from lbctl.dataplane.converge import converge
from lbctl.lab import eventually
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from tests.bpf.gateway import (
    BACK_MAC,
    CLIENT,
    CLIENT_MAC,
    FRONT_MAC,
    SERVER_MAC,
    STRANGER,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    PacketGateway,
    Seen,
)

pytestmark = pytest.mark.kernel

WEB, DNS, RR = "192.0.2.10:80/tcp", "192.0.2.10:53/udp", "192.0.2.11:80/tcp"
SHARED, EMPTY = "192.0.2.12:80/tcp", "192.0.2.13:80/tcp"


def service(scheduler: str, *endpoints: str) -> VirtualService:
    destinations = {Endpoint.parse(text): Destination(1) for text in endpoints}
    return VirtualService(Scheduler(scheduler), destinations)


TABLE = Table(
    {
        Listen.parse(WEB): service("mh", "198.51.100.11:8080"),
        Listen.parse(DNS): service("mh", "198.51.100.12:5353"),
        Listen.parse(RR): service("rr", "198.51.100.13:80", "198.51.100.14:80"),
        Listen.parse(SHARED): service("mh", "198.51.100.11:8080"),
        Listen.parse(EMPTY): service("mh"),
    }
)


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    settings = Gateway("front", ("back",), direct=(ip_network("203.0.113.0/24"),))
    gateway = PacketGateway(settings, shared_pins)
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


def client(
    dst: str = "192.0.2.10", mac: str = FRONT_MAC, src: str = CLIENT, **ip: object
) -> Packet:
    return Ether(src=CLIENT_MAC, dst=mac) / IP(src=src, dst=dst, **ip)


def server(src: str, dst: str = CLIENT, **ip: object) -> Packet:
    mac = SERVER_MAC.format(int(src.rpartition(".")[2]))
    return Ether(src=mac, dst=BACK_MAC) / IP(src=src, dst=dst, **ip)


def to_server(n: int, **ip: object) -> Packet:
    """What leaves for server n: next hop, address, one hop less to live."""
    frame = Ether(src=BACK_MAC, dst=SERVER_MAC.format(n))
    return frame / IP(**{"src": CLIENT, "dst": f"198.51.100.{n}", "ttl": 63, **ip})


def to_client(src: str = "192.0.2.10", **ip: object) -> Packet:
    return Ether(src=FRONT_MAC, dst=CLIENT_MAC) / IP(**{"src": src, "dst": CLIENT, "ttl": 63, **ip})


def tcp(flags: str = "A", data: bytes = b"", **fields: object) -> Packet:
    return TCP(sport=40000, dport=80, flags=flags, seq=7, ack=9, **fields) / Raw(data)


def reply(flags: str = "A", sport: int = 8080, data: bytes = b"") -> Packet:
    return TCP(sport=sport, dport=40000, flags=flags, seq=7, ack=9) / Raw(data)


def at(packet: Packet, port: int) -> Packet:
    """The transport with another destination port."""
    packet.dport = port
    return packet


def cut(packet: Packet, length: int) -> bytes:
    return raw(packet)[:length]


def patched(packet: Packet, offset: int, value: bytes) -> bytes:
    frame = bytearray(raw(packet))
    frame[offset : offset + len(value)] = value
    return bytes(frame)


@dataclass
class Case:
    """out None: the packet leaves as it came."""

    name: str
    packet: Packet | bytes
    verdict: str
    out: Packet | bytes | None = None
    interface: str = "front"
    padding: bytes = field(default=b"")


OPTIONS = [IPOption_NOP(), IPOption_RR(pointer=4, routers=["0.0.0.0", "0.0.0.0"])]
BAD_TCP = 0x1234


def forward(name: str, packet: Packet, out: Packet) -> Case:
    return Case(name, packet, "forward", out)


def returned(name: str, packet: Packet, out: Packet) -> Case:
    return Case(name, packet, "return", out, "back")


CASES = [
    # client to server
    forward("syn", client() / tcp("S"), to_server(11) / at(tcp("S"), 8080)),
    forward("ack", client() / tcp("A"), to_server(11) / at(tcp("A"), 8080)),
    forward(
        "data", client() / tcp("PA", b"x" * 100), to_server(11) / at(tcp("PA", b"x" * 100), 8080)
    ),
    forward(
        "odd length", client() / tcp("PA", b"abc"), to_server(11) / at(tcp("PA", b"abc"), 8080)
    ),
    forward("fin", client() / tcp("FA"), to_server(11) / at(tcp("FA"), 8080)),
    forward("rst", client() / tcp("R"), to_server(11) / at(tcp("R"), 8080)),
    forward(
        "tcp options",
        client() / tcp("S", options=[("MSS", 1460), ("WScale", 7)]),
        to_server(11) / at(tcp("S", options=[("MSS", 1460), ("WScale", 7)]), 8080),
    ),
    forward(
        "ip options",
        client(options=OPTIONS) / tcp(),
        to_server(11, options=OPTIONS) / at(tcp(), 8080),
    ),
    forward(
        "tos and id",
        client(tos=0x2E, id=77, flags="DF") / tcp(),
        to_server(11, tos=0x2E, id=77, flags="DF") / at(tcp(), 8080),
    ),
    forward("ttl 2", client(ttl=2) / tcp(), to_server(11, ttl=1) / at(tcp(), 8080)),
    forward("ttl 255", client(ttl=255) / tcp(), to_server(11, ttl=254) / at(tcp(), 8080)),
    forward(
        "full frame",
        client() / tcp("A", b"z" * 1460),
        to_server(11) / at(tcp("A", b"z" * 1460), 8080),
    ),
    forward(
        "udp",
        client() / UDP(sport=40000, dport=53) / b"query",
        to_server(12) / UDP(sport=40000, dport=5353) / b"query",
    ),
    forward(
        "udp without checksum",
        client() / UDP(sport=40000, dport=53, chksum=0) / b"query",
        to_server(12) / UDP(sport=40000, dport=5353, chksum=0) / b"query",
    ),
    forward(
        "udp, empty",
        client() / UDP(sport=40000, dport=53),
        to_server(12) / UDP(sport=40000, dport=5353),
    ),
    forward(
        "ethernet padding stays",
        Ether(raw(client() / tcp()) + b"\0" * 6),
        raw(to_server(11) / at(tcp(), 8080)) + b"\0" * 6,
    ),
    # server to client
    returned(
        "reply",
        server("198.51.100.11") / reply("SA"),
        to_client() / TCP(sport=80, dport=40000, flags="SA", seq=7, ack=9),
    ),
    returned(
        "reply data",
        server("198.51.100.11") / reply("PA", data=b"hello"),
        to_client() / TCP(sport=80, dport=40000, flags="PA", seq=7, ack=9) / b"hello",
    ),
    returned(
        "udp reply",
        server("198.51.100.12") / UDP(sport=5353, dport=40000) / b"answer",
        to_client() / UDP(sport=53, dport=40000) / b"answer",
    ),
    returned(
        "reply with options",
        server("198.51.100.11", options=OPTIONS) / reply(),
        to_client(options=OPTIONS) / TCP(sport=80, dport=40000, flags="A", seq=7, ack=9),
    ),
    # passed: none of our business
    Case("another port of a VIP", client() / at(tcp("S"), 81), "pass_other"),
    Case("port 0", client() / at(tcp("S"), 0), "pass_other"),
    Case("udp to a tcp listen", client() / UDP(sport=1, dport=80), "pass_other"),
    Case("another address", client("192.0.2.99") / tcp("S"), "pass_other"),
    Case(
        "another port of a server",
        server("198.51.100.11") / reply(sport=22),
        "pass_other",
        interface="back",
    ),
    Case("sctp", client(proto=132) / Raw(b"\0\x50\0\x50" + b"\0" * 8), "pass_other"),
    Case("icmp echo to a VIP", client() / ICMP() / b"ping", "pass_icmp"),
    Case(
        "arp",
        Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="192.0.2.10"),
        "pass_not_ip",
    ),
    Case(
        "ipv6", Ether(src=CLIENT_MAC, dst=FRONT_MAC) / IPv6(dst="2001:db8::1") / tcp(), "pass_other"
    ),
    Case(
        "vlan",
        Ether(src=CLIENT_MAC, dst=FRONT_MAC)
        / Dot1Q(vlan=7)
        / IP(src=CLIENT, dst="192.0.2.10")
        / tcp("S"),
        "pass_vlan",
    ),
    Case(
        "flooded: another machine's mac",
        client(mac="02:00:00:00:00:99") / tcp("S"),
        "pass_foreign_mac",
    ),
    Case("broadcast mac", client(mac="ff:ff:ff:ff:ff:ff") / tcp("S"), "pass_foreign_mac"),
    Case(
        "a virtual router's mac that is not ours",
        client(mac="00:00:5e:00:01:08") / tcp("S"),
        "pass_foreign_mac",
    ),
    Case(
        "a server answers the gateway's probe",
        server("198.51.100.11", "198.51.100.1") / reply("SA"),
        "pass_own",
        interface="back",
    ),
    Case(
        "a server talks to a direct prefix",
        server("198.51.100.11", "203.0.113.9") / reply("SA"),
        "pass_direct",
        interface="back",
    ),
    # passed: no IP header worth the name
    Case("cut in the ip header", cut(client() / tcp("S"), 14 + 19), "pass_malformed"),
    Case("header length below five words", client(ihl=4) / tcp("S"), "pass_malformed"),
    Case("ip version 5", client(version=5) / tcp("S"), "pass_malformed"),
    Case("total length below the header", client(len=19) / tcp("S"), "pass_malformed"),
    # dropped
    Case(
        "fragment without its first",
        client(frag=3, proto=6) / Raw(b"tail of something"),
        "drop_frag_no_first",
    ),
    Case(
        "fragment over the tcp header (RFC 1858)",
        client(frag=1, proto=6) / Raw(b"tail of something"),
        "drop_fragment",
    ),
    Case(
        "fragment from a server, without its first",
        server("198.51.100.12", frag=3, proto=17) / Raw(b"tail of something"),
        "drop_frag_no_first",
        interface="back",
    ),
    Case("fragment to elsewhere passes", client("192.0.2.99", flags="MF") / tcp("S"), "pass_other"),
    Case(
        "fragment from a server to the gateway passes",
        server("198.51.100.12", "198.51.100.1", frag=3, proto=17) / Raw(b"tail of something"),
        "pass_own",
        interface="back",
    ),
    Case("fragment of another protocol", client(frag=3, proto=132) / Raw(b"tail"), "pass_other"),
    Case("fragment of a ping", client(frag=3, proto=1) / Raw(b"tail"), "pass_icmp"),
    Case("first fragment of a ping", client(flags="MF") / ICMP() / (b"x" * 64), "pass_icmp"),
    Case("total length beyond the frame", client(len=2000) / tcp("S"), "drop_truncated"),
    Case(
        "tcp header beyond the ip packet",
        patched(client() / tcp("S"), 16, b"\0\x27"),
        "drop_truncated",
    ),
    Case("cut in the tcp header", client(proto=6) / Raw(raw(tcp("S"))[:19]), "drop_truncated"),
    Case(
        "udp header cut",
        Ether(src=CLIENT_MAC, dst=FRONT_MAC)
        / IP(src=CLIENT, dst="192.0.2.10", proto=17)
        / Raw(b"\0" * 7),
        "drop_truncated",
    ),
    Case(
        "truncated, to elsewhere, passes", client("192.0.2.99", len=2000) / tcp("S"), "pass_other"
    ),
    Case(
        "options beyond the ip packet", patched(client() / tcp("S"), 14, b"\x4f"), "pass_malformed"
    ),
    Case(
        "udp that claims to be from the listen itself",
        client(src="192.0.2.10") / UDP(sport=53, dport=53),
        "drop_martian",
    ),
    Case(
        "udp from the same address, but no listen",
        client(src="192.0.2.10") / UDP(sport=54, dport=53) / Raw(b"?"),
        "forward",
        to_server(12, src="192.0.2.10") / UDP(sport=54, dport=5353) / Raw(b"?"),
    ),
    Case("ttl 1", client(ttl=1) / tcp("S"), "drop_ttl"),
    Case("ttl 0", client(ttl=0) / tcp("S"), "drop_ttl"),
    Case(
        "reply with ttl 1", server("198.51.100.11", ttl=1) / reply(), "drop_ttl", interface="back"
    ),
    Case("a listen without servers", client("192.0.2.13") / tcp("S"), "drop_no_server"),
    Case("larger than the way out", client() / tcp("A", b"z" * 1461), "drop_too_big"),
    Case(
        "reply larger than the way out",
        server("198.51.100.11") / reply(data=b"z" * 1461),
        "drop_too_big",
        interface="back",
    ),
    Case(
        "no neighbour for the client",
        server("198.51.100.11", STRANGER) / reply(),
        "drop_no_neighbour",
        interface="back",
    ),
    Case(
        "no route to the client",
        server("198.51.100.11", "198.18.0.1") / reply(),
        "drop_no_route",
        interface="back",
    ),
]


def show(frame: bytes) -> str:
    return Ether(frame).show2(dump=True)


def check(gateway: PacketGateway, case: Case) -> None:
    frame = case.packet if isinstance(case.packet, bytes) else raw(case.packet)
    seen = gateway.send(frame, case.interface)
    assert seen.verdict == case.verdict
    expected = frame if case.out is None else case.out
    wanted = expected if isinstance(expected, bytes) else raw(expected)
    assert raw(seen.packet) == wanted, f"got {show(raw(seen.packet))}\nwanted {show(wanted)}"
    kind, _, _ = case.verdict.partition("_")
    assert seen.action == {"pass": XDP_PASS, "drop": XDP_DROP}.get(kind, XDP_REDIRECT)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_packet(gateway: PacketGateway, case: Case) -> None:
    check(gateway, case)


def test_a_wrong_checksum_stays_wrong(gateway: PacketGateway) -> None:
    """Changed by the difference and not computed anew: the server sees that it is broken."""
    good, bad = client() / tcp(), client() / tcp()
    good = Ether(raw(good))
    bad = Ether(raw(bad))
    bad[TCP].chksum ^= 0x0101
    error = (bad[TCP].chksum - good[TCP].chksum) % 0xFFFF
    seen = [Ether(raw(gateway.send(packet).packet))[TCP].chksum for packet in (good, bad)]
    assert (seen[1] - seen[0]) % 0xFFFF == error


def test_a_udp_checksum_that_comes_to_zero_is_sent_as_ones(gateway: PacketGateway) -> None:
    """RFC 768: zero on the wire would say that there is none."""
    plain = to_server(12) / UDP(sport=40000, dport=5353) / b"\0\0"
    missing = Ether(raw(plain))[UDP].chksum  # as payload it makes the sum all ones
    payload = missing.to_bytes(2, "big")
    seen = gateway.send(client() / UDP(sport=40000, dport=53) / payload)
    assert seen.packet[UDP].payload.load == payload
    assert seen.packet[UDP].chksum == 0xFFFF


def server_of(seen: Seen) -> str:
    assert seen.verdict == "forward"
    return str(seen.packet[IP].dst)


def test_round_robin_takes_turns_and_remembers(gateway: PacketGateway) -> None:
    def syn(port: int) -> str:
        return server_of(gateway.send(client("192.0.2.11") / TCP(sport=port, dport=80, flags="S")))

    def ack(port: int) -> str:
        segment = TCP(sport=port, dport=80, flags="A", seq=1)
        return server_of(gateway.send(client("192.0.2.11") / segment))

    first = [syn(port) for port in range(41000, 41020)]
    assert first.count("198.51.100.13") == 10
    assert [ack(port) for port in range(41000, 41020)] == first
    assert [syn(port) for port in range(41000, 41020)] == first  # a SYN sent again


@pytest.mark.parametrize("flags", ["R", "RA", "FA"])
def test_another_server_ends_no_flow(gateway: PacketGateway, flags: str) -> None:
    """One that was away comes back and ends its old flows; the clients are elsewhere since."""

    def send(port: int, flags: str, seq: int) -> str:
        segment = TCP(sport=port, dport=80, flags=flags, seq=seq)
        return server_of(gateway.send(client("192.0.2.11") / segment))

    ports = range(43000, 43010)
    first = [send(port, "S", 0) for port in ports]
    assert [send(port, "A", 1) for port in ports] == first
    for port, mine in zip(ports, first, strict=True):
        (other,) = {"198.51.100.13", "198.51.100.14"} - {mine}
        segment = TCP(sport=80, dport=port, flags=flags, seq=9, ack=9)
        assert gateway.send(server(other) / segment, "back").verdict == "return"
    gateway.plane._maps.gateway.tick_ahead += 40  # 160 s: half closed flows are gone, too
    assert [send(port, "A", 1) for port in ports] == first


def test_replies_of_a_shared_server_leave_as_the_listen_that_was_asked(
    gateway: PacketGateway,
) -> None:
    """web and shared both reach 198.51.100.11:8080: the older owns what is unrecorded."""
    gateway.send(client("192.0.2.12") / TCP(sport=42001, dport=80, flags="S"))
    answer = gateway.send(
        server("198.51.100.11") / TCP(sport=8080, dport=42001, flags="SA"), "back"
    )
    assert answer.packet[IP].src == "192.0.2.12"
    gateway.send(client("192.0.2.10") / TCP(sport=42002, dport=80, flags="S"))
    answer = gateway.send(
        server("198.51.100.11") / TCP(sport=8080, dport=42002, flags="SA"), "back"
    )
    assert answer.packet[IP].src == "192.0.2.10"


def test_a_missing_neighbour_is_asked_for(gateway: PacketGateway) -> None:
    gateway.send(server("198.51.100.11", STRANGER) / reply(), "back")
    wishes = set(gateway.plane._wanted.take())
    assert STRANGER in {str(address) for address, _ in wishes}


@pytest.mark.parametrize(
    ("flags", "seq", "refuses"),
    [("RA", 0, True), ("R", 0, True), ("RA", 7, False), ("SA", 0, False)],
    ids=["RST to a SYN", "RST without ACK", "RST in a flow", "SYN-ACK"],
)
def test_a_server_that_refuses_is_counted_and_told(
    gateway: PacketGateway, flags: str, seq: int, refuses: bool
) -> None:
    """RFC 9293, 3.5.2: a closed port answers a SYN with RST, ACK and SEQ=0."""
    gateway.plane.catch_up()
    gateway.plane.suspects()
    before = refused(gateway)
    packet = server("198.51.100.11") / TCP(sport=8080, dport=42000, flags=flags, seq=seq, ack=9)
    for _ in range(3):
        assert gateway.send(packet, "back").verdict == "return"
    assert refused(gateway) - before == (3 if refuses else 0)
    gateway.plane.catch_up()
    # Not for each packet: tests that ran a moment ago may have had their hint.
    said = {str(endpoint) for _, endpoint in gateway.plane.suspects()}
    assert said <= ({"198.51.100.11:8080"} if refuses else set())


def test_a_server_that_refuses_is_told_once_in_a_while(gateway: PacketGateway) -> None:
    packet = server("198.51.100.11") / TCP(sport=8080, dport=42000, flags="RA", seq=0, ack=9)

    def told() -> bool:
        gateway.send(packet, "back")
        gateway.plane.catch_up()
        return {str(endpoint) for _, endpoint in gateway.plane.suspects()} == {"198.51.100.11:8080"}

    eventually(told)


def refused(gateway: PacketGateway) -> int:
    return sum(one.refused for one in gateway.plane.stats().servers.values())


def test_after_a_promotion_unknown_tcp_is_dropped_and_not_reset(gateway: PacketGateway) -> None:
    """A server would answer RST to a flow that only the last Active knew."""
    listens = [Listen.parse(RR), Listen.parse(WEB)]
    unknown = client("192.0.2.11") / TCP(sport=42700, dport=80, flags="A", seq=7, ack=9)
    begins = client("192.0.2.11") / TCP(sport=42701, dport=80, flags="S", seq=7)
    goes_on = client("192.0.2.11") / TCP(sport=42701, dport=80, flags="A", seq=8, ack=9)
    gateway.plane.hold_unknown(listens, held=True)
    assert gateway.send(unknown).verdict == "drop_unknown"
    assert gateway.send(begins).verdict == "forward"
    assert gateway.send(goes_on).verdict == "forward"
    assert gateway.send(client() / tcp("A")).verdict == "forward"  # mh: the hash knows
    gateway.plane.hold_unknown(listens, held=False)
    assert gateway.send(unknown).verdict == "forward"
