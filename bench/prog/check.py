"""Are the packets right that a program makes? Asked of scapy, before anything is timed."""

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, raw

from bench.prog.cases import Case
from bench.prog.stand import CLIENT_MAC, GATEWAY_MAC, SERVERS, Stand
from bench.prog.wrapped import NOTHING

PACKETS = (0, 1, 4097, 65535)  # numbers of those that are looked at


class WrongPacket(AssertionError):
    """A program made something else than a translated packet."""


def check(stand: Stand, case: Case, candidate: str) -> None:
    """Raises WrongPacket."""
    if len(case.packets.frame) == 80:
        return  # IPv6 and ICMP: every such packet is compared in tests/bpf
    for number in PACKETS:
        before = Ether(stand.one(NOTHING, case.packets, number))
        after = Ether(stand.one(candidate, case.packets, number))
        for packet in (before, after):
            if raw(packet) != _recomputed(packet):
                raise WrongPacket(f"{case.name}, {candidate}: checksums of {packet!r}")
        wanted = before.copy()
        _translate(wanted, after, case.packets.reply)
        if _recomputed(wanted) != raw(after):
            raise WrongPacket(f"{case.name}, {candidate}: {after!r} and not {wanted!r}")


def _recomputed(packet: Packet) -> bytes:
    copy = packet.copy()
    transport = copy[TCP] if TCP in copy else copy[UDP]
    del copy[IP].chksum
    del transport.chksum
    return raw(copy)


def _translate(packet: Packet, after: Packet, reply: bool) -> None:
    """Which server was the program's to choose; the rest follows."""
    ip, ports = packet[IP], packet[IP].payload
    ip.ttl -= 1
    packet[Ether].src = GATEWAY_MAC
    if reply:
        ip.src, ports.sport = "192.0.2.10", 80
        packet[Ether].dst = CLIENT_MAC
    else:
        ip.dst, ports.dport = after[IP].dst, after[IP].payload.dport
        packet[Ether].dst = SERVERS[ip.dst]
