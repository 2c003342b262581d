"""DNS on the wire: the numbers, and names in both spellings (RFC 1035 sections 3 and 4).

A name is kept in wire form, lower case: `b"\\x03www\\x07example\\x00"`. Lower-casing wire
bytes is safe: a length octet is at most 63, below every letter.
"""

from enum import IntEnum

HEADER = 12
MAX_NAME = 255
MAX_LABEL = 63
POINTER_TO_QUESTION = b"\xc0\x0c"  # every question starts right after the header
IN = b"\x00\x01"
UDP_SIZE = 1232  # what we take and the most we send (DNS flag day 2020): one unfragmented packet
PLAIN_SIZE = 512  # the most a client without EDNS takes (RFC 1035 section 2.3.4)


class Type(IntEnum):
    A = 1
    NS = 2
    CNAME = 5
    SOA = 6
    HINFO = 13
    AAAA = 28
    OPT = 41
    TSIG = 250
    IXFR = 251
    AXFR = 252
    ANY = 255


class Rcode(IntEnum):
    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    NOTAUTH = 9
    BADVERS = 16
    BADCOOKIE = 23


QR, AA, TC, RD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0010
OPCODE = 0x7800


def name_to_wire(text: str) -> bytes:
    """`www.Example.com` or `www.example.com.` -> wire form, lower case.

    Raises ValueError for what is no host-like name: an empty or long label, more than 255
    octets, or characters outside ASCII (write those in punycode).
    """
    labels = text.removesuffix(".").split(".") if text not in ("", ".") else []
    wire = bytearray()
    for label in labels:
        if not label:
            raise ValueError(f"'{text}' has an empty label")
        if not label.isascii() or any(c <= " " for c in label):
            raise ValueError(f"'{text}' is not plain ASCII (write xn--... for other scripts)")
        if len(label) > MAX_LABEL:
            raise ValueError(f"'{text}' has a label of {len(label)} characters (at most 63)")
        wire.append(len(label))
        wire += label.lower().encode()
    wire.append(0)
    if len(wire) > MAX_NAME:
        raise ValueError(f"'{text}' has {len(wire)} octets (at most 255)")
    return bytes(wire)


def name_to_text(wire: bytes) -> str:
    """Wire form -> `www.example.com.`; octets that are not printable as `\\DDD`."""
    labels = [
        "".join(chr(c) if 33 <= c <= 126 and c not in b'.\\"' else f"\\{c:03d}" for c in label)
        for label in labels_of(wire)
    ]
    return ".".join(labels) + "."


def labels_of(wire: bytes) -> list[bytes]:
    """The labels of a valid wire name, from the left, without the root."""
    labels, at = [], 0
    while length := wire[at]:
        labels.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
    return labels


def parent(wire: bytes) -> bytes:
    """The name one label up. The root has none: do not ask."""
    return wire[1 + wire[0] :]


def is_below(wire: bytes, apex: bytes) -> bool:
    """Whether `wire` is `apex` or lies under it, label by label."""
    while len(wire) > len(apex):
        wire = parent(wire)
    return wire == apex


def end_of_name(data: bytes, at: int) -> int:
    """Where the uncompressed name that starts at `at` ends; 0 if there is no such name.

    A question holds the first name of a message, so a pointer in it could only point to
    itself or into the header: it is malformed (RFC 1035 section 4.1.4).
    """
    start, size = at, len(data)
    while at < size:
        length = data[at]
        at += 1 + length
        if length == 0:
            return at if at - start <= MAX_NAME else 0
        if length > MAX_LABEL:
            return 0
    return 0
