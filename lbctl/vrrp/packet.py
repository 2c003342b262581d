"""Adverts, in bytes and back.

RFC 9568 section 5.1 (version 3, after an IPv4 or IPv6 header, protocol 112):

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |Version| Type  | Virtual Rtr ID|   Priority    |  Addr Count   |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |Reserve| Max Advertise Interval|           Checksum            |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                    IPv4 or IPv6 addresses                     |

RFC 3768 section 5.1 (version 2, IPv4 only) has `Auth Type | Adver Int` in place of the
reserve and the interval, seconds for centiseconds, and eight bytes of authentication data
after the addresses, which nobody has to look at any more (section 5.3.6).
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from lbctl.model import Address, ChecksumForm

PROTOCOL = 112
GROUP4 = IPv4Address("224.0.0.18")
GROUP6 = IPv6Address("ff02::12")
TTL = 255
ADVERTISEMENT = 1

_HEADER = struct.Struct("!BBBBHH")
_AUTHENTICATION = bytes(8)


@dataclass(frozen=True, slots=True)
class Advert:
    """An advertisement of either version. interval: seconds."""

    vrid: int
    priority: int
    interval: float
    addresses: tuple[Address, ...]
    version: int = 3


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`; 0 when `data` holds a right one.

    2**16 is 1 modulo 65535, so the sum of the 16-bit words is the number itself.
    """
    if len(data) % 2:
        data += b"\0"
    rest = int.from_bytes(data, "big") % 0xFFFF
    if rest == 0 and any(data):
        rest = 0xFFFF
    return rest ^ 0xFFFF


def pseudo_header(source: Address, destination: Address, length: int) -> bytes:
    """What IPv6 (RFC 8200, 8.1), and for IPv4 most implementations, sum up in front."""
    if source.version == 4:
        return source.packed + destination.packed + struct.pack("!BBH", 0, PROTOCOL, length)
    return source.packed + destination.packed + struct.pack("!IHBB", length, 0, 0, PROTOCOL)


def encode(advert: Advert, source: Address, destination: Address, form: ChecksumForm) -> bytes:
    """The VRRP packet without its IP header.

    form: of the checksum over IPv4 in version 3; IPv6 always has the pseudo-header and
    version 2 never. Raises ValueError for fields that do not fit.
    """
    header = _HEADER.pack(
        advert.version << 4 | ADVERTISEMENT,
        advert.vrid,
        advert.priority,
        len(advert.addresses),
        _interval_field(advert),
        0,
    )
    tail = _AUTHENTICATION if advert.version == 2 else b""
    packet = header + b"".join(address.packed for address in advert.addresses) + tail
    summed = packet
    if source.version == 6 or (advert.version == 3 and form is ChecksumForm.PSEUDO):
        summed = pseudo_header(source, destination, len(packet)) + packet
    return packet[:6] + checksum(summed).to_bytes(2, "big") + packet[8:]


def _interval_field(advert: Advert) -> int:
    if advert.version == 2:
        seconds = round(advert.interval)
        if not 1 <= seconds <= 255:
            raise ValueError(f"an interval of {advert.interval} s does not fit version 2")
        return seconds  # the high byte is Auth Type 0
    centiseconds = round(advert.interval * 100)
    if not 1 <= centiseconds <= 0xFFF:
        raise ValueError(f"an interval of {advert.interval} s does not fit version 3")
    return centiseconds


def decode(payload: bytes, family: int) -> Advert:
    """The fields of a packet whose length is right; nothing is judged here.

    family: 4 or 6, of the IP header, which is also that of the addresses (5.2.9).
    """
    kind, vrid, priority, count, field, _ = _HEADER.unpack_from(payload)
    version = kind >> 4
    size = 4 if family == 4 else 16
    parse = IPv4Address if family == 4 else IPv6Address
    addresses = tuple(parse(payload[at : at + size]) for at in range(8, 8 + count * size, size))
    # The reserve bits are ignored on reception (5.2.6).
    interval = float(field & 0xFF) if version == 2 else (field & 0xFFF) / 100
    return Advert(vrid, priority, interval, addresses, version)


def length(payload: bytes, family: int) -> int | None:
    """How long the packet says it is; None if even the header is not there."""
    if len(payload) < _HEADER.size:
        return None
    tail = len(_AUTHENTICATION) if payload[0] >> 4 == 2 else 0
    return _HEADER.size + payload[3] * (4 if family == 4 else 16) + tail


def checksum_form(payload: bytes, source: Address, destination: Address) -> ChecksumForm | None:
    """Which form of checksum `payload` has; None if it has neither.

    The form with a pseudo-header, where both would do.
    """
    if payload[0] >> 4 == 3 or source.version == 6:
        with_header = pseudo_header(source, destination, len(payload)) + payload
        if checksum(with_header) == 0:
            return ChecksumForm.PSEUDO
        if source.version == 6:
            return None
    return ChecksumForm.RFC9568 if checksum(payload) == 0 else None
