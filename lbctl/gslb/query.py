"""What a packet asks, read with care: every octet accounted for.

`read` is the law; `responder` has short cuts for the common shapes, and a property test
says that a short cut never differs from `read`. What may not be answered at all is
`Silence`; what is answered with an error is `Refusal`.
"""

import struct
from dataclasses import dataclass

from lbctl.gslb.edns import Edns, Malformed, parse_edns
from lbctl.gslb.wire import HEADER, IN, OPCODE, QR, Rcode, Type, end_of_name


@dataclass(frozen=True, slots=True)
class Query:
    """One question. question: as it came (0x20 case kept), name to class."""

    id: bytes
    flags: int
    question: bytes
    edns: Edns | None = None

    @property
    def name(self) -> bytes:
        """Wire form, lower case."""
        return self.question[:-4].lower()

    @property
    def type(self) -> int:
        return int.from_bytes(self.question[-4:-2], "big")

    @property
    def wire_type(self) -> bytes:
        return self.question[-4:-2]


class Silence(ValueError):
    """Answering would be wrong: a response, or too short to have an id."""


class Refusal(ValueError):
    """Answered with an error and nothing else."""

    def __init__(self, rcode: Rcode, query: Query, reason: str) -> None:
        super().__init__(reason)
        self.rcode = rcode
        self.query = query


def read(data: bytes) -> Query:
    """The query in `data`. Raises Silence or Refusal, and nothing else."""
    if len(data) < HEADER:
        raise Silence("shorter than a header")
    flags, qd, an, ns, ar = struct.unpack_from("!5H", data, 2)
    if flags & QR:
        raise Silence("a response")  # answering it could loop (RFC 1035 section 7.3)
    bare = Query(data[:2], flags, b"")
    if flags & OPCODE:
        raise Refusal(Rcode.NOTIMP, bare, "an opcode other than QUERY")
    if qd > 1:
        raise Refusal(Rcode.FORMERR, bare, f"{qd} questions (RFC 9619)")
    end = HEADER
    if qd:
        end = end_of_name(data, HEADER) + 4
        if end == 4 or end > len(data):
            raise Refusal(Rcode.FORMERR, bare, "the question is cut short or malformed")
    query = Query(data[:2], flags, data[HEADER:end])
    if qd and query.type in (Type.AXFR, Type.IXFR):
        raise Refusal(Rcode.REFUSED, query, "zone transfer")  # IXFR has an authority section
    if an or ns:
        raise Refusal(Rcode.FORMERR, query, "records in a query's answer or authority")
    edns, end = _additional(data, end, ar, query)
    query = Query(data[:2], flags, data[HEADER : HEADER + len(query.question)], edns)
    if end != len(data):
        raise Refusal(Rcode.FORMERR, query, "octets after the last record")
    return _check(query, qd)


def _check(query: Query, questions: int) -> Query:
    edns = query.edns
    if edns is not None and edns.version:
        raise Refusal(Rcode.BADVERS, query, f"EDNS version {edns.version} (RFC 6891, 6.1.3)")
    if not questions:
        if edns is None or edns.cookie is None:
            raise Refusal(Rcode.FORMERR, query, "no question")
        return query  # asks for a cookie only (RFC 7873 section 5.4)
    if query.type in (0, Type.OPT):
        raise Refusal(Rcode.FORMERR, query, f"type {query.type} cannot be asked")
    if 249 <= query.type <= 254:
        raise Refusal(Rcode.NOTIMP, query, f"meta type {query.type}")
    if query.question[-2:] != IN:
        raise Refusal(Rcode.REFUSED, query, "a class other than IN")
    return query


def _additional(data: bytes, at: int, count: int, query: Query) -> tuple[Edns | None, int]:
    """The OPT record among `count` records at `at`, and where they end."""
    found: Edns | None = None
    for _ in range(count):
        start, at = at, _end_of_owner(data, at)
        if not at or at + 10 > len(data):
            raise Refusal(Rcode.FORMERR, query, "the additional section is cut short")
        kind, size, ttl, length = struct.unpack_from("!HHIH", data, at)
        at += 10
        rdata = data[at : at + length]
        at += length
        if len(rdata) != length:
            raise Refusal(Rcode.FORMERR, query, "a record runs past the end")
        if kind == Type.TSIG:
            raise Refusal(Rcode.NOTAUTH, query, "no TSIG key is known here (RFC 8945, 5.2.1)")
        if kind != Type.OPT:
            continue
        if found is not None or data[start]:
            raise Refusal(Rcode.FORMERR, query, "two OPT records, or one with a name")
        try:
            found = parse_edns(size, ttl, rdata)
        except Malformed as error:
            bad = Query(query.id, query.flags, query.question, Edns(size=max(size, 512)))
            raise Refusal(Rcode.FORMERR, bad, str(error)) from None
    return found, at


def _end_of_owner(data: bytes, at: int) -> int:
    """Like `end_of_name`, for an owner that may end in a pointer."""
    while at < len(data):
        length = data[at]
        if length >= 0xC0:
            return at + 2
        if length > 63:
            return 0
        at += 1 + length
        if not length:
            return at
    return 0
