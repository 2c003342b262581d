"""What is said on the lab's front segment: adverts as they pass the switch's ports, and a
capture that tshark judges."""

import ctypes
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

from lbctl.lab import Lab
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from tests.lab.vrrp.spaces import inside

FORGER = bytes.fromhex("020000000666")  # the source MAC of bad adverts; not heard
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_OUTGOING = 4
_VRRP, _ICMPV6 = 112, 58
_FILE = struct.Struct("=IHHiIII")
_FRAME = struct.Struct("=IIII")


@dataclass(frozen=True)
class Said:
    """An advert on the wire. at: CLOCK_MONOTONIC."""

    at: float
    source: str
    mac: str
    priority: int
    version: int


@dataclass(frozen=True)
class Judged:
    """An advert as tshark sees it. checksum: by its own computing, with pseudo-header where
    there is one."""

    mac: str
    source: str
    ttl: int
    version: int
    checksum: str


@dataclass(frozen=True)
class Announced:
    """A gratuitous ARP or an unsolicited NA as tshark sees it. inner: the MAC it tells."""

    mac: str
    inner: str
    address: str
    ttl: int
    checksum: str


class Ear:
    """Listens on every port of a lab's front switch. capture: a file for the adverts, and for
    what the host `announcer` announces."""

    def __init__(self, lab: Lab, capture: Path | None = None, announcer: str = "lb1") -> None:
        self._announcer = f"{announcer}-front"
        self._socket = inside(NETNS / namespace(lab.name, SWITCH), _listen)
        self._capture = capture.open("wb") if capture else None
        if self._capture:
            self._capture.write(_FILE.pack(0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        self.path = capture
        self.said: list[Said] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        if self._capture:
            self._capture.close()

    def listen(self) -> list[Said]:
        """All that was said so far."""
        while True:
            try:
                frame, ancillary, _, where = self._socket.recvmsg(4096, 64)
            except BlockingIOError:
                return self.said
            name, _, kind, *_ = where
            if kind == _OUTGOING or not name.endswith("-front"):
                continue  # each frame once, where it comes in
            if (said := _advert(frame, _arrival(ancillary))) is not None:
                self.said.append(said)
                self._keep(frame)
            elif name == self._announcer and _announces(frame):
                self._keep(frame)

    def active(self, span: float) -> set[str]:
        """Who claimed to be active within the last `span` seconds."""
        since = time.monotonic() - span
        return {s.source for s in self.listen() if s.at >= since and s.priority > 0}

    def judge(self) -> list[Judged]:
        """Every advert that was captured, by tshark."""
        fields = ("eth.src", "ip.src", "ipv6.src", "ip.ttl", "ipv6.hlim", "vrrp.version")
        return [_judged(row) for row in self._ask("vrrp", *fields, "vrrp.checksum.status")]

    def announced(self) -> list[Announced]:
        """Every announcement that was captured, by tshark."""
        arp = ("eth.src", "arp.src.hw_mac", "arp.src.proto_ipv4")
        rows = self._ask("arp.isgratuitous == 1", *arp)
        found = [Announced(*row, 255, "good") for row in rows]
        na = ("eth.src", "icmpv6.opt.linkaddr", "icmpv6.nd.na.target_address", "ipv6.hlim")
        for *words, ttl, status in self._ask("icmpv6.type == 136", *na, "icmpv6.checksum.status"):
            found.append(Announced(*words, int(ttl), _verdict(status)))
        return found

    def _ask(self, what: str, *fields: str) -> list[list[str]]:
        """Rows of tshark's fields of the packets that are `what`."""
        self.listen()
        assert self._capture is not None
        self._capture.flush()
        wanted = [word for one in fields for word in ("-e", one)]
        done = subprocess.run(
            ["tshark", "-r", str(self.path), "-Y", what, "-T", "fields", *wanted],
            capture_output=True,
            text=True,
            check=True,
        )
        return [line.split("\t") for line in done.stdout.splitlines()]

    def _keep(self, frame: bytes) -> None:
        if self._capture:
            now = time.time()
            head = _FRAME.pack(int(now), int(now % 1 * 1e6), len(frame), len(frame))
            self._capture.write(head + frame)


def _listen() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    one = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    one.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    # In the kernel, so that a flood costs nobody time but those it is meant for: load the
    # source MAC's first four bytes, then its last two; a forger's frame is not kept.
    start, end = int.from_bytes(FORGER[:4]), int.from_bytes(FORGER[4:])
    code = [(0x20, 0, 0, 6), (0x15, 0, 2, start), (0x28, 0, 0, 10), (0x15, 1, 0, end)]
    code += [(0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *c) for c in code))
    fprog = struct.pack("@HP", len(code), ctypes.addressof(program))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    return one


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel saw a frame, which is not when this process got round to it."""
    ((_, _, stamp),) = ancillary
    seconds, nanoseconds = struct.unpack("=qq", stamp)
    return monotonic(seconds + nanoseconds / 1e9)


def monotonic(stamp: float) -> float:
    """What the clock that never steps showed at a moment of the wall clock: by the quickest of a
    few looks at both, since any of them may be interrupted."""
    looks = []
    for _ in range(4):
        before, wall, after = time.monotonic(), time.time(), time.monotonic()
        looks.append((after - before, before - wall))
    return stamp + min(looks)[1]


def _advert(frame: bytes, at: float) -> Said | None:
    kind = frame[12:14]
    if kind == b"\x08\x00" and frame[23] == _VRRP:
        source, body = frame[26:30], frame[14 + (frame[14] & 0xF) * 4 :]
    elif kind == b"\x86\xdd" and frame[20] == _VRRP:
        source, body = frame[22:38], frame[54:]
    else:
        return None
    mac = frame[6:12].hex(":")
    return Said(at, str(ip_address(source)), mac, body[2], body[0] >> 4)


def _judged(fields: list[str]) -> Judged:
    mac, source4, source6, ttl, limit, version, status = fields
    return Judged(mac, source4 or source6, int(ttl or limit), int(version), _verdict(status))


def _verdict(status: str) -> str:
    return {"0": "bad", "1": "good"}.get(status, status)


def _announces(frame: bytes) -> bool:
    """A gratuitous ARP request, or a neighbour advertisement to all nodes."""
    if frame[12:14] == b"\x08\x06":
        return frame[28:32] == frame[38:42]
    to_all = b"\x33\x33\0\0\0\x01"
    return frame[:6] == to_all and frame[12:14] == b"\x86\xdd" and frame[20] == _ICMPV6
