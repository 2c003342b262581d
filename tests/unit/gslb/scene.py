"""A small GSLB to test with: three sites, four policies, one zone, made-up networks."""

import random
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest

from lbctl.gslb import regions
from lbctl.gslb.answers import Answers, read_names, write_names
from lbctl.gslb.compiler import Compiler
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.layers import Layer, Layers, table
from lbctl.gslb.model import (
    AllDown,
    Attribute,
    Failover,
    First,
    Gslb,
    Healthy,
    Location,
    Match,
    Measured,
    Member,
    Name,
    Nearest,
    Place,
    Policy,
    Record,
    RoundRobin,
    Site,
    Spill,
    Sticky,
    Weighted,
    Zone,
)
from lbctl.gslb.networks import BITS, Prefix, flatten, key_of
from lbctl.gslb.plan import plan
from lbctl.gslb.policy import Weather
from lbctl.gslb.responder import Responder
from lbctl.gslb.rrl import RateLimit
from lbctl.gslb.wire import Type, name_to_wire

# How many mutated packets a fuzz takes, here and in `make test-long`.
MUTATIONS = [
    20_000,
    pytest.param(1_000_000, marks=(pytest.mark.long, pytest.mark.timeout(900))),
]
APEX = name_to_wire("gslb.example")
SOA = (
    name_to_wire("ns1.gslb.example")
    + name_to_wire("hostmaster.gslb.example")
    + struct.pack("!5I", 7, 3600, 600, 86400, 60)
)
SITES = {
    "seoul": Site(Location(37.57, 126.98)),
    "tokyo": Site(Location(35.68, 139.69)),
    "frankfurt": Site(Location(50.11, 8.68)),
    "cdn": Site(),
}
SEOUL4, TOKYO4, FRANKFURT4 = "198.51.100.1", "198.51.100.2", "198.51.100.3"
SEOUL6, TOKYO6 = "2001:db8:100::1", "2001:db8:100::2"
CDN = name_to_wire("www.cdn.example")

KT = Place("KR", "AS", "Seoul", 4766, Location(37.6, 127.0))
SKB = Place("KR", "AS", "Busan", 9318, Location(35.2, 129.1))
NTT = Place("JP", "AS", "Tokyo", 2914, Location(35.7, 139.7))
DTAG = Place("DE", "EU", "Berlin", 3320, Location(52.5, 13.4))
NETWORKS = {
    "198.18.0.0/18": KT,
    "198.18.64.0/18": SKB,
    "198.18.128.0/17": NTT,
    "198.19.0.0/16": DTAG,
    "2001:db8:1::/48": KT,
    "2001:db8:2::/48": NTT,
}

GEO = (
    Healthy(),
    Match(Attribute.CIDR, {"198.18.3.0/24": ("frankfurt",)}),
    Match(Attribute.ASN, {"4766": ("seoul",), "9318": ("tokyo", "seoul")}),
    Match(Attribute.CITY, {"KR/Busan": ("tokyo",)}),
    Match(Attribute.COUNTRY, {"KR": ("seoul",), "JP": ("tokyo",)}),
    Match(Attribute.CONTINENT, {"EU": ("frankfurt",), "AS": ("seoul", "tokyo")}),
    Nearest(),
    Failover(),
)
POLICIES = {
    "geo": Policy(GEO),
    "weighted": Policy((Healthy(), Weighted())),
    "sticky": Policy((Healthy(), Sticky())),
    "first2": Policy((Healthy(), Failover(), First(2))),
    "spill": Policy((Healthy(), Failover(), Spill(0.5, 0.9))),
    "measured": Policy((Healthy(), Measured(), Failover())),
    "none": Policy((Healthy(), Failover()), AllDown.NONE),
    "static": Policy((Healthy(), Failover()), AllDown.STATIC, (ip_address("192.0.2.99"),)),
    "good": Policy((Healthy(), Failover()), AllDown.LAST_GOOD),
    "even": Policy((Healthy(), RoundRobin())),
}


def member(site: str, *addresses: str, weight: int = 1, service: str = "") -> Member:
    return Member(site, tuple(map(ip_address, addresses)), b"", weight, service)


THREE = (
    member("seoul", SEOUL4, SEOUL6, weight=5),
    member("tokyo", TOKYO4, TOKYO6, weight=3),
    member("frankfurt", FRANKFURT4, weight=2),
)
BALANCED = tuple(Name(name_to_wire(f"{policy}.gslb.example"), policy, THREE) for policy in POLICIES)
IMG = Name(
    name_to_wire("img.gslb.example"),
    "geo",
    (THREE[0], THREE[1], Member("cdn", (), CDN)),
    ttl=20,
)
WILD = Name(name_to_wire("*.apps.gslb.example"), "geo", THREE)


def record(name: str, kind: int, rdata: bytes, ttl: int = 300) -> Record:
    return Record(name_to_wire(name), kind, ttl, rdata)


RECORDS = (
    record("gslb.example", Type.SOA, SOA),
    record("gslb.example", Type.NS, name_to_wire("ns1.gslb.example")),
    record("ns1.gslb.example", Type.A, ip_address("192.0.2.53").packed),
    record("alias.gslb.example", Type.CNAME, name_to_wire("geo.gslb.example")),
    record("big.gslb.example", 16, b"\xff" + b"x" * 255),
    record("big.gslb.example", 16, b"\xff" + b"y" * 255),
    record("big.gslb.example", 16, b"\xff" + b"z" * 255),
    record("a.b.c.gslb.example", Type.A, ip_address("192.0.2.7").packed),
    record("sub.gslb.example", Type.NS, name_to_wire("ns.sub.gslb.example")),
    record("ns.sub.gslb.example", Type.A, ip_address("192.0.2.8").packed),
    record("spf.gslb.example", 99, b"\x02hi"),  # type 0x63: 'c', what 'C' lower-cases to
)
GSLB = Gslb((Zone(APEX, RECORDS, (*BALANCED, IMG, WILD)),), SITES, POLICIES)


def layer(networks: dict[str, Place]) -> Layer:
    places = [Place(), *dict.fromkeys(networks.values())]
    prefixes: dict[int, list[Prefix[int]]] = {4: [], 6: []}
    for text, place in networks.items():
        network = ip_network(text)
        key, length = key_of(network)
        prefixes[network.version].append(Prefix(key, length, places.index(place)))
    v4, v6 = (flatten(prefixes[version], BITS[version], 0) for version in (4, 6))
    return Layer(v4, v6, places)


LAYER = layer(NETWORKS)


class Server:
    """A responder, with a compiler behind it."""

    def __init__(
        self,
        gslb: Gslb = GSLB,
        limit: RateLimit | None = None,
        measured: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        self.plan = plan(gslb)
        layers = Layers(LAYER, LAYER)
        tables = [table(key, gslb.sites, layers, measured) for key in self.plan.tables]
        self.compiler = Compiler(self.plan, [one.regions for one in tables])
        self.cookies = Cookies(b"0123456789abcdef")
        self.responder = Responder(limit or RateLimit(10**9, 10**9), self.cookies, b"test")
        self.responder.tick(100.0, 1_800_000_000)
        self._names = write_names(list(self.plan.slots))
        self._maps = regions.write([(one.v4, one.v6) for one in tables])
        self.load(Weather())

    def load(self, weather: Weather) -> None:
        answers = Answers(memoryview(self.compiler.answers(weather)))
        names = read_names(memoryview(self._names))
        self.responder.load(names, answers, regions.read(memoryview(self._maps)))

    def weather(self, weather: Weather) -> None:
        self.responder.swap(Answers(memoryview(self.compiler.answers(weather))))

    def ask(self, query: bytes, source: str = "192.0.2.200") -> bytes | None:
        return self.responder.reply(query, ip_address(source).packed)


def ecs(text: str) -> bytes:
    """A client subnet option, whole."""
    network = ip_network(text)
    octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
    family = 1 if network.version == 4 else 2
    value = struct.pack("!HBB", family, network.prefixlen, 0) + octets
    return struct.pack("!HH", 8, len(value)) + value


def opt(options: bytes = b"", *, size: int = 1232, ttl: int = 0) -> bytes:
    return b"\0" + struct.pack("!HHIH", 41, size, ttl, len(options)) + options


def query(
    name: str,
    kind: int = Type.A,
    extra: bytes | None = None,
    *,
    flags: int = 0x0100,
    id: int = 0x1234,
) -> bytes:
    """extra: the additional section's one record."""
    labels = name.rstrip(".").split(".") if name.strip(".") else []
    wire = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    count = 0 if extra is None else 1
    head = struct.pack("!6H", id, flags, 1, 0, 0, count)
    return head + wire + struct.pack("!HH", kind, 1) + (extra or b"")


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """Good queries with up to three octets changed, a fifth of them cut short."""
    rng = random.Random(seed)
    seeds = [
        query("geo.gslb.example", kind, extra)
        for kind in (1, 28, 255)
        for extra in (None, opt(), opt(ecs("198.18.3.0/24")), opt(b"\0\x0a\0\x08clientck"))
    ]
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        yield bytes(data)
