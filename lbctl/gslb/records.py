"""Ready answers: everything after the question, as bytes that are sent as they are.

Owner names are a pointer to the question where the question is the owner, else spelled
out; a pointer into the question would depend on the query's length.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from lbctl.gslb.wire import AA, POINTER_TO_QUESTION, Rcode, Type
from lbctl.model import Address

LARGEST = 64_000  # octets of an answer: a message by TCP has 65,535, with question and options
LONGEST_TTL = 7 * 86400  # seconds; longer is a typing error that nobody can take back
RFC8482 = b"\x07RFC8482\x00"  # a HINFO's rdata (RFC 8482 section 4.2)


class Answer(NamedTuple):
    """A reply without its id, question and OPT. flags: AA and the rcode."""

    flags: int = AA
    answers: int = 0
    authorities: int = 0
    additionals: int = 0
    body: bytes = b""

    @property
    def rcode(self) -> int:
        return self.flags & 0xF


REFUSED = Answer(flags=Rcode.REFUSED)


def record(owner: bytes, kind: int, ttl: int, rdata: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(rdata)) + rdata


def rrset(kind: int, ttl: int, rdatas: Iterable[bytes]) -> Answer:
    """The records of the name that is asked for."""
    body = [record(POINTER_TO_QUESTION, kind, ttl, rdata) for rdata in rdatas]
    return Answer(answers=len(body), body=b"".join(body))


def addresses(kind: int, ttl: int, found: Iterable[Address]) -> Answer:
    """A or AAAA records; addresses of the other family are left out."""
    version = 4 if kind == Type.A else 6
    return rrset(kind, ttl, (a.packed for a in found if a.version == version))


def alias(ttl: int, target: bytes) -> Answer:
    """A CNAME, which answers alone whatever was asked (RFC 1034 section 3.6.2)."""
    return rrset(Type.CNAME, ttl, [target])


def any_type() -> Answer:
    """What ANY gets for a name that exists (RFC 8482)."""
    return rrset(Type.HINFO, 3600, [RFC8482])


def negative(rcode: Rcode, apex: bytes, soa: bytes, ttl: int) -> Answer:
    """NXDOMAIN or NODATA, with the SOA that says how long to believe it (RFC 2308).

    ttl: seconds; never more than the SOA's own minimum.
    """
    minimum = struct.unpack("!I", soa[-4:])[0]
    body = record(apex, Type.SOA, min(ttl, minimum), soa)
    return Answer(flags=AA | rcode, authorities=1, body=body)


def referral(
    cut: bytes, ttl: int, servers: Iterable[bytes], glue: Iterable[tuple[bytes, int, int, bytes]]
) -> Answer:
    """A delegation: not ours to answer (AA is clear); whom to ask instead."""
    authority = [record(cut, Type.NS, ttl, server) for server in servers]
    extra = [record(*one) for one in glue]
    return Answer(0, 0, len(authority), len(extra), b"".join(authority + extra))
