"""ICMP errors about our flows, translated both ways, packet inside included."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw, raw

from lbctl.dataplane.converge import converge
from lbctl.model import Gateway, Listen, Table
from tests.bpf import test_packets as four
from tests.bpf import test_packets6 as six
from tests.bpf.gateway import CLIENT, CLIENT6, PacketGateway
from tests.bpf.test_packets import Case, check, service

pytestmark = pytest.mark.kernel

VIP, ROUTER = "192.0.2.10", "192.0.2.254"
ROUTER6 = "2001:db8::fe"
TABLE = Table(
    {
        Listen.parse(four.WEB): service("mh", "198.51.100.11:8080"),
        Listen.parse(four.DNS): service("mh", "198.51.100.12:5353"),
        Listen.parse(four.RR): service("rr", "198.51.100.13:80", "198.51.100.14:80"),
        Listen.parse(four.SHARED): service("mh", "198.51.100.11:8080"),
        Listen.parse(four.EMPTY): service("mh"),
        Listen.parse(f"[{six.VIP}]:80/tcp"): service("mh", "[2001:db8:1::11]:8080"),
        Listen.parse(f"[{six.VIP}]:53/udp"): service("mh", "[2001:db8:1::12]:5353"),
    }
)


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    direct = (ip_network("203.0.113.0/24"),)
    gateway = PacketGateway(Gateway("front", ("back",), direct=direct), shared_pins)
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


def tcp(sport: int, dport: int) -> Packet:
    return TCP(sport=sport, dport=dport, flags="PA", seq=7, ack=9) / (b"payload!" * 8)


def udp(sport: int, dport: int) -> Packet:
    return UDP(sport=sport, dport=dport) / (b"payload!" * 8)


def inside(packet: Packet, length: int) -> Raw:
    """The beginning of a packet, as an error carries it."""
    return Raw(raw(packet)[:length])


TOO_BIG = ICMP(type=3, code=4, nexthopmtu=1400)
PORT = ICMP(type=3, code=3)
EXPIRED = ICMP(type=11)
NOP = [IPOption_NOP()] * 4


def to_vip(error: Packet, packet: Packet, **ip: object) -> Packet:
    return four.client(src=ROUTER, **ip) / error / packet


def at_server(n: int, error: Packet, packet: Packet) -> Packet:
    return four.to_server(n, src=ROUTER) / error / packet


def web(length: int, **ip: object) -> tuple[Packet, Packet]:
    """What a client-side router saw of web, and what server 11 had sent."""
    sent = {"ttl": 61, "id": 9, "flags": "DF", **ip}
    return (
        inside(IP(src=VIP, dst=CLIENT, **sent) / tcp(80, 40000), length),
        inside(IP(src="198.51.100.11", dst=CLIENT, **sent) / tcp(8080, 40000), length),
    )


def forwarded(name: str, error: Packet, packets: tuple[Packet, Packet], n: int = 11) -> Case:
    before, after = packets
    return Case(name, to_vip(error, before), "forward", at_server(n, error, after))


DNS_IN = (
    inside(IP(src=VIP, dst=CLIENT, ttl=60) / udp(53, 4), 28),
    inside(IP(src="198.51.100.12", dst=CLIENT, ttl=60) / udp(5353, 4), 28),
)
SERVERS_SIDE = "198.51.100.77"  # a router behind the gateway


def from_server(error: Packet, packet: Packet, src: str = "198.51.100.11", **ip: object) -> Packet:
    return Ether(src=four.SERVER_MAC.format(11), dst=four.BACK_MAC) / (
        IP(src=src, dst=CLIENT, **ip) / error / packet
    )


def to_web(length: int) -> tuple[Packet, Packet]:
    """What server 11 received of a client, and what that had sent."""
    return (
        inside(IP(src=CLIENT, dst="198.51.100.11", ttl=62) / tcp(40000, 8080), length),
        inside(IP(src=CLIENT, dst=VIP, ttl=62) / tcp(40000, 80), length),
    )


def returned(name: str, error: Packet, packets: tuple[Packet, Packet], src: str) -> Case:
    before, after = packets
    out = four.to_client() / error / after
    return Case(name, from_server(error, before, src), "return", out, "back")


def garbage(name: str, packet: Packet) -> Case:
    return Case(name, packet, "pass_icmp")


def web_inside(data: bytes) -> Packet:
    return to_vip(TOO_BIG, Raw(data))


CASES = [
    *(
        forwarded(f"too big, {length} bytes of it", TOO_BIG, web(length))
        for length in (28, 29, 36, 38, 39, 40, 104)
    ),
    forwarded("port unreachable", PORT, web(28)),
    forwarded("time exceeded", EXPIRED, web(28)),
    forwarded("parameter problem", ICMP(type=12, ptr=8), web(28)),
    forwarded("options in the packet inside", TOO_BIG, web(48, options=NOP)),
    forwarded("udp inside", TOO_BIG, DNS_IN, 12),
    forwarded(
        "udp without a checksum inside",
        TOO_BIG,
        (
            inside(IP(src=VIP, dst=CLIENT) / UDP(sport=53, dport=4, chksum=0), 28),
            inside(IP(src="198.51.100.12", dst=CLIENT) / UDP(sport=5353, dport=4, chksum=0), 28),
        ),
        12,
    ),
    Case(
        "options of the error itself",
        to_vip(TOO_BIG, web(28)[0], options=NOP),
        "forward",
        four.to_server(11, src=ROUTER, options=NOP) / TOO_BIG / web(28)[1],
    ),
    *(
        returned(f"from a server, {length} bytes of it", PORT, to_web(length), "198.51.100.11")
        for length in (28, 38, 104)
    ),
    returned("from a router behind", TOO_BIG, to_web(28), SERVERS_SIDE),
    Case("ttl 1", to_vip(TOO_BIG, web(28)[0], ttl=1), "drop_ttl"),
    Case(
        "ttl 1 from a server", from_server(PORT, to_web(28)[0], ttl=1), "drop_ttl", interface="back"
    ),
    Case(
        "about a listen without servers",
        four.client("192.0.2.13", src=ROUTER)
        / TOO_BIG
        / inside(IP(src="192.0.2.13", dst=CLIENT) / tcp(80, 4), 28),
        "drop_no_server",
    ),
    Case(
        "a server about the gateway's probe",
        Ether(src=four.SERVER_MAC.format(11), dst=four.BACK_MAC)
        / IP(src="198.51.100.11", dst="198.51.100.1")
        / PORT
        / inside(IP(src="198.51.100.1", dst="198.51.100.11") / tcp(4, 8080), 28),
        "pass_own",
        interface="back",
    ),
    Case(
        "a server about a packet of a direct prefix",
        Ether(src=four.SERVER_MAC.format(11), dst=four.BACK_MAC)
        / IP(src="198.51.100.11", dst="203.0.113.9")
        / PORT
        / inside(IP(src="203.0.113.9", dst="198.51.100.11") / tcp(4, 8080), 28),
        "pass_direct",
        interface="back",
    ),
    garbage("no packet inside", to_vip(TOO_BIG, Raw(b""))),
    garbage("19 bytes of it", to_vip(TOO_BIG, web(19)[0])),
    garbage("27 bytes of it", to_vip(TOO_BIG, web(27)[0])),
    garbage("zeros inside", web_inside(bytes(64))),
    garbage("ones inside", web_inside(b"\xff" * 64)),
    garbage("header length below five words", web_inside(b"\x44" + raw(web(40)[0])[1:])),
    garbage("header longer than the packet", web_inside(b"\x4f" + raw(web(40)[0])[1:])),
    garbage("IPv6 inside IPv4", web_inside(b"\x65" + raw(web(40)[0])[1:])),
    garbage("a later fragment inside", to_vip(TOO_BIG, web(40, flags=0, frag=3)[0])),
    garbage(
        "sctp inside", to_vip(TOO_BIG, inside(IP(src=VIP, dst=CLIENT, proto=132) / tcp(80, 4), 28))
    ),
    garbage(
        "about a packet of somebody else",
        to_vip(TOO_BIG, inside(IP(src="192.0.2.11", dst=CLIENT) / tcp(80, 4), 28)),
    ),
    garbage("about no listen", to_vip(TOO_BIG, inside(IP(src=VIP, dst=CLIENT) / tcp(81, 4), 28))),
    garbage("a redirect", to_vip(ICMP(type=5), web(28)[0])),
    garbage("an error in pieces", to_vip(TOO_BIG, web(28)[0], flags="MF")),
    garbage("a reply to an echo", four.client() / ICMP(type=0) / b"pong"),
]


def six_in(error: Packet, length: int, sport: int = 80, own: int = 8080, n: int = 11) -> Case:
    def packet(source: str, port: int) -> Packet:
        transport = tcp(port, 40000) if sport == 80 else udp(port, 40000)
        return inside(IPv6(src=source, dst=CLIENT6, hlim=61) / transport, length)

    before = six.client() / error / packet(six.VIP, sport)
    before[IPv6].src = ROUTER6
    after = six.to_server(n, src=ROUTER6) / error / packet(f"2001:db8:1::{n}", own)
    return Case(f"IPv6 {error.name}, {length} bytes of {sport}", before, "forward", after)


def six_out(error: Packet, length: int, src: str) -> Case:
    def packet(dest: str, port: int) -> Packet:
        return inside(IPv6(src=CLIENT6, dst=dest, hlim=61) / tcp(40000, port), length)

    before = six.server(11) / error / packet("2001:db8:1::11", 8080)
    before[IPv6].src = src
    after = six.to_client() / error / packet(six.VIP, 80)
    return Case(f"IPv6 {error.name} from {src}, {length} bytes", before, "return", after, "back")


CASES6 = [
    *(six_in(ICMPv6PacketTooBig(mtu=1400), length) for length in (48, 56, 58, 60, 124)),
    six_in(ICMPv6DestUnreach(code=4), 60),
    six_in(ICMPv6TimeExceeded(), 60),
    six_in(ICMPv6PacketTooBig(mtu=1280), 60, sport=53, own=5353, n=12),
    six_out(ICMPv6DestUnreach(code=4), 60, "2001:db8:1::11"),
    six_out(ICMPv6PacketTooBig(mtu=1280), 124, "2001:db8:1::77"),
    garbage("IPv6: nothing inside", six.client() / ICMPv6PacketTooBig() / b""),
    garbage("IPv6: zeros inside", six.client() / ICMPv6PacketTooBig() / bytes(64)),
    garbage(
        "IPv6: 47 bytes of it",
        six.client()
        / ICMPv6PacketTooBig()
        / inside(IPv6(src=six.VIP, dst=CLIENT6) / tcp(80, 4), 47),
    ),
    garbage(
        "IPv6: about somebody else",
        six.client()
        / ICMPv6PacketTooBig()
        / inside(IPv6(src="2001:db8::99", dst=CLIENT6) / tcp(80, 4), 60),
    ),
]


@pytest.mark.parametrize("case", [*CASES, *CASES6], ids=lambda case: case.name)
def test_error(gateway: PacketGateway, case: Case) -> None:
    check(gateway, case)


def about_a_piece(offset: int, address: str, port: int) -> Packet:
    """The beginning of a fragment that a server had sent, as its router on the way saw it."""
    header = IPv6ExtHdrFragment(id=7, offset=offset, m=1, nh=17)
    whole = IPv6(src=address, dst=CLIENT6, hlim=60) / header
    return Raw(raw(whole / UDP(sport=port, dport=4, len=3000, chksum=0x1234) / (b"x" * 64)))


def test_an_error_about_the_first_of_several_pieces_is_translated(gateway: PacketGateway) -> None:
    """Or a large answer over UDP never finds the path's MTU."""
    out = Ether(src=six.CLIENT_MAC, dst=six.FRONT_MAC) / IPv6(src=ROUTER6, dst=six.VIP)
    error = ICMPv6PacketTooBig(mtu=1400)
    seen = gateway.send(out / error / about_a_piece(0, six.VIP, 53))
    assert seen.verdict == "forward"
    got = IPv6(raw(seen.packet[ICMPv6PacketTooBig].payload))
    assert (got.src, got[UDP].sport, got[IPv6ExtHdrFragment].id) == ("2001:db8:1::12", 5353, 7)
    again = seen.packet.copy()
    del again[ICMPv6PacketTooBig].cksum
    assert raw(again) == raw(seen.packet)
    later = gateway.send(out / error / about_a_piece(100, six.VIP, 53))
    assert later.verdict == "pass_icmp"  # it shows no ports


def test_an_error_about_a_remembered_flow_follows_it(gateway: PacketGateway) -> None:
    """Round robin: two flows in turn, each on another server."""
    for port in (45001, 45002):
        syn = TCP(sport=port, dport=80, flags="S")
        server = gateway.send(four.client("192.0.2.11") / syn).packet[IP].dst
        about = inside(IP(src="192.0.2.11", dst=CLIENT) / tcp(80, port), 28)
        seen = gateway.send(four.client("192.0.2.11", src=ROUTER) / TOO_BIG / about)
        assert (seen.verdict, seen.packet[IP].dst) == ("forward", server)


def test_an_error_about_a_shared_servers_flow_returns_as_its_listen(gateway: PacketGateway) -> None:
    gateway.send(four.client("192.0.2.12") / TCP(sport=45003, dport=80, flags="S"))
    about = inside(IP(src=CLIENT, dst="198.51.100.11") / tcp(45003, 8080), 28)
    seen = gateway.send(from_server(PORT, about), "back")
    assert (seen.verdict, seen.packet[IP].src) == ("return", "192.0.2.12")


def test_nothing_is_remembered_for_an_error(gateway: PacketGateway) -> None:
    before = [way.key for way in gateway.plane._flows]
    about = inside(IP(src="192.0.2.11", dst=CLIENT) / tcp(80, 45099), 28)
    gateway.send(four.client("192.0.2.11", src=ROUTER) / TOO_BIG / about)
    assert [way.key for way in gateway.plane._flows] == before


@pytest.mark.parametrize(
    ("error", "refuses"),
    [(PORT, True), (TOO_BIG, False), (EXPIRED, False)],
    ids=["port unreachable", "too big", "expired"],
)
def test_a_server_that_cannot_be_reached_is_counted(
    gateway: PacketGateway, error: Packet, refuses: bool
) -> None:
    def refused() -> int:
        return sum(one.refused for one in gateway.plane.stats().servers.values())

    before = refused()
    seen = gateway.send(from_server(error, to_web(28)[0]), "back")
    assert seen.verdict == "return"
    assert refused() - before == refuses
