"""The nouns of lbctl. Values only: frozen, comparable, without I/O.

Two families live here:

* what a person wrote: `Config`, `Gateway`, `Service`, `Server`, `Check`;
* what a data path holds: `Table`, `VirtualService`, `Destination`. One type for desired
  and observed, so that comparing them is a pure function of two values.

A `Table` is keyed by *listen*, not by service name: a listen is what a packet meets and
what any kernel can read back, and the gateway that owns a listen's address is the sole
author of what lies behind it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
)
from types import MappingProxyType
from typing import Literal, NamedTuple, Self

import msgspec

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface  # an address of a machine, with its network

MAX_WEIGHT = 65535
NOTHING: Mapping[str, str] = MappingProxyType({})


class Proto(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


def family_of(address: Address) -> Family:
    return Family.IPV4 if address.version == 4 else Family.IPV6


def _port(text: str, whole: str, lowest: int = 1) -> int:
    if not (text.isascii() and text.isdigit() and lowest <= int(text) <= 65535):
        raise ValueError(f"'{whole}' has no valid port (1 to 65535)")
    return int(text)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An address and a port: `192.0.2.1:80` or `[2001:db8::1]:80`."""

    address: Address
    port: int

    @classmethod
    def parse(cls, text: str, lowest: int = 1) -> Self:
        """lowest: 0 where the text is our own, and may be of what has no port."""
        host, colon, port = text.rpartition(":")
        if not colon or not host or (":" in host) != host.startswith("["):
            raise ValueError(f"'{text}' is not ADDRESS:PORT (IPv6: [ADDRESS]:PORT)")
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        return cls(address, _port(port, text, lowest))

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"

    def __hash__(self) -> int:
        # An address hashes its hexadecimal text, which a table of thousands feels.
        return hash((int(self.address), self.port))

    def sort_key(self) -> tuple[int, int, int]:
        """Orders IPv4 before IPv6, which compare with each other in no other way."""
        return self.address.version, int(self.address), self.port


@dataclass(frozen=True, slots=True)
class Listen:
    """What clients connect to: `192.0.2.10:80/tcp`."""

    address: Address
    port: int
    proto: Proto
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Kept: everything is looked up by it. (An enum's own hash would cost as much again.)
        object.__setattr__(self, "_hash", hash((int(self.address), self.port)))

    @classmethod
    def parse(cls, text: str) -> Self:
        endpoint, slash, proto = text.rpartition("/")
        if not slash:
            hint = "write ADDRESS:PORT/PROTO"
            if ":" not in text:
                raise ValueError(f"'{text}' has no address ({hint})")
            raise ValueError(f"'{text}' has no protocol ({hint})")
        if proto not in list(Proto):
            raise ValueError(f"'{text}': protocol is one of {', '.join(Proto)}")
        if ":" not in endpoint:
            raise ValueError(f"'{text}' has no address (write ADDRESS:PORT/PROTO)")
        where = Endpoint.parse(endpoint)
        return cls(where.address, where.port, Proto(proto))

    def __hash__(self) -> int:
        return self._hash

    @property
    def family(self) -> Family:
        return family_of(self.address)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.address, self.port)

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.proto}"

    def sort_key(self) -> tuple[int, int, int, str]:
        return self.address.version, int(self.address), self.port, self.proto


@dataclass(frozen=True, slots=True)
class FirewallMark:
    """Packets that a firewall marked: `fwmark:7/ipv4`. Only IPVS has these."""

    mark: int
    family: Family

    @classmethod
    def parse(cls, text: str) -> Self:
        number, _, family = text.removeprefix("fwmark:").partition("/")
        if not (number.isascii() and number.isdigit() and 0 < int(number) < 2**32):
            raise ValueError(f"'{text}': a firewall mark is a number from 1 to {2**32 - 1}")
        if family not in list(Family):
            raise ValueError(f"'{text}' has no family (write fwmark:NUMBER/ipv4 or /ipv6)")
        return cls(int(number), Family(family))

    def __str__(self) -> str:
        return f"fwmark:{self.mark}/{self.family}"

    def sort_key(self) -> tuple[int, int, int, str]:
        return 0, self.mark, 0, self.family


Frontend = Listen | FirewallMark


def parse_frontend(text: str) -> Frontend:
    return FirewallMark.parse(text) if text.startswith("fwmark:") else Listen.parse(text)


# --- forwarding and scheduling ----------------------------------------------------------


class Mode(StrEnum):
    NAT = "nat"
    FULLNAT = "fullnat"
    DR = "dr"
    TUN = "tun"


class Encapsulation(StrEnum):
    IPIP = "ipip"
    GUE = "gue"
    GRE = "gre"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How `tun` wraps a packet; `port` is GUE's UDP port. flags: `csum`, `remcsum`."""

    encapsulation: Encapsulation = Encapsulation.IPIP
    port: int = 0
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How a packet gets to a server. A property of the destination, as in IPVS."""

    mode: Mode = Mode.NAT
    tunnel: Tunnel | None = None

    def __post_init__(self) -> None:
        # One way to say IPIP, or a table read back would differ from the one written.
        if self.mode is Mode.TUN and self.tunnel is None:
            object.__setattr__(self, "tunnel", Tunnel())


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A scheduler by IPVS's name, with its flags (`sh-port`, `mh-fallback`, ...)."""

    name: str
    flags: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return " ".join([self.name, *sorted(self.flags)])


SCHEDULERS = (
    *("rr", "wrr", "lc", "wlc", "mh", "sh", "dh"),
    *("sed", "nq", "fo", "ovf", "lblc", "lblcr", "twos"),
)
WEIGHTLESS = frozenset({"rr", "lc"})  # they take every positive weight as 1
HASHING = frozenset({"mh", "sh"})  # the flow alone picks the server: nothing is remembered


@dataclass(frozen=True, slots=True)
class Persistence:
    """Connections of one client prefix stay with one server for `timeout` seconds."""

    timeout: int = 300
    prefix: int = 32  # of the client's address; 128 for IPv6
    engine: str = ""  # an IPVS persistence engine, e.g. "sip"


# --- what a data path holds -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Destination:
    """A real server as the data path sees it.

    weight: 0 to 65535. Zero takes no new flows and keeps the old ones (drain); a server
    that is dead is not in the table at all.
    """

    weight: int = 1
    forwarding: Forwarding = Forwarding()
    max_connections: int = 0  # 0: no limit
    # A full server takes new flows again below this (IPVS; 0: three quarters of the limit).
    min_connections: int = 0


@dataclass(frozen=True)
class VirtualService:
    """One listen with its scheduler and destinations."""

    scheduler: Scheduler
    destinations: Mapping[Endpoint, Destination] = field(default_factory=dict)
    persistence: Persistence | None = None
    oneshot: bool = False  # UDP whose packets stand alone (DNS): IPVS `ops`

    def header(self) -> "VirtualService":
        """The service without its destinations: what an operation on the service carries."""
        return VirtualService(self.scheduler, {}, self.persistence, self.oneshot)


@dataclass(frozen=True)
class Table:
    """Everything a data path serves: desired and observed have this one type."""

    services: Mapping[Frontend, VirtualService] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Frontend]:
        return iter(self.services)

    def get(self, frontend: Frontend) -> VirtualService | None:
        return self.services.get(frontend)


# --- what a person wrote ----------------------------------------------------------------


class Probe(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """What is asked of a server. Hashable: equal probes of one target run once."""

    @property
    def files(self) -> tuple[str, ...]:
        """Those that it needs."""
        return ()


class TcpProbe(Probe, frozen=True, tag="tcp"):
    """A connection that is accepted."""


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a probe speaks TLS. name: whom the certificate must name, also asked for by SNI
    ("": the server's address, and no SNI). ca: a file of authorities ("": the system's).
    days: how long the certificate must still be good. cert, key: files for mutual TLS."""

    name: str = ""
    ca: str = ""
    verify: bool = True
    days: int = 0
    cert: str = ""
    key: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.ca, self.cert, self.key)))


class TlsProbe(Probe, frozen=True, tag="tls"):
    """A handshake, and a certificate that is as it should be."""

    tls: Tls = Tls()

    @property
    def files(self) -> tuple[str, ...]:
        return self.tls.files


class HttpProbe(Probe, frozen=True, tag="http"):
    """A request that is answered with one of `statuses` (inclusive ranges) and `body`.
    keepalive: one connection for all probes, as long as the server keeps it."""

    path: str = "/"
    host: str = ""  # "": the server's address
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    statuses: tuple[tuple[int, int], ...] = ((200, 399),)
    body: str = ""  # a regular expression the body must match; "" reads no body
    tls: Tls | None = None  # None: plain http
    version: Literal["1.0", "1.1"] = "1.1"
    keepalive: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return self.tls.files if self.tls is not None else ()


class UdpProbe(Probe, frozen=True, tag="udp"):
    """A datagram that is not refused (ICMP unreachable), and is answered if `expect` says so.

    expect: a regular expression that the answer must match ("": silence is good enough).
    """

    payload: bytes = b""
    expect: str = ""


class DnsProbe(Probe, frozen=True, tag="dns"):
    """A query over UDP, answered with `rcode` and, for NOERROR, at least one record of the
    type asked for; answer: an address that must be among them ("": any)."""

    name: str
    record: Literal["A", "AAAA", "NS", "SOA", "TXT", "MX"] = "A"
    rcode: Literal["NOERROR", "NXDOMAIN"] = "NOERROR"
    answer: str = ""


class IcmpProbe(Probe, frozen=True, tag="icmp"):
    """An echo request (ICMP or ICMPv6, by the address) that is answered."""

    size: int = 56  # bytes of payload


class GrpcProbe(Probe, frozen=True, tag="grpc"):
    """grpc.health.v1.Health/Check answers SERVING for `service` ("": the server)."""

    service: str = ""
    tls: Tls | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return self.tls.files if self.tls is not None else ()


class ExecProbe(Probe, frozen=True, tag="exec"):
    """A command that ends with status 0. It runs as an unprivileged user (docs/health.md)."""

    command: tuple[str, ...]


class AgentProbe(Probe, frozen=True, tag="agent"):
    """What the server says of itself.

    speaks: `lbctl` (JSON over HTTPS; plain HTTP where `tls` is None) or `haproxy` (the
    agent-check line; `send` goes first). token: a file that holds the bearer token.
    """

    speaks: Literal["lbctl", "haproxy"] = "lbctl"
    path: str = "/v1/load"
    tls: Tls | None = Tls()
    token: str = ""
    send: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        tls = self.tls.files if self.tls is not None else ()
        return (*tls, self.token) if self.token else tls


AnyProbe = (
    TcpProbe
    | TlsProbe
    | HttpProbe
    | UdpProbe
    | DnsProbe
    | IcmpProbe
    | GrpcProbe
    | ExecProbe
    | AgentProbe
)
CONNECT = TcpProbe()
AGENT_PORT = 9180
HAPROXY_AGENT_PORT = 9181
PORTLESS = (IcmpProbe,)  # probes that ask a machine and not one of its ports


class Via(NamedTuple):
    """The server that a check goes through, as its clients' packets do. address: as text."""

    address: str
    mode: Mode
    encapsulation: Encapsulation | None = None
    port: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """When a check runs and what counts (seconds; probes in a row)."""

    interval: float = 2.0
    timeout: float = 1.0
    fall: int = 3
    rise: int = 2
    jitter: float = 0.1  # share of the interval
    fast_interval: float = 0.5  # between the first surprise and the verdict


@dataclass(frozen=True, slots=True)
class Check:
    """A probe, its timing, and where it goes if not to the server itself. through: to the
    VIP, by way of the server (`dr` and `tun`)."""

    probe: AnyProbe = CONNECT
    timing: Timing = Timing()
    port: int | None = None
    address: Address | None = None
    through: bool = False

    def target(self, server: Endpoint) -> Endpoint:
        port = 0 if isinstance(self.probe, PORTLESS) else self.port or server.port
        return Endpoint(self.address or server.address, port)


@dataclass(frozen=True, slots=True, order=True)
class ServerName:
    """`service/server`, the name of a server everywhere."""

    service: str
    server: str

    @classmethod
    def parse(cls, text: str) -> Self:
        service, slash, server = text.partition("/")
        if not (slash and service and server) or "/" in server:
            raise ValueError(f"'{text}' is not SERVICE/SERVER")
        return cls(service, server)

    def __str__(self) -> str:
        return f"{self.service}/{self.server}"


@dataclass(frozen=True, slots=True)
class Server:
    """A real server in a service. Without a port it takes that of each listen."""

    address: Address
    port: int | None = None
    weight: int = 1
    max_connections: int = 0
    min_connections: int = 0

    def endpoint(self, frontend: Frontend) -> Endpoint:
        if self.port is not None:
            return Endpoint(self.address, self.port)
        return Endpoint(self.address, frontend.port if isinstance(frontend, Listen) else 0)


class LastResort(StrEnum):
    """What a service does when no server is left."""

    NONE = "none"
    ALL = "all"
    SORRY = "sorry"


@dataclass(frozen=True, slots=True)
class Drain:
    """timeout: seconds after which a draining server counts as dead. quiet: seconds
    without a packet of an unrecorded flow after which a hashed server counts as empty."""

    timeout: float = 300.0
    quiet: float = 60.0


class Metric(StrEnum):
    """What an agent measures, as the share that is in use: 0.0 to 1.0."""

    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Threshold:
    """Shares of one metric: back <= soft < hard or soft <= back < hard.

    soft: the weight begins to fall. hard: the server leaves. back: it may return below
    this only, so that what hovers around `hard` does not come and go.
    """

    soft: float
    hard: float
    back: float


@dataclass(frozen=True, slots=True)
class Overload:
    """What load does to servers.

    hold: seconds; a server that left stays out until it was below `back` for so long, and
    one that came back stays in as long. max_removed: share of the pool that may be out.
    """

    thresholds: tuple[tuple[Metric, Threshold], ...] = (
        (Metric.CPU, Threshold(0.80, 0.95, 0.80)),
        (Metric.MEMORY, Threshold(0.85, 0.95, 0.85)),
        (Metric.DISK, Threshold(0.85, 0.95, 0.90)),
    )
    hold: float = 30.0
    max_removed: float = 0.4


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many servers must take new flows for the service to count as healthy: lost below
    `servers`, had again from `servers + hysteresis` on."""

    servers: int = 1
    hysteresis: int = 0


class Trigger(StrEnum):
    """What happened to a server that a hook waits for."""

    DOWN = "on_down"
    UP = "on_up"
    OVERLOAD = "on_overload"


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that is run when something happens to a server of a service.

    Seconds. delay: it runs if the state has lasted so long. cooldown: between the end of
    one run for a server and the start of the next. per_hour: most runs for one server.
    user: "" is the daemon's own.
    """

    trigger: Trigger
    command: tuple[str, ...]
    delay: float = 0.0
    timeout: float = 300.0
    cooldown: float = 60.0
    per_hour: int = 6
    user: str = ""


class VipOwner(StrEnum):
    """Who puts the VIP on an interface."""

    MANAGED = "managed"
    EXTERNAL = "external"


@dataclass(frozen=True)
class Service:
    """A service as configured."""

    listens: tuple[Frontend, ...]
    servers: Mapping[str, Server] = field(default_factory=dict)
    scheduler: Scheduler = Scheduler("mh")
    forwarding: Forwarding = Forwarding()
    check: Check | None = Check()
    persistence: Persistence | None = None
    oneshot: bool = False
    vip: VipOwner = VipOwner.MANAGED
    drain: Drain = Drain()
    last_resort: LastResort = LastResort.NONE
    sorry: Server | None = None
    agent: Check | None = None  # its probe is an AgentProbe
    overload: Overload | None = None
    slow_start: float = 0.0  # seconds in which a server that returns gets its whole weight
    quorum: Quorum = Quorum()
    hooks: tuple[Hook, ...] = ()


# --- virtual routers (VRRP) -------------------------------------------------------------


class Mac(StrEnum):
    """The MAC that answers for a virtual address."""

    VIRTUAL = "virtual"  # 00-00-5E-00-01-{VRID}, 00-00-5E-00-02-{VRID} for IPv6
    OWN = "own"  # the interface's


class Preempt(StrEnum):
    """Whether a Backup takes over from an Active of lower priority."""

    NEVER = "never"
    ALWAYS = "always"
    WHEN_SYNCED = "when-synced"  # once it holds a full copy of the Active's flows


class ChecksumForm(StrEnum):
    """RFC 9568 leaves the pseudo-header out for IPv4; most implementations put it in."""

    AUTO = "auto"  # as the peer does
    RFC9568 = "rfc9568"
    PSEUDO = "pseudo"


class TrackerKind(StrEnum):
    INTERFACE = "interface"
    ROUTE = "route"
    SCRIPT = "script"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True)
class Tracker:
    """Something whose failure counts against a virtual router.

    subject: an interface, a prefix, a command line or a service, by kind. weight: None:
    while it fails the router is at fault; negative: subtracted from the priority while it
    fails; positive: added while it holds. needs: servers, of a quorum. The rest is for
    scripts and routes (seconds; runs in a row).
    """

    kind: TrackerKind
    subject: str
    weight: int | None = None
    interval: float = 2.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 2
    user: str = "nobody"
    needs: int = 1

    @property
    def key(self) -> tuple[TrackerKind, str, int]:
        """What is looked at: trackers with the same key share one result."""
        return self.kind, self.subject, self.needs

    def __str__(self) -> str:
        least = f" (at least {self.needs} servers)" if self.kind is TrackerKind.QUORUM else ""
        return f"{self.kind} {self.subject}{least}"


@dataclass(frozen=True, slots=True)
class Notify:
    """A command that is told of each change of role, one at a time, in order.

    It is called with ROUTER ROLE REASON, or with keepalived's arguments: INSTANCE NAME
    MASTER|BACKUP|FAULT|STOP PRIORITY.
    """

    command: str
    keepalived: bool = False
    user: str = "nobody"
    timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Router:
    """One virtual router as configured. Times are in seconds.

    priority: 1 to 254; 255 owns the addresses. peers: unicast to these; none: multicast.
    accept: packets to the addresses reach local programs. hold: after a start, it stays
    out this long. refresh: between announcements while Active; 0: none.
    """

    name: str
    interface: str
    vrid: int
    addresses: tuple[Address, ...]
    priority: int = 100
    interval: float = 1.0
    version: int = 3
    mac: Mac = Mac.VIRTUAL
    peers: tuple[Address, ...] = ()
    checksum: ChecksumForm = ChecksumForm.AUTO
    accept: bool = True
    preempt: Preempt = Preempt.ALWAYS
    preempt_delay: float = 0.0
    hold: float = 0.0
    group: str = ""
    refresh: float = 60.0
    trackers: tuple[Tracker, ...] = ()
    notify: Notify | None = None

    @property
    def family(self) -> Family:
        return family_of(self.addresses[0])

    @property
    def owner(self) -> bool:
        return self.priority == 255


class Datapath(StrEnum):
    AUTO = "auto"
    IPVS = "ipvs"
    XDP = "xdp"


class XdpMode(StrEnum):
    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class ApiListener:
    """The API over TCP and mutual TLS. certificate, key, ca: paths of PEM files. read, peer:
    names in the certificates of those who may ask for everything, or for /v1/site alone."""

    listen: Endpoint
    certificate: str
    key: str
    ca: str
    read: tuple[str, ...] = ()
    peer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replication:
    """One line to the other gateway of a pair, over mutual TLS. name: in the peer's
    certificate. certificate, key, ca: paths of PEM files. hold: seconds after a promotion in
    which TCP of flows that nobody remembers is dropped, not reset."""

    listen: Endpoint
    peer: Endpoint
    name: str
    certificate: str
    key: str
    ca: str
    hold: float = 10.0

    @property
    def calls(self) -> bool:
        """Of two gateways the one with the larger address calls."""
        return self.listen.sort_key() > self.peer.sort_key()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A box that runs lbctl: its interfaces and its data path. probe: addresses that checks
    *through* servers come from, one per family: next to the servers, and nobody else's."""

    front: str  # the interface that VIPs live on
    back: tuple[str, ...] = ()  # where servers are, if elsewhere
    datapath: Datapath = Datapath.AUTO
    xdp_mode: XdpMode = XdpMode.AUTO
    flow_cache: int = 131072  # flows that schedulers with memory can hold
    direct: tuple[Network, ...] = ()  # servers' packets to these are not translated
    probe: tuple[Interface, ...] = ()
    api: ApiListener | None = None  # for other machines
    replication: Replication | None = None
    flow_key: str = ""  # what hashes flows to slots: a pair's secret; "": a random one

    @property
    def interfaces(self) -> tuple[str, ...]:
        return (self.front, *(name for name in self.back if name != self.front))


@dataclass(frozen=True)
class Config:
    """One file, read and found good."""

    gateway: Gateway
    services: Mapping[str, Service] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
