"""EDNS(0) (RFC 6891) and the two options that matter here: client subnet and cookies.

    +0 (MSB)                            +1 (LSB)
    +---------------+---------------+---------------+---------------+
    |        OPTION-CODE = 8        |         OPTION-LENGTH         |
    +---------------+---------------+---------------+---------------+
    |      FAMILY (1: v4, 2: v6)    | SOURCE PREFIX | SCOPE PREFIX  |
    +---------------+---------------+---------------+---------------+
    |  ADDRESS: ceil(SOURCE / 8) octets, bits past SOURCE are 0     |   RFC 7871 section 6
    +---------------+---------------+---------------+---------------+

Strict, because a resolver caches by what we echo: whatever RFC 7871 forbids is FORMERR.
"""

from dataclasses import dataclass
from typing import NamedTuple

from lbctl.gslb.wire import UDP_SIZE

ECS, COOKIE, NSID = 8, 10, 3
BITS = {1: 32, 2: 128}  # by address family (RFC 7871 section 6)


class Malformed(ValueError):
    """Options that RFC 6891, 7871 or 7873 forbid: answered FORMERR."""


class Subnet(NamedTuple):
    """A client subnet as asked. network: the address left-aligned in 32 or 128 bits."""

    family: int  # 1: IPv4, 2: IPv6
    source: int  # prefix length; 0: "do not use my address" (RFC 7871 section 7.1.2)
    network: int
    raw: bytes  # the address octets, to be echoed bit-exact


@dataclass(frozen=True, slots=True)
class Edns:
    """An OPT record as received. size: what the client takes over UDP, at least 512."""

    version: int = 0
    size: int = 512
    dnssec_ok: bool = False
    subnet: Subnet | None = None
    cookie: bytes | None = None  # 8 octets of the client, then 0 or 8-32 of a server
    wants_nsid: bool = False


def parse_edns(size: int, ttl: int, options: bytes) -> Edns:
    """The OPT record with class `size`, `ttl` and rdata `options`. Raises Malformed."""
    version, flags = ttl >> 16 & 0xFF, ttl & 0xFFFF
    if version:
        return Edns(version, max(size, 512), bool(flags & 0x8000))
    subnet, cookie, nsid, at = None, None, False, 0
    while at < len(options):
        if at + 4 > len(options):
            raise Malformed("an option header is cut short")
        code = options[at] << 8 | options[at + 1]
        length = options[at + 2] << 8 | options[at + 3]
        at += 4
        value = options[at : at + length]
        at += length
        if len(value) != length:
            raise Malformed(f"option {code} runs past the record")
        if code == ECS:
            if subnet is not None:
                raise Malformed("two client subnets")
            subnet = parse_subnet(value)
        elif code == COOKIE and cookie is None:  # later ones are ignored (RFC 7873, 5.2)
            if not (length == 8 or 16 <= length <= 40):
                raise Malformed(f"a cookie of {length} octets")
            cookie = value
        elif code == NSID:
            nsid = True
    return Edns(0, max(size, 512), bool(flags & 0x8000), subnet, cookie, nsid)


def parse_subnet(value: bytes) -> Subnet:
    """A client subnet option's value. Raises Malformed, as RFC 7871 sections 6 and 7.1 ask."""
    if len(value) < 4:
        raise Malformed("a client subnet without its fixed part")
    family, source, scope = value[0] << 8 | value[1], value[2], value[3]
    bits = BITS.get(family)
    if bits is None:
        raise Malformed(f"client subnet of family {family}")
    if scope:
        raise Malformed("a query's scope is not 0")
    if source > bits:
        raise Malformed(f"a source of {source} bits")
    raw = value[4:]
    if len(raw) != (source + 7) // 8:
        raise Malformed(f"{len(raw)} address octets for {source} bits")
    network = int.from_bytes(raw, "big") << (bits - 8 * len(raw))
    if network & ((1 << (bits - source)) - 1):
        raise Malformed("bits past the source are set")
    return Subnet(family, source, network, raw)


def subnet_option(subnet: Subnet, scope: int) -> bytes:
    """The option for a reply: the query's, with our scope."""
    fixed = bytes((0, ECS, 0, 4 + len(subnet.raw), 0, subnet.family, subnet.source, scope))
    return fixed + subnet.raw


def option(code: int, value: bytes) -> bytes:
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def opt_record(options: bytes, *, dnssec_ok: bool = False, rcode: int = 0) -> bytes:
    """A reply's OPT record. DO is copied from the query (RFC 3225 section 3)."""
    ttl = (rcode >> 4) << 24 | (0x8000 if dnssec_ok else 0)
    return (
        b"\x00\x00\x29"
        + UDP_SIZE.to_bytes(2, "big")
        + ttl.to_bytes(4, "big")
        + len(options).to_bytes(2, "big")
        + options
    )
