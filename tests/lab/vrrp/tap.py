"""One port of the lab's front switch: what a gateway sends there, and frames put to it."""

import socket
import struct
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, raw

from lbctl.lab import Lab
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from tests.lab.vrrp.ear import monotonic
from tests.lab.vrrp.spaces import inside

ASKER, ASKER_MAC = "192.0.2.77", "02:00:00:00:00:77"
_ETH_P_ALL, _OUTGOING, _SO_TIMESTAMPNS = 3, 4, 35


class Tap:
    """port: as the switch calls it; `lb1-front`."""

    def __init__(self, lab: Lab, port: str, vip: str, vrid: int) -> None:
        self._vip = ip_address(vip).packed
        self._mac = bytes([0, 0, 0x5E, 0, 1, vrid])
        self.own = bytes.fromhex(lab.gateways[0].spec.nics[0].mac.replace(":", ""))
        self._socket = inside(NETNS / namespace(lab.name, SWITCH), lambda: _listen(port))
        self.frames: list[tuple[float, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self, vip: str) -> None:
        """Whatever makes somebody who answers for `vip` say something: ARP, echo, a SYN; to
        everybody, to the virtual MAC, and to the gateway's own."""
        every = "ff:ff:ff:ff:ff:ff"
        self._put(Ether(src=ASKER_MAC, dst=every) / ARP(op=1, psrc=ASKER, pdst=vip))
        for mac in (self._mac.hex(":"), self.own.hex(":")):
            ip = Ether(src=ASKER_MAC, dst=mac) / IP(src=ASKER, dst=vip)
            self._put(ip / ICMP())
            self._put(ip / TCP(sport=40000, dport=9, flags="S"))

    def knock(self, vip: str, port: int) -> None:
        """A SYN to `port`, to the virtual MAC and to the gateway's own."""
        for mac in (self._mac.hex(":"), self.own.hex(":")):
            syn = TCP(sport=40001, dport=port, flags="S")
            self._put(Ether(src=ASKER_MAC, dst=mac) / IP(src=ASKER, dst=vip) / syn)

    def heard(self, since: float) -> list[str]:
        """What the gateway sent of the virtual router after `since` (CLOCK_MONOTONIC)."""
        while True:
            try:
                frame, ancillary, _, (_, _, kind, *_) = self._socket.recvmsg(2048, 64)
            except BlockingIOError:
                break
            if kind != _OUTGOING:
                ((_, _, stamp),) = ancillary
                seconds, nanoseconds = struct.unpack("=qq", stamp)
                at = monotonic(seconds + nanoseconds / 1e9)
                self.frames.append((at, frame))
        return [
            Ether(frame).summary()
            for at, frame in self.frames
            if at > since and self._is_of_router(frame)
        ]

    def _is_of_router(self, frame: bytes) -> bool:
        kind = frame[12:14]
        source = {b"\x08\x00": frame[26:30], b"\x08\x06": frame[28:32]}.get(kind, b"")
        return frame[6:12] == self._mac or source == self._vip

    def _put(self, packet: Packet) -> None:
        self._socket.send(raw(packet).ljust(60, b"\0"))


def _listen(port: str) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    one.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    one.bind((port, _ETH_P_ALL))
    return one
