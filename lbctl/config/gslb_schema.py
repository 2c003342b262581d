"""The `gslb` section as pydantic models. `lbctl.config.gslb` makes the nouns of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from ipaddress import ip_network
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator

from lbctl.config.fault import did_you_mean, show
from lbctl.config.fields import (
    Duration,
    HostAddress,
    HttpHost,
    Name,
    Prefix,
    Statuses,
    UrlPath,
)
from lbctl.config.strict import STRICT
from lbctl.gslb.model import (
    AllDown,
    Attribute,
    Failover,
    First,
    Healthy,
    Location,
    Match,
    Measured,
    Nearest,
    RoundRobin,
    Spill,
    Step,
    Sticky,
    Weighted,
)
from lbctl.gslb.records import LONGEST_TTL
from lbctl.gslb.wire import name_to_wire
from lbctl.model import Endpoint, Listen

SINGLE: Mapping[str, Step] = {
    "healthy": Healthy(),
    "nearest": Nearest(),
    "measured": Measured(),
    "failover": Failover(),
    "spill": Spill(),
    "weighted": Weighted(),
    "round-robin": RoundRobin(),
    "sticky": Sticky(),
}
STEPS = [*SINGLE, "first", *Attribute]
SMALLEST, LARGEST = 1e-6, 1e6  # of a step's numbers
Raw = Any


def _endpoint(value: Raw) -> Endpoint:
    try:
        return Endpoint.parse(str(value))
    except ValueError:
        raise ValueError(f"{show(value)} is not ADDRESS:PORT (write 192.0.2.53:53)") from None


def _listen(value: Raw) -> Listen:
    return Listen.parse(str(value))


def _location(value: Raw) -> Location:
    if isinstance(value, list) and len(value) == 2 and all(_number(part) for part in value):
        latitude, longitude = map(float, value)
        if -90 <= latitude <= 90 and -180 <= longitude <= 180:
            return Location(latitude, longitude)
    raise ValueError(f"{show(value)} is not [LATITUDE, LONGITUDE] in degrees")


def _number(value: Raw) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def step(value: Raw) -> Step:
    """One step: a word, or a mapping of one word to its settings."""
    if isinstance(value, str) and value in SINGLE:
        return SINGLE[value]
    if isinstance(value, dict) and len(value) == 1:
        word, settings = next(iter(value.items()))
        if word in list(Attribute):
            return Match(Attribute(word), _map(word, settings))
        if word == "first" and isinstance(settings, int) and 1 <= settings <= 8:
            return First(settings)
        if word in SINGLE and isinstance(settings, dict):
            return _with(word, settings)
    word = value if isinstance(value, str) else next(iter(value), "") if value else ""
    hint = did_you_mean(str(word), STEPS) or f"one of {', '.join(STEPS)}"
    raise ValueError(f"{show(value)} is not a step ({hint})")


def _with(word: str, settings: dict[str, Raw]) -> Step:
    kind = type(SINGLE[word])
    known = {field.name for field in fields(kind)}
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"{word} has no '{key}' (known: {', '.join(sorted(known)) or 'none'})")
        if not _number(value) or not SMALLEST <= value <= LARGEST:
            text = f"{word}.{key}: {show(value)} is not a positive number"
            raise ValueError(f"{text} ({SMALLEST:g} to {LARGEST:g})")
        if kind is Sticky and not isinstance(value, int):
            raise ValueError(f"{word}.{key}: {show(value)} is not a whole number of bits")
    made: Step = kind(**settings)
    if isinstance(made, Spill) and made.low >= made.high:
        raise ValueError(f"spill: low {made.low:g} is not under high {made.high:g}")
    if isinstance(made, Sticky) and not (made.prefix4 <= 32 and made.prefix6 <= 64):
        raise ValueError("sticky: prefix4 is at most 32, prefix6 at most 64")
    return made


def _map(word: str, settings: Raw) -> dict[str, tuple[str, ...]]:
    if not isinstance(settings, dict) or not settings:
        raise ValueError(f"{word} wants a mapping of what to which sites")
    return {_key(word, str(key)): _sites(word, key, value) for key, value in settings.items()}


def _key(word: str, key: str) -> str:
    if word == Attribute.CIDR:
        return str(ip_network(key))
    if word == Attribute.ASN:
        number = key.upper().removeprefix("AS")
        if not number.isdigit():
            raise ValueError(f"asn: '{key}' is not a number (write 4766)")
        return number
    lengths = {Attribute.COUNTRY: "KR", Attribute.CONTINENT: "AS"}
    if word in lengths and not (len(key) == 2 and key.isalpha() and key.isupper()):
        raise ValueError(
            f"{word}: '{key}' is not a two-letter code (write {lengths[Attribute(word)]})"
        )
    if word == Attribute.CITY and "/" not in key:
        raise ValueError(f"city: '{key}' has no country (write KR/Busan)")
    return key


def _sites(word: str, key: str, value: Raw) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed or not all(isinstance(s, str) for s in listed):
        raise ValueError(f"{word} {key}: {show(value)} is not a site or a list of sites")
    return tuple(listed)


def _dns_name(value: Raw) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not a DNS name")
    return name_to_wire(value)


def _listed(value: Raw) -> Raw:
    return value if isinstance(value, list) else [value]


def _long_member(value: Raw) -> Raw:
    """`198.51.100.1`, a list of addresses, or a mapping."""
    return value if isinstance(value, dict) else {"addresses": value}


Ttl = Annotated[int, Field(ge=1, le=LONGEST_TTL)]
Where = Annotated[Endpoint, PlainValidator(_endpoint, json_schema_input_type=str)]
Vip = Annotated[Listen, PlainValidator(_listen, json_schema_input_type=str)]
Vips = Annotated[list[Vip], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Wheres = Annotated[list[Where], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
StepField = Annotated[Step, PlainValidator(step, json_schema_input_type=str | dict[str, Any])]
DnsName = Annotated[bytes, PlainValidator(_dns_name, json_schema_input_type=str)]
Addresses = Annotated[
    list[HostAddress], BeforeValidator(_listed, json_schema_input_type=str | list[str])
]


class Section(BaseModel):
    """Unknown keys are errors, and no value is bent into another type."""

    model_config = STRICT


class ApiSection(Section):
    """A TCP listener of another gateway, and the name its certificate must have."""

    api: Where
    """ADDRESS:PORT of its `gslb.api.listen`."""
    name: str
    """The name in its certificate."""


class ProbeSection(Section):
    """How an external site is judged."""

    type: Literal["tcp", "http"] = "tcp"
    """A connection, or a request."""
    target: Where
    """ADDRESS:PORT to ask."""
    path: UrlPath = "/"
    """What is asked for, by http."""
    host: HttpHost = ""
    """The Host header."""
    status: Statuses = [(200, 399)]
    """The statuses that pass."""
    interval: Duration = 2.0
    """From one probe to the next."""
    timeout: Duration = 1.0
    """How long a probe may take."""
    fall: Annotated[int, Field(ge=1, le=255)] = 3
    """So many failures in a row, and it is down."""
    rise: Annotated[int, Field(ge=1, le=255)] = 2
    """So many passes in a row, and it is up again."""


class SiteSection(Section):
    """A place that serves: gateways of ours, or an external one with a probe."""

    location: Annotated[
        Location | None, PlainValidator(_location, json_schema_input_type=list[float])
    ] = None
    """[LATITUDE, LONGITUDE], for `nearest`."""
    gateways: list[ApiSection] = []
    """Its gateways' API listeners; none: an external site."""
    vips: Annotated[
        list[Vip], BeforeValidator(_listed, json_schema_input_type=str | list[str])
    ] = []
    """Probed when no gateway's API answers."""
    capacity: Annotated[int, Field(ge=0)] = 0
    """Connections that are a load of 1, for `spill`; 0: only what agents report counts."""
    probe: ProbeSection | None = None
    """How an external site is judged; none: it is taken to be up."""


class ObserversSection(Section):
    """Who judges the sites."""

    peers: dict[Name, ApiSection] = {}
    """Observers by name: sites with a GSLB server, and witnesses."""
    quorum: Annotated[int, Field(ge=0, le=99)] = 0
    """How many must agree that a site is dead; 0: a majority of those outside it."""
    silent_after: Duration = 5.0
    """An observer's word is stale after so long."""


class PolicySection(Section):
    """A chain of steps."""

    steps: Annotated[list[StepField], Field(min_length=1)]
    """healthy, cidr, asn, city, country, continent, nearest, measured, failover, spill,
    weighted, round-robin, sticky, first."""
    all_down: Annotated[AllDown, Field(strict=False)] = AllDown.ANY
    """When no member is healthy: all as if they were, nothing, the last answers, `static`."""
    static: Addresses = []
    """The addresses for all_down static."""


class MemberSection(Section):
    """A site as an answer."""

    addresses: Addresses = []
    """Its addresses, of both families."""
    cname: DnsName | None = None
    """Or a name to send clients to."""
    weight: Annotated[int, Field(ge=0, le=65535)] = 1
    """Its share, for `weighted` and `sticky`."""
    service: str = ""
    """The service at the site whose health counts; the site's own otherwise."""


MemberField = Annotated[
    MemberSection,
    BeforeValidator(_long_member, json_schema_input_type=str | list[str] | MemberSection),
]


class NameSection(Section):
    """A balanced name."""

    policy: str
    """Which of `policies`."""
    ttl: Ttl = 30
    """Seconds that resolvers keep an answer."""
    members: Annotated[dict[Name, MemberField], Field(min_length=1)]
    """Sites and what to answer for each."""


class ZoneSection(Section):
    """A delegated zone."""

    file: str
    """A zone file with SOA, NS and static records."""
    names: dict[str, NameSection] = {}
    """Balanced names, relative to the zone (`www`), `@` for the zone itself."""


class RateSection(Section):
    """Replies a second to one network without a cookie."""

    responses: Annotated[int, Field(ge=1)] = 1000
    """In all."""
    errors: Annotated[int, Field(ge=1)] = 100
    """Of them negative ones and errors."""
    slip: Annotated[int, Field(ge=0, le=100)] = 2
    """Every so many limited replies goes out truncated; 0: none."""


class DatabasesSection(Section):
    """MaxMind-format files."""

    country: str = ""
    """Of countries; not needed beside one of cities."""
    city: str = ""
    """Of cities, with countries and coordinates."""
    asn: str = ""
    """Of providers."""


class SiteApiSection(Section):
    """This gateway's listener for its peers: mutual TLS."""

    listen: Where
    """ADDRESS:PORT."""
    certificate: str
    """PEM file: this gateway's certificate and those between it and the CA."""
    key: str
    """PEM file."""
    ca: str
    """PEM file: who signs the peers' certificates."""


class GslbSection(Section):
    """DNS that sends each user to the right site."""

    listen: Annotated[
        list[Where],
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ]
    """ADDRESS:PORT of the name server; UDP and TCP."""
    processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Worker processes; 0: one per core."""
    identity: str = ""
    """What NSID says."""
    cookie_secret: str = ""
    """A file with the cookie secret (16 to 32 octets as hex, one a line, the first signs);
    none: a random one, which other gateways do not know."""
    rate_limit: RateSection = Field(default_factory=RateSection)
    """How much one network may make us send."""
    databases: DatabasesSection = Field(default_factory=DatabasesSection)
    """What is known of networks."""
    sites: dict[Name, SiteSection] = {}
    """The sites, by name."""
    observers: ObserversSection = Field(default_factory=ObserversSection)
    """Whose word on a site counts, and how many of them it takes."""
    policies: dict[Name, PolicySection] = {}
    """The policies, by name."""
    zones: dict[str, ZoneSection]
    """The zones, by name."""
    api: SiteApiSection | None = None
    """The listener for peers."""
    measure: Annotated[dict[Prefix, Where], Field(max_length=256)] = {}
    """NETWORK: ADDRESS:PORT of something near it that answers TCP; for `measured`."""


class _At(NamedTuple):
    pattern: tuple[str, ...]
    section: type[Section]


_SECTIONS = (
    _At((), GslbSection),
    _At(("rate_limit",), RateSection),
    _At(("databases",), DatabasesSection),
    _At(("observers",), ObserversSection),
    _At(("observers", "peers", "*"), ApiSection),
    _At(("sites", "*"), SiteSection),
    _At(("sites", "*", "probe"), ProbeSection),
    _At(("sites", "*", "gateways", "*"), ApiSection),
    _At(("policies", "*"), PolicySection),
    _At(("zones", "*"), ZoneSection),
    _At(("zones", "*", "names", "*"), NameSection),
    _At(("zones", "*", "names", "*", "members", "*"), MemberSection),
    _At(("api",), SiteApiSection),
)


def keys_at(path: Sequence[str | int]) -> list[str]:
    """The keys that the part of the section at `path` knows."""
    for pattern, section in _SECTIONS:
        if len(pattern) == len(path) and all(
            want in ("*", part) for want, part in zip(pattern, path, strict=True)
        ):
            return list(section.model_fields)
    return []
