"""The nouns of GSLB, as a person wrote them. Values only.

A *site* is a place that serves: a data centre with gateways of ours, or an `external` one
(a CDN, a cloud). A *name* is a DNS name that is balanced: it has *members*, each a site
with what to answer for it, and a *policy*. A *policy* is a chain of steps.

Each ordering step gives every member a rank for a place, and ranks compare step by step,
so an earlier step outweighs all later ones. Members that no step tells apart share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_network

from lbctl.gslb.rrl import RateLimit
from lbctl.model import AnyProbe, Endpoint, Listen, Network, Timing


@dataclass(frozen=True, slots=True)
class Location:
    """Degrees, north and east positive."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Place:
    """What the databases and overrides say of one network. Empty: not known.

    cidr: which of a policy set's CIDR maps names it; measured: which measured network.
    """

    country: str = ""  # ISO 3166-1 alpha-2
    continent: str = ""  # AF AN AS EU NA OC SA
    city: str = ""
    asn: int = 0
    location: Location | None = None
    cidr: Network | None = None
    measured: Network | None = None


NOWHERE = Place()


# --- sites ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Api:
    """A gateway's TCP listener, and the name its certificate must have."""

    endpoint: Endpoint
    server_name: str


@dataclass(frozen=True, slots=True)
class ExternalCheck:
    """How an external site is judged: a check of its own."""

    probe: AnyProbe
    target: Endpoint
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class Site:
    """apis: of its gateways; empty for an external site, which has a `check` instead (or
    none: then it is taken to be up). vips: probed when no gateway's API answers. capacity:
    connections that are a load of 1; 0: only what agents report counts."""

    location: Location | None = None
    apis: tuple[Api, ...] = ()
    check: ExternalCheck | None = None
    vips: tuple[Listen, ...] = ()
    capacity: int = 0

    @property
    def external(self) -> bool:
        return not self.apis


@dataclass(frozen=True, slots=True)
class Observers:
    """Who judges sites: the names of the observers (sites with a GSLB server, or
    witnesses), and how many must agree that a site is dead (0: a majority of those
    outside the site). silent_after: seconds after which an observer's word is stale."""

    me: str = "local"
    peers: Mapping[str, Api] = field(default_factory=dict)
    quorum: int = 0
    silent_after: float = 5.0

    @property
    def all(self) -> frozenset[str]:
        return frozenset({self.me, *self.peers})

    def outside(self, site: str) -> frozenset[str]:
        """Whose word on `site` counts: those outside it, or all if there is none."""
        return (self.all - {site}) or self.all


# --- policies ---------------------------------------------------------------------------


class Attribute(StrEnum):
    """What a `Match` step looks at."""

    CIDR = "cidr"
    ASN = "asn"
    CITY = "city"
    COUNTRY = "country"
    CONTINENT = "continent"


@dataclass(frozen=True)
class Match:
    """Sites to prefer, by an attribute of the place: rank = place in the list, the rest
    after. A place that the map does not name is left to later steps."""

    by: Attribute
    sites: Mapping[str, tuple[str, ...]]

    def __hash__(self) -> int:
        return hash((self.by, tuple(sorted(self.sites.items()))))

    def networks(self) -> list[Network]:
        """The keys of a `cidr` map."""
        return [ip_network(key) for key in self.sites]


@dataclass(frozen=True, slots=True)
class Nearest:
    """By great-circle distance, in bands of `band` km that count as equal."""

    band: float = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """By measured round-trip time, in bands of `band` seconds that count as equal."""

    band: float = 0.010


@dataclass(frozen=True, slots=True)
class Failover:
    """In the order that the name lists its members."""


@dataclass(frozen=True, slots=True)
class Healthy:
    """Members that are down or draining leave."""


@dataclass(frozen=True, slots=True)
class Spill:
    """A site above `low` load gives part of its clients to the next; above `high`, all.
    Loads are shares of capacity: 0 to 1 and above."""

    low: float = 0.7
    high: float = 0.9


@dataclass(frozen=True, slots=True)
class Weighted:
    """Members that are left in front share by weight."""


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """Members that are left in front share evenly."""


@dataclass(frozen=True, slots=True)
class Sticky:
    """A client network keeps its member (weighted rendezvous hash of the prefix)."""

    prefix4: int = 24
    prefix6: int = 56


@dataclass(frozen=True, slots=True)
class First:
    """Answer with the addresses of the best `count` members."""

    count: int = 1


Step = (
    Healthy | Match | Nearest | Measured | Failover | Spill | Weighted | RoundRobin | Sticky | First
)


class AllDown(StrEnum):
    """What is answered when no member is healthy."""

    ANY = "any"  # as if all were healthy
    NONE = "none"  # nothing: NODATA, with the name's TTL
    LAST_GOOD = "last-good"  # what was answered before
    STATIC = "static"  # the policy's `static` addresses


@dataclass(frozen=True, slots=True)
class Policy:
    steps: tuple[Step, ...] = (Healthy(), RoundRobin())
    all_down: AllDown = AllDown.ANY
    static: tuple[IPv4Address | IPv6Address, ...] = ()


# --- names and zones --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """A site as an answer: addresses, or one CNAME (wire form).

    service: the service whose state at the site is the member's; "": the site's own.
    """

    site: str
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    cname: bytes = b""
    weight: int = 1
    service: str = ""


@dataclass(frozen=True, slots=True)
class Name:
    """A balanced name, in wire form. May start with `*`."""

    wire: bytes
    policy: str
    members: tuple[Member, ...]
    ttl: int = 30


@dataclass(frozen=True, slots=True)
class Record:
    """A static RRset's record: rdata in wire form, names in it uncompressed. line: of the
    zone file."""

    name: bytes
    type: int
    ttl: int
    rdata: bytes
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Zone:
    """A delegated zone: its SOA is one of `records`."""

    apex: bytes
    records: tuple[Record, ...]
    names: tuple[Name, ...] = ()


@dataclass(frozen=True, slots=True)
class Databases:
    """Paths of MaxMind-format files; any of them may be missing ("")."""

    country: str = ""
    city: str = ""
    asn: str = ""


@dataclass(frozen=True, slots=True)
class SiteApi:
    """This gateway's listener for its peers; the rest are paths of PEM files."""

    listen: Endpoint
    certificate: str
    key: str
    ca: str


@dataclass(frozen=True)
class Gslb:
    """All of it."""

    zones: tuple[Zone, ...]
    sites: Mapping[str, Site]
    policies: Mapping[str, Policy]
    listens: tuple[Endpoint, ...] = ()
    databases: Databases = Databases()
    observers: Observers = Observers()
    rate_limit: RateLimit = field(default_factory=RateLimit)
    processes: int = 0  # 0: one per core
    cookie_secrets: tuple[bytes, ...] = ()
    identity: bytes = b""  # answers NSID (RFC 5001)
    api: SiteApi | None = None
    measure: Mapping[Network, Endpoint] = field(default_factory=dict)  # network -> its target

    def differs(self, started: "Gslb | None") -> list[str]:
        """The keys that a server which began as `started` takes at its next start only."""
        if started is None:
            return []
        parts = {
            "listen": "listens", "processes": "processes", "rate_limit": "rate_limit",
            "identity": "identity", "cookie_secret": "cookie_secrets", "api": "api",
            "measure": "measure",
        }  # fmt: skip
        keys = [key for key, part in parts.items() if getattr(self, part) != getattr(started, part)]
        if self.observers.peers != started.observers.peers:
            keys.append("observers.peers")
        if _looked_at(self) != _looked_at(started):
            keys.append("sites")
        return keys


def _looked_at(gslb: Gslb) -> dict[str, tuple[object, ...]]:
    return {name: (site.apis, site.check, site.vips) for name, site in gslb.sites.items()}
