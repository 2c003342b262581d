"""Packets that nobody sent, held to scapy's."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import raw

from lbctl.dataplane.madeup import MadeUp, build, read
from lbctl.model import Endpoint, Listen

CLIENT, VIP = "192.0.2.100:40000", "192.0.2.10:80/tcp"
MACS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ETHER = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")


def made(source: str = CLIENT, to: str = VIP, **more: object) -> MadeUp:
    return MadeUp(Endpoint.parse(source), Listen.parse(to), **more)


@pytest.mark.parametrize(
    ("packet", "same"),
    [
        (
            made(seq=7, ttl=3),
            IP(src="192.0.2.100", dst="192.0.2.10", id=0, flags="DF", ttl=3)
            / TCP(sport=40000, dport=80, seq=7, flags="S", window=65535),
        ),
        (
            made(to="192.0.2.10:53/udp", size=5),
            IP(src="192.0.2.100", dst="192.0.2.10", id=0, flags="DF")
            / UDP(sport=40000, dport=53)
            / bytes(5),
        ),
        (
            made("[2001:db8::64]:40000", "[2001:db8::10]:80/tcp", flags="F."),
            IPv6(src="2001:db8::64", dst="2001:db8::10")
            / TCP(sport=40000, dport=80, seq=1, flags="FA", window=65535),
        ),
    ],
    ids=["tcp", "udp", "ipv6"],
)
def test_it_is_what_scapy_makes(packet, same) -> None:
    frame = build(packet, *MACS)
    assert frame == raw(ETHER / same.__class__(raw(same)))
    assert read(frame).wrong == ()


def test_a_checksum_that_does_not_hold_is_told() -> None:
    frame = bytearray(build(made(), *MACS))
    frame[26] ^= 1  # the source address
    assert read(bytes(frame)).wrong == ("IP", "TCP")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"source": "[2001:db8::1]:1"}, "two families"),
        ({"to": "192.0.2.10:80/sctp"}, "sctp cannot"),
        ({"flags": "SX"}, "flags 'SX'"),
        ({"flags": ""}, "flags ''"),
        ({"ttl": 256}, "ttl 256: it is from 0 to 255"),
        ({"size": -1}, "size -1"),
        ({"seq": 1 << 32}, "seq 4294967296"),
    ],
)
def test_what_cannot_be_a_packet_is_refused(more, says) -> None:
    with pytest.raises(ValueError, match=says):
        made(**more)
