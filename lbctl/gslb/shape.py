"""The shape of an OPT record: all of it that does not change from query to query.

Clients and resolvers send few shapes, millions of times. A shape is learnt once, from a
record that `edns.parse_edns` has found good, and then recognised by the record's first 15
octets (owner to the first option's length) and its size; of a second option its header is
compared. What is left to read are the values: a subnet, a cookie.

    owner type size ttl rdlen | code length value | code length value
    0     1    3    5   9       11   13     15
"""

from dataclasses import dataclass

from lbctl.gslb.edns import BITS, COOKIE, ECS
from lbctl.gslb.wire import PLAIN_SIZE, UDP_SIZE

FIXED = 11  # octets of an OPT record before its options
KEY = 15


@dataclass(frozen=True, slots=True)
class Shape:
    """Offsets are from the OPT record's start; 0: not there.

    limit: octets that the client takes, once it has shown a cookie. opening: our OPT
    record up to its options, with the length they will have.
    """

    octets: int = 0
    edns: bool = False
    subnet: int = 0
    address: int = 0  # octets of the subnet's address
    cookie: int = 0
    cookie_end: int = 0
    second: int = 0
    second_header: bytes = b""
    limit: int = PLAIN_SIZE
    opening: bytes = b""


NO_EDNS = Shape()


def learn(opt: bytes) -> Shape | None:
    """The shape of a good OPT record that ends the message; None for one that is rare."""
    found: dict[int, tuple[int, int]] = {}
    headers = []
    at = FIXED
    while at < len(opt):
        code, length = opt[at] << 8 | opt[at + 1], opt[at + 2] << 8 | opt[at + 3]
        if code not in (ECS, COOKIE) or code in found or len(opt) > 255:
            return None
        headers.append(at)
        found[code] = (at + 4, length)
        at += 4 + length
    subnet, subnet_length = found.get(ECS, (0, 4))
    cookie, cookie_length = found.get(COOKIE, (0, 0))
    second = headers[1] if len(headers) > 1 else 0
    reply = (4 + subnet_length if subnet else 0) + (4 + 24 if cookie else 0)
    ttl = b"\x00\x00\x80\x00" if opt[7] & 0x80 else bytes(4)
    size = min(UDP_SIZE, max(PLAIN_SIZE, opt[3] << 8 | opt[4]))
    return Shape(
        octets=len(opt),
        edns=True,
        subnet=subnet,
        address=subnet_length - 4,
        cookie=cookie,
        cookie_end=cookie + cookie_length,
        second=second,
        second_header=opt[second : second + 4] if second else b"",
        limit=size,
        opening=b"\x00\x00\x29" + UDP_SIZE.to_bytes(2, "big") + ttl + reply.to_bytes(2, "big"),
    )


@dataclass(frozen=True, slots=True)
class SubnetField:
    """What family and source prefix (with scope 0) mean for the address that follows.

    octets: of the address. widen: bits to shift it up to a key's size; drop: bits to
    shift it down instead (IPv6 past the upper half). spare: bits that must be 0.
    """

    octets: int
    widen: int
    drop: int
    spare: int
    v4: bool


def _fields() -> dict[bytes, SubnetField]:
    fields = {}
    for family, bits in BITS.items():
        for source in range(1, bits + 1):
            octets = (source + 7) // 8
            key_bits = min(bits, 64)
            spare = (1 << (8 * octets - source)) - 1
            widen, drop = max(0, key_bits - 8 * octets), max(0, 8 * octets - key_bits)
            field = SubnetField(octets, widen, drop, spare, family == 1)
            fields[bytes((0, family, source, 0))] = field
    return fields


SUBNET_FIELDS = _fields()  # source 0 is left to the careful path
