"""One DNS query of a check and the answer to it, packed by hand: RFC 1035.

  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
|                      ID                       |     4.1.1
|QR|   Opcode  |AA|TC|RD|RA|   Z    |   RCODE   |
|    QDCOUNT    |  ANCOUNT  |  NSCOUNT | ARCOUNT |
"""

import struct
from ipaddress import ip_address

from lbctl.health.result import Failed
from lbctl.model import DnsProbe

TYPES = {"A": 1, "NS": 2, "SOA": 6, "MX": 15, "TXT": 16, "AAAA": 28}
RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
_HEADER = struct.Struct("!6H")
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of the data
_RD, _QR, _TC = 0x0100, 0x8000, 0x0200


def question(probe: DnsProbe) -> bytes:
    """The query without its id. Raises ValueError for a name that is none."""
    labels = [label.encode("ascii") for label in probe.name.rstrip(".").split(".") if label]
    if any(len(label) > 63 for label in labels) or sum(map(len, labels)) + len(labels) > 254:
        raise ValueError(f"name '{probe.name}' is too long for DNS")
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(0, _RD, 1, 0, 0, 0)[2:] + name + struct.pack("!HH", TYPES[probe.record], 1)


def judge_answer(data: bytes, id: int, asked: bytes, probe: DnsProbe) -> str | None:
    """The evidence of a good answer; None where this is no answer to the query. Raises
    Failed for a bad one."""
    if len(data) < 12:
        return None
    got, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    # 4.1.2: the question comes back as it was sent (but for the case of its letters).
    echoed = data[12 : 12 + len(asked) - 10].lower() == asked[10:].lower()
    if got != id or not flags & _QR or questions != 1 or not echoed:
        return None
    rcode = flags & 15
    name = RCODES[rcode] if rcode < len(RCODES) else f"rcode {rcode}"
    if name != probe.rcode:
        raise Failed(f"answered {name}")
    if probe.rcode != "NOERROR" or flags & _TC:
        return name
    found = list(_records(data, 2 + len(asked), answers, TYPES[probe.record]))
    if not found:
        raise Failed(f"answered without a record of type {probe.record}")
    if probe.answer and ip_address(probe.answer).packed not in found:
        raise Failed(f"{probe.answer} is not among the {len(found)} addresses in the answer")
    return f"{name}, {len(found)} {probe.record}"


def _records(data: bytes, at: int, count: int, kind: int) -> "list[bytes]":
    """The data of the records of type `kind` in the answer section."""
    found = []
    try:
        for _ in range(count):
            at = _past_name(data, at)
            type_, _, _, length = _FIXED.unpack_from(data, at)
            at += _FIXED.size
            if type_ == kind and at + length <= len(data):
                found.append(data[at : at + length])
            at += length
    except (struct.error, IndexError):
        raise Failed("a malformed answer") from None
    return found


def _past_name(data: bytes, at: int) -> int:
    """4.1.4: a name ends with a zero, or with a pointer to the rest of it."""
    while (length := data[at]) != 0:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1
