"""The file as pydantic models: types, defaults and the JSON Schema that editors read.

A model here is a section of the file, in long form. `lbctl.config.build` turns sections
into `lbctl.model`; nothing else sees them. What depends on more than one section is in
`lbctl.config.cross`.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from lbctl.config.duration import show_duration
from lbctl.config.fields import (
    Beside,
    ByteRegex,
    Bytes,
    Command,
    DnsName,
    Duration,
    Fronts,
    HeaderName,
    HeaderValue,
    HostAddress,
    HttpHost,
    Interface,
    Interfaces,
    Method,
    Name,
    Prefixes,
    Regex,
    Scheduling,
    Share,
    Statuses,
    UrlPath,
    User,
    Where,
    within,
)
from lbctl.config.fields import (
    File as FileName,
)
from lbctl.config.gslb_schema import GslbSection
from lbctl.config.gslb_schema import keys_at as gslb_keys_at
from lbctl.config.ha import NotifySection, RouterSection, TrackSection
from lbctl.config.listener import ListenerSection
from lbctl.config.replication import ReplicationSection
from lbctl.config.shorthand import Raw, is_duration, long_form
from lbctl.config.strict import STRICT
from lbctl.model import (
    MAX_WEIGHT,
    Datapath,
    Encapsulation,
    LastResort,
    Mode,
    Scheduler,
    VipOwner,
    XdpMode,
)

API_VERSION = "lbctl/v1"

Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1, le=255)]


class Section(BaseModel):
    """Unknown keys are errors, and no value is bent into another type."""

    model_config = STRICT


# --- gateways ---------------------------------------------------------------------------


class GatewaySection(Section):
    """A box that runs lbctl."""

    front: Interface | None = None
    """The interface that VIPs live on."""
    back: Interfaces = []
    """Interfaces that servers are behind, if not behind `front`."""
    datapath: Annotated[Datapath, Field(strict=False)] = Datapath.AUTO
    """What moves the packets; `auto` chooses and says why."""
    xdp_mode: Annotated[XdpMode, Field(strict=False)] = XdpMode.AUTO
    """Where the XDP program is attached: in the driver (native) or behind it."""
    flow_cache: Annotated[int, Field(ge=1024, le=1 << 26)] = 131072
    """How many flows the schedulers with memory (rr, wrr, lc, wlc) can hold."""
    direct: Prefixes = []
    """Networks to which servers speak as themselves, untranslated."""
    probe: Beside = []
    """ADDRESS/PREFIX that checks through servers come from: next to the servers, and unused."""
    api: ListenerSection | None = None
    """The API for other machines, over mutual TLS; none: this machine alone may ask."""
    replication: ReplicationSection | None = None
    """The line to the other gateway of a pair, over which connections survive a failover."""
    flow_key: Annotated[str, Field(min_length=16, max_length=256)] = ""
    """A secret by which both gateways of a pair send a flow to the same server."""


# --- checks -----------------------------------------------------------------------------


class Timed(Section):
    """What every check has."""

    port: Port | None = None
    """Where to ask, if not at the server's own port."""
    address: HostAddress | None = None
    """Whom to ask, if not the server itself."""
    interval: Annotated[Duration, within("10ms", "1d")] = 2.0
    """From the start of one probe to the start of the next."""
    timeout: Annotated[Duration, within("1ms", "1d")] | None = None
    """How long a probe may take. Default: 1s, or the interval if that is shorter."""
    fall: Count = 3
    """So many failures in a row take a server out."""
    rise: Count = 2
    """So many passes in a row bring it back."""
    jitter: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.1
    """The share of the interval by which probes are spread."""
    fast_interval: Annotated[Duration, within("10ms", "1d")] = 0.5
    """The interval between the first surprise and the verdict."""

    @field_validator("timeout")
    @classmethod
    def _within_interval(cls, timeout: float, info: ValidationInfo) -> float:
        interval = info.data.get("interval")
        if interval is not None and timeout is not None and timeout > interval:
            raise ValueError(
                f"{show_duration(timeout)} is longer than the interval, "
                f"{show_duration(interval)} (lower it, or raise the interval)"
            )
        return timeout


class TlsSection(Section):
    """How a check speaks TLS."""

    name: HttpHost = ""
    """The name that the certificate must have, also sent as SNI. Default: the address."""
    ca: FileName | Literal[""] = ""
    """A file with the authorities that are trusted. Default: the system's."""
    verify: bool = True
    """Whether the certificate is looked at at all."""
    days: Annotated[int, Field(ge=0, le=3650)] = 0
    """So many days the certificate must still be good."""
    cert: FileName | Literal[""] = ""
    """Our own certificate, for mutual TLS."""
    key: FileName | Literal[""] = ""
    """Its key, if that is in another file."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.days and not self.verify:
            raise ValueError("days need a certificate that is verified (remove verify: false)")
        if self.key and not self.cert:
            raise ValueError("a key without its certificate (write cert)")
        return self


class Through(Timed):
    """What checks have that packets can be routed by."""

    through: bool = False
    """Ask the VIP by way of the server, as its clients' packets go (modes dr and tun)."""


class TcpCheck(Through):
    """A connection that is accepted."""

    type: Literal["tcp"] = "tcp"


class TlsCheck(Through):
    """A handshake and a good certificate."""

    type: Literal["tls"]
    tls: TlsSection = Field(default_factory=TlsSection)
    """What of its certificate."""


class AnyHttpCheck(Through):
    """A request and the answer that is wanted."""

    path: UrlPath = "/"
    """What is asked for."""
    host: HttpHost = ""
    """The Host header. Default: the server's address."""
    method: Method = "GET"
    """The request's method."""
    headers: dict[HeaderName, HeaderValue] = {}
    """More headers to send."""
    status: Annotated[Statuses, Field(min_length=1)] = [(200, 399)]
    """The statuses that pass: numbers and ranges like "200-299"."""
    body: Regex = ""
    """A regular expression that the body must match somewhere in its first 4 KiB."""
    version: Literal["1.0", "1.1"] = "1.1"
    """Of HTTP."""
    keepalive: bool = False
    """One connection for all probes, for as long as the server keeps it."""


class HttpCheck(AnyHttpCheck):
    """A request and the answer that is wanted."""

    type: Literal["http"]


class HttpsCheck(AnyHttpCheck):
    """The same over TLS."""

    type: Literal["https"]
    tls: TlsSection = Field(default_factory=TlsSection)
    """How TLS is spoken."""


class UdpCheck(Through):
    """A datagram that is not refused, and is answered if an answer is expected."""

    type: Literal["udp"]
    payload: Bytes = ""
    """What is sent; "\\xNN" in double quotes is a byte."""
    expect: ByteRegex = ""
    """A regular expression that the answer must match. Default: silence will do."""


class DnsCheck(Through):
    """A DNS query over UDP."""

    type: Literal["dns"]
    name: DnsName
    """What is asked for."""
    record: Literal["A", "AAAA", "NS", "SOA", "TXT", "MX"] = "A"
    """The type of record."""
    rcode: Literal["NOERROR", "NXDOMAIN"] = "NOERROR"
    """What the answer must be."""
    answer: HostAddress | None = None
    """An address that must be among those in the answer."""

    @model_validator(mode="after")
    def _answer_has_a_type(self) -> Self:
        if self.answer is None:
            return self
        if self.record != ("A" if self.answer.version == 4 else "AAAA"):
            raise ValueError(f"'{self.answer}' is no answer to a query for {self.record}")
        return self


class IcmpCheck(Timed):
    """An echo request."""

    type: Literal["icmp"]
    size: Annotated[int, Field(ge=16, le=1400)] = 56
    """Bytes of payload."""


class GrpcCheck(Through):
    """The gRPC health service."""

    type: Literal["grpc"]
    service: Annotated[str, Field(max_length=127)] = ""
    """Whose health. Default: the server's."""
    tls: TlsSection | None = None
    """How TLS is spoken; without, it is plain HTTP/2."""


class ExecCheck(Timed):
    """A command that ends with status 0, run as an unprivileged user."""

    type: Literal["exec"]
    command: Command
    """The program by its whole path, and its arguments."""


class NoCheck(Section):
    """Servers are taken to be up."""

    type: Literal["none"]


CHECKS: dict[str, type[Section]] = {
    "tcp": TcpCheck,
    "tls": TlsCheck,
    "http": HttpCheck,
    "https": HttpsCheck,
    "udp": UdpCheck,
    "dns": DnsCheck,
    "icmp": IcmpCheck,
    "grpc": GrpcCheck,
    "exec": ExecCheck,
    "none": NoCheck,
}


def check_type(value: Raw) -> str | None:
    """The tag of a check; None for what is no mapping, or has an unknown type."""
    kind = value.get("type", "tcp") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _long_check(value: Raw) -> Raw:
    return long_form(("check",), value)


AnyCheck = Annotated[
    Annotated[TcpCheck, Tag("tcp")]
    | Annotated[TlsCheck, Tag("tls")]
    | Annotated[HttpCheck, Tag("http")]
    | Annotated[HttpsCheck, Tag("https")]
    | Annotated[UdpCheck, Tag("udp")]
    | Annotated[DnsCheck, Tag("dns")]
    | Annotated[IcmpCheck, Tag("icmp")]
    | Annotated[GrpcCheck, Tag("grpc")]
    | Annotated[ExecCheck, Tag("exec")]
    | Annotated[NoCheck, Tag("none")],
    Discriminator(check_type),
]
CheckField = Annotated[
    AnyCheck,
    BeforeValidator(
        _long_check,
        json_schema_input_type=Literal["tcp", "tls", "http", "https", "udp", "icmp", "grpc", "none"]
        | AnyCheck,
    ),
]


# --- load -------------------------------------------------------------------------------


class AgentSection(Timed):
    """The agent on each server, that says how loaded it is."""

    speaks: Literal["lbctl", "haproxy"] = "lbctl"
    """lbctl's own (agents/), or the line that HAProxy's agent-check reads."""
    tls: TlsSection | Literal["none"] = Field(default_factory=TlsSection)
    """How lbctl's agent is spoken to; none: plain HTTP."""
    token: FileName | Literal[""] = ""
    """A file that holds the token that lbctl's agent wants."""
    send: Bytes = ""
    """What HAProxy's protocol may begin with."""


class ThresholdSection(Section):
    """What load does: shares of what there is."""

    soft: Share | None = None
    """From here on the weight falls. Default: 15 points under hard."""
    hard: Share
    """Here the server leaves."""
    back: Share | None = None
    """Below this it may return. Default: soft."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.hard or (self.back is not None and self.back >= self.hard):
            raise ValueError("soft and back are below hard")
        return self

    @property
    def low(self) -> float:
        return max(0.0, round(self.hard - 0.15, 4)) if self.soft is None else self.soft


def _threshold(hard: str, soft: str, back: str | None = None) -> ThresholdSection:
    return ThresholdSection(hard=hard, soft=soft, back=back)  # type: ignore[arg-type]


class OverloadSection(Section):
    """What becomes of servers whose agent says that they are loaded."""

    cpu: ThresholdSection | Literal["none"] = Field(
        default_factory=lambda: _threshold("95%", "80%")
    )
    """Processor time, of what the server may use."""
    memory: ThresholdSection | Literal["none"] = Field(
        default_factory=lambda: _threshold("95%", "85%")
    )
    """Memory that is not cache."""
    disk: ThresholdSection | Literal["none"] = Field(
        default_factory=lambda: _threshold("95%", "85%", "90%")
    )
    """The fullest file system."""
    hold: Annotated[Duration, within("0s", "1d")] = 30.0
    """So long a server must be below back to return, and stays at least once it has."""
    max_removed: Share = 0.4
    """The share of a pool that may be out for load; never the last server."""


class QuorumSection(Section):
    """How many servers make a service whole."""

    servers: Annotated[int, Field(ge=1, le=65535)] = 1
    """Fewer that take new flows, and the quorum is lost."""
    hysteresis: Annotated[int, Field(ge=0, le=65535)] = 0
    """So many more than that, and it is had again."""


class HookSection(Section):
    """A command that is run when something happens to a server."""

    run: Command
    """The program by its whole path, and its arguments."""
    delay: Annotated[Duration, within("0s", "1d")] = 0.0
    """Only if the state has lasted so long."""
    timeout: Annotated[Duration, within("100ms", "1d")] = 300.0
    """So long it may take."""
    cooldown: Annotated[Duration, within("0s", "1d")] = 60.0
    """So long after its end it is not run again for the same server."""
    per_hour: Annotated[int, Field(ge=1, le=3600)] = 6
    """At most so often for one server."""
    user: User | Literal[""] = ""
    """Whom it runs as. Default: as the daemon."""


def _long_agent(value: Raw) -> Raw:
    return None if value == "none" else long_form(("agent",), value)


def _long_overload(value: Raw) -> Raw:
    return None if value == "none" else value


def _long_quorum(value: Raw) -> Raw:
    return long_form(("quorum",), value)


def _long_hook(value: Raw) -> Raw:
    return None if value == "none" else long_form(("on_down",), value)


AgentField = Annotated[
    AgentSection | None,
    BeforeValidator(
        _long_agent, json_schema_input_type=Literal["lbctl", "haproxy", "none"] | AgentSection
    ),
]
OverloadField = Annotated[
    OverloadSection | None,
    BeforeValidator(_long_overload, json_schema_input_type=Literal["none"] | OverloadSection),
]
QuorumField = Annotated[
    QuorumSection, BeforeValidator(_long_quorum, json_schema_input_type=int | QuorumSection)
]
HookField = Annotated[
    HookSection | None,
    BeforeValidator(_long_hook, json_schema_input_type=str | list[str] | HookSection),
]


# --- services ---------------------------------------------------------------------------


class TunnelSection(Section):
    """How mode `tun` wraps a packet."""

    type: Annotated[Encapsulation, Field(strict=False)] = Encapsulation.IPIP
    """The protocol around the packet."""
    port: Port | None = None
    """The UDP port of gue."""

    @model_validator(mode="after")
    def _port_is_for_gue(self) -> Self:
        if (self.type is Encapsulation.GUE) != (self.port is not None):
            raise ValueError("port is for gue, which needs one (write {type: gue, port: 6080})")
        return self


class PersistenceSection(Section):
    """Connections of one client go to one server."""

    timeout: Annotated[Duration, within("1s", "30d")] = 300.0
    """How long after the last connection; whole seconds."""
    prefix: Annotated[int, Field(ge=1, le=128)] | None = None
    """The bits of a client's address that make it one client. Default: all."""
    engine: Annotated[str, Field(pattern="^[a-z0-9_]*$", max_length=15)] = ""
    """An IPVS persistence engine, such as sip."""

    @field_validator("timeout")
    @classmethod
    def _whole(cls, timeout: float) -> float:
        if timeout != int(timeout):
            raise ValueError(f"{show_duration(timeout)} is not a whole number of seconds")
        return timeout


class DrainSection(Section):
    """How a server leaves."""

    timeout: Annotated[Duration, within("0s", "7d")] = 300.0
    """The flows that a draining server still has then are given up."""
    quiet: Annotated[Duration, within("0s", "1d")] = 60.0
    """A hashed server counts as empty after so long without a packet of an old flow."""


class ServerSection(Section):
    """A real server: `{address: 198.51.100.11, port: 8080}` or `198.51.100.11:8080`."""

    address: Where
    """ADDRESS or ADDRESS:PORT."""
    port: Port | None = None
    """Default: the port of each listen."""
    weight: Annotated[int, Field(ge=0, le=MAX_WEIGHT)] = 1
    """Its share of new connections; 0 gives it none."""
    max_connections: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """No new connections past so many; 0 is no limit."""
    min_connections: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """A full server takes new ones again below so many (ipvs). Default: three quarters."""

    @model_validator(mode="after")
    def _one_port(self) -> Self:
        if self.port is not None and self.address.port not in (None, self.port):
            raise ValueError(f"has two ports, {self.address.port} and {self.port} (keep one)")
        return self

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.min_connections > self.max_connections:
            raise ValueError("min_connections is above max_connections (lower it)")
        return self


def _long_server(value: Raw) -> Raw:
    return long_form(("sorry",), value)


def _long_tunnel(value: Raw) -> Raw:
    return long_form(("tunnel",), value)


def _long_persistence(value: Raw) -> Raw:
    if value is None or isinstance(value, (bool, list)):
        raise ValueError("is empty or no duration (write none, 300s, or a mapping with timeout)")
    if value == "none":
        return None
    return {"timeout": value} if is_duration(value) else value


ServerField = Annotated[
    ServerSection, BeforeValidator(_long_server, json_schema_input_type=str | ServerSection)
]
TunnelField = Annotated[
    TunnelSection,
    BeforeValidator(
        _long_tunnel, json_schema_input_type=Literal["ipip", "gue", "gre"] | TunnelSection
    ),
]
PersistenceField = Annotated[
    PersistenceSection | None,
    BeforeValidator(_long_persistence, json_schema_input_type=str | float | PersistenceSection),
]


class Defaults(Section):
    """Settings that services have in common."""

    scheduler: Scheduling = Field(
        default_factory=lambda: Scheduler("mh"), json_schema_extra={"default": "mh"}
    )
    """rr, wrr, lc, wlc, mh, sh, ...; flags follow the name: `mh mh-port`."""
    mode: Annotated[Mode, Field(strict=False)] = Mode.NAT
    """How packets get to servers."""
    tunnel: TunnelField | None = None
    """How mode tun wraps packets; ipip unless said otherwise."""
    check: CheckField = Field(default_factory=TcpCheck, json_schema_extra={"default": "tcp"})
    """How lbctl finds out whether a server works."""
    persistence: PersistenceField = None
    """Whether, and how long, a client stays with its server."""
    drain: DrainSection = Field(default_factory=DrainSection)
    """How servers leave."""
    last_resort: Annotated[LastResort, Field(strict=False)] = LastResort.NONE
    """What to do when no server is left: nothing, use all the same, or the sorry server."""
    sorry: ServerField | None = None
    """The server for last_resort sorry."""
    agent: AgentField = None
    """The agent on each server, that says how loaded it is."""
    overload: OverloadField = Field(default_factory=OverloadSection)
    """What load does to servers that have an agent; none: nothing."""
    slow_start: Annotated[Duration, within("0s", "1d")] = 0.0
    """The time in which a server that comes back gets all of its weight."""
    quorum: QuorumField = Field(default_factory=QuorumSection)
    """How many servers make the service whole; with fewer, last_resort helps."""
    on_down: HookField = None
    """Run when a server is down."""
    on_up: HookField = None
    """Run when one is up again."""
    on_overload: HookField = None
    """Run when one leaves for its load."""
    vip: Annotated[VipOwner, Field(strict=False)] = VipOwner.MANAGED
    """Whether lbctl puts the VIP on the front interface, or someone else routes it here."""


class ServiceSection(Defaults):
    """One service: what clients connect to, and the servers behind it."""

    listen: Annotated[Fronts, Field(min_length=1)]
    """ADDRESS:PORT/PROTO, or fwmark:NUMBER/ipv4 (or ipv6); one or a list."""
    allow_empty: bool = False
    """A service without servers is meant: it takes servers later, live."""
    servers: dict[Name, ServerField]
    """The servers, by name."""
    oneshot: bool = False
    """UDP whose packets stand alone (DNS): every packet is scheduled by itself."""

    @field_validator("servers")
    @classmethod
    def _some(cls, servers: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if not servers and not info.data.get("allow_empty"):
            length = {"field_type": "Dictionary", "min_length": 1, "actual_length": 0}
            raise PydanticKnownError("too_short", length)
        return servers


class File(Section):
    """The configuration of lbctl."""

    apiVersion: Literal["lbctl/v1"]
    """The version of this format."""
    gateway: GatewaySection = Field(default_factory=GatewaySection)
    """The gateway; with `gateways`, what they have in common."""
    gateways: dict[Name, GatewaySection] = {}
    """What differs from one gateway to the next, by name."""
    defaults: Defaults = Field(default_factory=Defaults)
    """What every service takes unless it says otherwise."""
    services: dict[Name, ServiceSection] = {}
    """The services, by name."""
    gslb: GslbSection | None = None
    """DNS answers for several sites; read by `lbctl gslb`."""
    virtual_routers: dict[Name, RouterSection] = {}
    """The virtual routers (VRRP), by name."""


def keys_at(path: tuple[str | int, ...], kind: str | None) -> list[str]:
    """The keys that the section at `path` knows; kind: the type of a check."""
    match path:
        case ():
            section: type[BaseModel] = File
        case ("gateway",) | ("gateways", _):
            section = GatewaySection
        case ("gateway", "api") | ("gateways", _, "api"):
            section = ListenerSection
        case ("gateway", "replication") | ("gateways", _, "replication"):
            section = ReplicationSection
        case ("defaults",):
            section = Defaults
        case ("virtual_routers", _):
            section = RouterSection
        case ("virtual_routers", _, "track", _):
            section = TrackSection
        case ("virtual_routers", _, "notify"):
            section = NotifySection
        case ("services", _):
            section = ServiceSection
        case ("services", _, "servers", _) | (*_, "sorry"):
            section = ServerSection
        case (*_, "check"):
            section = CHECKS[kind or "tcp"]
        case (*_, "tunnel"):
            section = TunnelSection
        case (*_, "persistence"):
            section = PersistenceSection
        case (*_, "drain"):
            section = DrainSection
        case (*_, "agent"):
            section = AgentSection
        case (*_, "overload"):
            section = OverloadSection
        case (*_, "overload", "cpu" | "memory" | "disk"):
            section = ThresholdSection
        case (*_, "quorum"):
            section = QuorumSection
        case (*_, "on_down" | "on_up" | "on_overload"):
            section = HookSection
        case (*_, "check" | "agent", "tls"):
            section = TlsSection
        case ("gslb", *rest):
            return gslb_keys_at(rest)
        case _:
            return []
    return list(section.model_fields)
