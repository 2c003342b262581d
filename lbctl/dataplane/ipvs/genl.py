"""Netlink and generic netlink in bytes: no socket, no meaning.

    +----------+---------+-------+-----+------+  nlmsghdr, 16 bytes
    | length   | type    | flags | seq | port |
    +----------+---------+-------+-----+------+
    | command  | version | 0     |             genlmsghdr, 4 bytes
    +----------+---------+-------+-----+------+
    | attributes: length (with these 4 bytes), type, value, padded to 4 bytes   |

All numbers are in host order, except where an attribute says otherwise
(linux/netlink.h, linux/genetlink.h).
"""

from collections.abc import Iterator, Mapping
from struct import Struct
from sys import byteorder
from typing import NamedTuple

NOTHING, ERROR, DONE = 1, 2, 3  # message types below a family's own
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what is dumped changed meanwhile
NESTED = 0x8000
CONTROL = 0x10  # the family that knows the others' numbers
GET_FAMILY = 3
FAMILY_ID, FAMILY_NAME = 1, 2

_HEADER = Struct("=IHHII")
_FULL_HEADER = Struct("=IHHIIBBH")
_ATTRIBUTE = Struct("=HH")
_ERRNO = Struct("=i")

Attributes = Mapping[int, memoryview]


class Garbled(ValueError):
    """Bytes that are no netlink message."""


class Reply(NamedTuple):
    """One message from the kernel. errno: of an ERROR or DONE message, positive; 0 is an
    acknowledgement. body: attributes of any other message."""

    type: int
    flags: int
    sequence: int
    errno: int
    body: memoryview


def message(family: int, flags: int, sequence: int, command: int, attributes: bytes) -> bytes:
    length = _FULL_HEADER.size + len(attributes)
    header = _FULL_HEADER.pack(length, family, flags | REQUEST, sequence, 0, command, 1, 0)
    return header + attributes


def nothing(flags: int, sequence: int) -> bytes:
    """A message that the kernel only answers (NLMSG_NOOP)."""
    return _HEADER.pack(_HEADER.size, NOTHING, flags | REQUEST, sequence, 0)


def replies(datagram: memoryview) -> Iterator[Reply]:
    """The messages in what one recv() gave. Raises Garbled."""
    offset = 0
    while offset < len(datagram):
        if len(datagram) - offset < _HEADER.size:
            raise Garbled("a header that is cut off")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if not _HEADER.size <= length <= len(datagram) - offset:
            raise Garbled(f"a message of {length} bytes in {len(datagram) - offset}")
        errno = 0
        if kind in (ERROR, DONE) and length >= _HEADER.size + 4:
            errno = -_ERRNO.unpack_from(datagram, offset + _HEADER.size)[0]
        body = datagram[offset + _HEADER.size + 4 : offset + length]
        yield Reply(kind, flags, sequence, errno, body)
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *values: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(values))


def attributes(data: memoryview) -> dict[int, memoryview]:
    """Attributes by type; of a type that comes twice, the last. Raises Garbled."""
    found: dict[int, memoryview] = {}
    offset, end = 0, len(data)
    while end - offset >= 4:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not 4 <= length <= end - offset:
            raise Garbled(f"an attribute of {length} bytes in {end - offset}")
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def number(value: memoryview) -> int:
    """A number in host order, as wide as it comes."""
    return int.from_bytes(value, byteorder)


def big_endian(value: memoryview) -> int:
    return int.from_bytes(value, "big")


def text(value: memoryview) -> str:
    return bytes(value).split(b"\0", 1)[0].decode(errors="replace")
