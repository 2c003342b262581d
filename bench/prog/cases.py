"""What is measured: which packets, through which programs, in what state of the tables."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, raw

from bench.prog import stand
from bench.prog.stand import CLIENT_MAC, GATEWAY_MAC, OPERATIONS, SERVERS, first_port
from bench.prog.wrapped import ENDLESS, Packets
from lbctl.model import Listen

FLOWS = {1: "1 flow", 4096: "4k flows", 65536: "64k flows"}


class State(Enum):
    """How the tables are before a timed run."""

    WARM = auto()  # every flow has been through this program just before
    RECORDED = auto()  # our flow cache holds every flow, established
    EMPTY = auto()  # our flow cache is empty; the textbook's is full of other flows


@dataclass(frozen=True, slots=True)
class Case:
    """ours: names of shapes. others: programs of the textbook. count: packets a run."""

    name: str
    packets: Packets
    ours: tuple[str, ...]
    others: tuple[str, ...] = ()
    state: State = State.WARM
    verdict: str = "forward"
    count: int = 131072

    @property
    def endless(self) -> bool:
        return self.packets.flows == ENDLESS


def _frame(packet: Packet) -> bytes:
    """64 bytes, checksums filled in. What is missing is padding and no payload: a SYN that
    carries any is not remembered."""
    return raw(packet).ljust(64, b"\0")


def to_listen(text: str, flags: str = "A") -> bytes:
    listen = Listen.parse(text)
    ip = Ether(src=CLIENT_MAC, dst=GATEWAY_MAC) / IP(src="198.18.0.0", dst=str(listen.address))
    if listen.proto == "udp":
        return _frame(ip / UDP(sport=0, dport=listen.port))
    return _frame(ip / TCP(sport=0, dport=listen.port, flags=flags, seq=flags != "S"))


def _from_server(text: str) -> bytes:
    address, mac = next(iter(SERVERS.items()))
    ip = Ether(src=mac, dst=GATEWAY_MAC) / IP(src=address, dst="198.18.0.0")
    return _frame(ip / TCP(sport=first_port(text), dport=0, flags="A"))


def _to_listen6() -> bytes:
    listen = Listen.parse(stand.SIX)
    ip = Ether(src=CLIENT_MAC, dst=GATEWAY_MAC) / IPv6(src="2001:db8:9::", dst=str(listen.address))
    return raw(ip / TCP(sport=0, dport=listen.port, flags="A", seq=1)).ljust(80, b"\0")


def _error() -> bytes:
    """Fragmentation needed, about a packet of one flow."""
    inside = IP(src="192.0.2.10", dst="198.18.0.0") / TCP(sport=80, dport=1, flags="A")
    ip = Ether(src=CLIENT_MAC, dst=GATEWAY_MAC) / IP(src="198.18.0.1", dst="192.0.2.10")
    return raw(ip / ICMP(type=3, code=4, nexthopmtu=1400) / raw(inside)[:28]).ljust(80, b"\0")


SYN_RR = Packets(to_listen(stand.RR, "S"))
ACK_RR = Packets(to_listen(stand.RR))


def cases() -> list[Case]:
    found = []
    for flows, label in FLOWS.items():
        mh, udp, rr, back = (
            Packets(frame, flows)
            for frame in (
                to_listen(stand.MH),
                to_listen(stand.UDP),
                to_listen(stand.RR),
                _from_server(stand.MH),
            )
        )
        operations = OPERATIONS if flows != 4096 else ()
        found += [
            Case(f"mh established, {label}", mh, ("lean", "all"), ("textbook", *operations)),
            Case(f"rr established, {label}", rr, ("flows", "all"), state=State.RECORDED),
            Case(f"mh UDP, {label}", udp, ("lean", "all"), ("textbook",)),
            Case(f"return, {label}", replace(back, reply=True), ("lean", "all"), verdict="return"),
        ]
    for flows, label in FLOWS.items():
        six = Packets(_to_listen6(), flows)
        changing = Packets(to_listen(stand.CHANGING), flows)
        found += [
            Case(f"mh IPv6, {label}", six, ("all",)),
            Case(f"mh in transition, {label}", changing, ("all",)),
        ]
    spread = Packets(to_listen(f"{stand.FIRST_OF_MANY}:80/tcp"), 65536, services=stand.MANY)
    found += [
        Case("ICMP error", Packets(_error()), ("all",)),
        Case("1,000 services, 64k flows", spread, ("all",), ("textbook",)),
    ]
    syn = Packets(to_listen(stand.MH, "S"), ENDLESS)
    syn_rr = replace(SYN_RR, flows=ENDLESS)
    return [
        *found,
        Case("mh new SYN", syn, ("lean", "all"), ("textbook", "op_insert"), State.EMPTY),
        # Few enough that the empty cache does not fill up.
        Case("rr new SYN", syn_rr, ("flows", "all"), state=State.EMPTY, count=32768),
    ]
