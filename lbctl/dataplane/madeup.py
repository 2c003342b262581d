"""A packet that nobody sent, for a data path to show what it does with such: built whole,
with right checksums, and read back after it was rewritten. Pure."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from lbctl.model import Endpoint, Listen, Proto

# RFC 9293, 3.1, as tcpdump writes them; the lowest bit first.
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32}
NUMBER = {Proto.TCP: 6, Proto.UDP: 17}
IPV4, IPV6 = 0x0800, 0x86DD
MOST = 9000  # bytes of payload
DONT_FRAGMENT = 0x4000


@dataclass(frozen=True, slots=True)
class MadeUp:
    """source: a client or, to see the way back, a server. to: where it goes. flags: of TCP,
    as tcpdump writes them (`S`, `.`, `F.`). size: bytes of payload. interface "": the one
    that such a packet comes in on."""

    source: Endpoint
    to: Listen
    flags: str = "S"
    seq: int = 1
    ttl: int = 64
    size: int = 0
    interface: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError where there can be no such packet."""
        if self.source.address.version != self.to.address.version:
            raise ValueError(f"{self.source} and {self.to} are of two families")
        if self.to.proto not in NUMBER:
            raise ValueError(f"{self.to}: TCP and UDP can be made up, {self.to.proto} cannot")
        if not self.flags or set(self.flags) - FLAGS.keys():
            raise ValueError(f"flags '{self.flags}': each is one of {' '.join(FLAGS)}")
        for name, value, most in (
            ("seq", self.seq, 2**32 - 1),
            ("ttl", self.ttl, 255),
            ("size", self.size, MOST),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {value}: it is from 0 to {most}")

    @property
    def proto(self) -> int:
        return NUMBER[self.to.proto]

    def __str__(self) -> str:
        flags = f", flags {self.flags}" if self.to.proto is Proto.TCP else ""
        return f"{self.source} > {self.to}{flags}"


def build(packet: MadeUp, destination: bytes, source: bytes) -> bytes:
    """The frame. destination, source: MAC addresses."""
    ends = packet.source.address.packed + packet.to.address.packed
    ports = struct.pack(">HH", packet.source.port, packet.to.port)
    data = bytes(packet.size)
    if packet.to.proto is Proto.TCP:
        flags = sum(FLAGS[one] for one in packet.flags)
        l4 = ports + struct.pack(">IIBBHHH", packet.seq, 0, 0x50, flags, 65535, 0, 0) + data
        at = 16
    else:
        l4 = ports + struct.pack(">HH", 8 + len(data), 0) + data
        at = 6
    check = checksum(_pseudo(ends, packet.proto, l4)) or 0xFFFF
    l4 = l4[:at] + check.to_bytes(2, "big") + l4[at + 2 :]
    if packet.to.address.version == 6:
        ip = struct.pack(">IHBB", 6 << 28, len(l4), packet.proto, packet.ttl) + ends
        return destination + source + struct.pack(">H", IPV6) + ip + l4
    first = (0x45, 0, 20 + len(l4), 0, DONT_FRAGMENT, packet.ttl, packet.proto)
    ip = struct.pack(">BBHHHBBH", *first, 0) + ends
    ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
    return destination + source + struct.pack(">H", IPV4) + ip + l4


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(ends: bytes, proto: int, l4: bytes) -> bytes:
    """The transport's bytes behind the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1)."""
    if len(ends) == 8:
        return ends + struct.pack(">BBH", 0, proto, len(l4)) + l4
    return ends + struct.pack(">II", len(l4), proto) + l4


@dataclass(frozen=True, slots=True)
class Headers:
    """Of a frame that `build` made, as they are now. wrong: checksums that do not hold."""

    fields: dict[str, str]
    wrong: tuple[str, ...]


def read(frame: bytes) -> Headers:
    fields = {"destination MAC": frame[:6].hex(":"), "source MAC": frame[6:12].hex(":")}
    ip = frame[14:]
    wrong = []
    if ip[0] >> 4 == 4:
        ends, l4, proto, ttl = ip[12:20], ip[20:], ip[9], ip[8]
        if checksum(ip[:20]):
            wrong.append("IP")
    else:
        ends, l4, proto, ttl = ip[8:40], ip[40:], ip[6], ip[7]
    half = len(ends) // 2
    fields["source address"] = str(ip_address(ends[:half]))
    fields["destination address"] = str(ip_address(ends[half:]))
    fields["TTL" if half == 4 else "hop limit"] = str(ttl)
    fields |= _transport(l4)
    if checksum(_pseudo(ends, proto, l4)):
        wrong.append("TCP" if proto == 6 else "UDP")
    return Headers(fields, tuple(wrong))


def _transport(l4: bytes) -> Iterator[tuple[str, str]]:
    source, destination = struct.unpack_from(">HH", l4)
    return iter([("source port", str(source)), ("destination port", str(destination))])


# --- what became of it ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """Something that decided. at: what was looked at; found: what was there."""

    at: str
    found: str


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A header field, as it came in and as it went out."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Trace:
    """What a data path did with a made-up packet. verdict: the name of its counter.
    action: what the kernel was told to do. out: the interface that it leaves by, if one is
    known. listen and server: whose it is."""

    packet: str
    interface: str
    steps: tuple[Step, ...]
    verdict: str
    action: str
    out: str
    listen: Listen | None
    server: Endpoint | None
    headers: tuple[Rewrite, ...]
    wrong_checksums: tuple[str, ...]
