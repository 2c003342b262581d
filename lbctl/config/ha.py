"""The section `virtual_routers`: its models, what they become, and how they are written.

The same file is on both gateways, so what differs between them is given by name:
`priority: {gw1: 200, gw2: 100}`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, PlainValidator, model_validator

from lbctl.config.duration import show_duration
from lbctl.config.fault import Fault, did_you_mean, show
from lbctl.config.fields import Duration, HostAddress, Interface, Name, Prefix, address, within
from lbctl.config.shorthand import Path, Raw
from lbctl.config.strict import STRICT
from lbctl.ha.room import claim, crowded_out
from lbctl.model import (
    Address,
    ChecksumForm,
    Config,
    Datapath,
    Family,
    Gateway,
    Mac,
    Notify,
    Preempt,
    Router,
    Tracker,
    TrackerKind,
    family_of,
)
from lbctl.vrrp.router import LEASE
from lbctl.vrrp.settings import clashes, faults, too_short, with_link_local

AT = "virtual_routers"
Value = TypeVar("Value")
_BY_GATEWAY = ("priority", "peers")


class ByGateway(Generic[Value]):
    """A value for all gateways, or one for each by name."""

    def __init__(self, values: Mapping[str | None, Value]) -> None:
        self.values = values

    def of(self, node: str) -> Value | None:
        """The value on gateway `node`."""
        return self.values.get(None, self.values.get(node))

    def names(self) -> list[str]:
        return [name for name in self.values if name is not None]


def _by_gateway(parse: Callable[[Raw], Value]) -> Callable[[Raw], ByGateway[Value]]:
    def read(value: Raw) -> ByGateway[Value]:
        if not isinstance(value, dict):
            return ByGateway({None: parse(value)})
        return ByGateway({name: parse(one) for name, one in value.items()})

    return read


def _priority(value: Raw) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 255:
        raise ValueError(f"{show(value)} is not a priority (1 to 254, or 255 for the owner)")
    return value


def _peers(value: Raw) -> tuple[Address, ...]:
    return tuple(address(one) for one in (value if isinstance(value, list) else [value]))


def _no_peers() -> ByGateway[tuple[Address, ...]]:
    return ByGateway({None: ()})


def _listed(value: Raw) -> Raw:
    return [value] if isinstance(value, str) else value


Priority = Annotated[
    ByGateway[int],
    PlainValidator(_by_gateway(_priority), json_schema_input_type=int | dict[str, int]),
]
Peers = Annotated[
    ByGateway[tuple[Address, ...]],
    PlainValidator(
        _by_gateway(_peers), json_schema_input_type=str | list[str] | dict[str, str | list[str]]
    ),
]
Addresses = Annotated[
    list[HostAddress], BeforeValidator(_listed, json_schema_input_type=str | list[str])
]


class TrackSection(BaseModel):
    """One thing that is watched: an interface, a route, a script or a service."""

    model_config = STRICT

    interface: Interface | None = None
    """Up, with carrier."""
    route: Prefix | None = None
    """In the routing table, with exactly this prefix."""
    script: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A command line that ends with 0; it runs without a shell."""
    service: Name | None = None
    """A service of this file with enough servers up."""
    servers: Annotated[int, Field(ge=1, le=100_000)] = 1
    """How many servers of the service are enough."""
    weight: Annotated[int, Field(ge=-253, le=253)] | None = None
    """Taken from the priority while it fails (negative), or given while it holds; without,
    the router is at fault while it fails."""
    interval: Annotated[Duration, within("100ms", "1d")] = 2.0
    """Between two looks at a script or a route."""
    timeout: Annotated[Duration, within("10ms", "1h")] = 1.0
    """How long a script may take."""
    rise: Annotated[int, Field(ge=1, le=255)] = 2
    """So many passes in a row end a failure."""
    fall: Annotated[int, Field(ge=1, le=255)] = 2
    """So many failures in a row are one."""
    user: Annotated[str, Field(min_length=1, max_length=32)] = "nobody"
    """Who runs the script."""

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        if len(self.subjects()) != 1:
            raise ValueError("watches one thing (write interface, route, script or service)")
        return self

    def subjects(self) -> list[tuple[TrackerKind, str]]:
        named = (
            (TrackerKind.INTERFACE, self.interface),
            (TrackerKind.ROUTE, self.route),
            (TrackerKind.SCRIPT, self.script),
            (TrackerKind.QUORUM, self.service),
        )
        return [(kind, str(subject)) for kind, subject in named if subject is not None]


class NotifySection(BaseModel):
    """A command that is told of each change of role."""

    model_config = STRICT

    command: Annotated[str, Field(min_length=1, max_length=1000)]
    """Called with ROUTER ROLE REASON; it runs without a shell."""
    keepalived: bool = False
    """Called as keepalived does: INSTANCE NAME MASTER|BACKUP|FAULT|STOP PRIORITY."""
    user: Annotated[str, Field(min_length=1, max_length=32)] = "nobody"
    """Who runs it."""
    timeout: Annotated[Duration, within("100ms", "1h")] = 30.0
    """It is ended after so long; the next call waits for it."""


class RouterSection(BaseModel):
    """One virtual router (VRRP): addresses that one gateway at a time answers for."""

    model_config = STRICT

    vrid: Annotated[int, Field(ge=1, le=255)]
    """The virtual router's number, the same on both gateways."""
    addresses: Annotated[Addresses, Field(min_length=1, max_length=254)]
    """The virtual addresses, all IPv4 or all IPv6."""
    interface: Interface | None = None
    """Where they are. Default: `front`."""
    priority: Priority = Field(
        default_factory=lambda: ByGateway({None: 100}), json_schema_extra={"default": 100}
    )
    """The highest is active; one for all or `{gw1: 200, gw2: 100}`."""
    interval: Annotated[Duration, within("10ms", "255s")] = 1.0
    """Between two adverts; a successor acts after three of them."""
    version: Annotated[int, Field(ge=2, le=3)] = 3
    """Of VRRP."""
    mac: Annotated[Mac, Field(strict=False)] = Mac.VIRTUAL
    """Which MAC answers for the addresses."""
    peers: Peers = Field(default_factory=_no_peers, json_schema_extra={"default": []})
    """Adverts go to these addresses, and not to the group; for all, or by gateway."""
    checksum: Annotated[ChecksumForm, Field(strict=False)] = ChecksumForm.AUTO
    """The IPv4 checksum that is sent: as the peer does, or one form."""
    accept: bool = True
    """Whether local programs get packets to the addresses."""
    preempt: Annotated[Preempt, Field(strict=False)] = Preempt.ALWAYS
    """Whether a gateway of higher priority takes over from one that is active."""
    preempt_delay: Annotated[Duration, within("0s", "1d")] = 0.0
    """How long it waits before it does."""
    hold: Annotated[Duration, within("0s", "1h")] = 0.0
    """How long it stays out after a start."""
    group: Name | None = None
    """Routers of one group are active together or not at all."""
    refresh: Annotated[Duration, within("0s", "1d")] = 60.0
    """Between two announcements of the addresses; 0 is none."""
    track: list[TrackSection] = []
    """What is watched, and what that means."""
    notify: NotifySection | None = None
    """What is told of changes."""


def routers(
    sections: Mapping[str, RouterSection], gateway: Gateway, node: str
) -> dict[str, Router]:
    """The virtual routers on gateway `node`; one that has no priority there is not."""
    found = {}
    for name, section in sections.items():
        priority = section.priority.of(node)
        if priority is not None:
            found[name] = _router(name, section, gateway, node, priority)
    return found


def _router(
    name: str, section: RouterSection, gateway: Gateway, node: str, priority: int
) -> Router:
    addresses = tuple(section.addresses)
    if family_of(addresses[0]) is Family.IPV6:
        addresses = with_link_local(section.vrid, addresses)
    return Router(
        name=name,
        interface=section.interface or gateway.front,
        vrid=section.vrid,
        addresses=addresses,
        priority=priority,
        interval=section.interval,
        version=section.version,
        mac=section.mac,
        peers=section.peers.of(node) or (),
        checksum=section.checksum,
        accept=section.accept,
        preempt=section.preempt,
        preempt_delay=section.preempt_delay,
        hold=section.hold,
        group=section.group or "",
        refresh=section.refresh,
        trackers=tuple(_tracker(one) for one in section.track),
        notify=_notify(section.notify) if section.notify else None,
    )


def _notify(section: NotifySection) -> Notify:
    return Notify(section.command, section.keepalived, section.user, section.timeout)


def _tracker(section: TrackSection) -> Tracker:
    kind, subject = section.subjects()[0]
    return Tracker(
        kind,
        subject,
        section.weight,
        section.interval,
        section.timeout,
        section.rise,
        section.fall,
        section.user,
        section.servers,
    )


def wrong(
    sections: Mapping[str, RouterSection],
    found: Mapping[str, Router],
    gateways: list[str],
    services: Mapping[str, object],
    replicates: bool,
) -> Iterator[Fault]:
    """What cannot be, in a router and between them. gateways: their names in the file."""
    for name, section in sections.items():
        at: Path = (AT, name)
        yield from _unknown_gateways(at, section, gateways)
        for index, one in enumerate(section.track):
            if one.service is not None and one.service not in services:
                hint = did_you_mean(one.service, services) or f"known: {', '.join(services)}"
                yield Fault((*at, "track", index, "service"), f"no such service ({hint})")
        if section.preempt is Preempt.WHEN_SYNCED and not replicates:
            text = "when-synced needs `replication` of the gateway (or write always or never)"
            yield Fault((*at, "preempt"), text)
    for name, router in found.items():
        for text in faults(router):
            yield Fault((AT, name), text, on_key=True)
    for name, text in clashes(found.values()):
        yield Fault((AT, name), text, on_key=True)


def without_copy(config: Config) -> Iterator[Fault]:
    """Virtual routers that wait for a full copy in which there is no connection."""
    for name, router in config.routers.items():
        if router.preempt is Preempt.WHEN_SYNCED and config.gateway.datapath is Datapath.IPVS:
            text = "when-synced does not wait for connections of datapath ipvs (write never)"
            yield Fault((AT, name, "preempt"), text)


def unfenceable(found: Mapping[str, Router], tick: float) -> Iterator[Fault]:
    """Adverts whose lease the fence's clock cannot hold, where a jiffy takes `tick`, and
    routers that its maps have no room for."""
    for name, router in found.items():
        if text := too_short(LEASE * router.interval, tick):
            yield Fault((AT, name, "interval"), text)
    for name, text in crowded_out({name: claim(one) for name, one in found.items()}).items():
        yield Fault((AT, name), f"{text} (use fewer, or another gateway for some)", on_key=True)


def _unknown_gateways(at: Path, section: RouterSection, gateways: list[str]) -> Iterator[Fault]:
    for key in _BY_GATEWAY:
        value: ByGateway[Any] = getattr(section, key)
        for name in value.names():
            if name not in gateways:
                hint = did_you_mean(name, gateways) or f"known: {', '.join(gateways) or 'none'}"
                yield Fault((*at, key, name), f"no such gateway ({hint})", on_key=True)


# --- writing ----------------------------------------------------------------------------


def written(router: Router) -> dict[str, Any]:
    """A router as this gateway has it, as a section; defaults are left out."""
    default = Router(router.name, router.interface, router.vrid, router.addresses)
    section: dict[str, Any] = {
        "vrid": router.vrid,
        "addresses": [str(one) for one in router.addresses],
        "interface": router.interface,
    }
    for field in dataclasses.fields(Router):
        value = getattr(router, field.name)
        if field.name not in section and value != getattr(default, field.name):
            section[field.name] = _plain(field.name, value)
    section.pop("name", None)
    if "trackers" in section:
        section["track"] = section.pop("trackers")
    return section


def _plain(name: str, value: Raw) -> Raw:
    match name:
        case "interval" | "preempt_delay" | "hold" | "refresh":
            return show_duration(value)
        case "peers":
            return [str(one) for one in value]
        case "trackers":
            return [_tracked(one) for one in value]
        case "notify":
            return _differing(value, Notify(value.command)) | {"command": value.command}
        case _:
            return str(value) if isinstance(value, str) else value


def _tracked(tracker: Tracker) -> dict[str, Any]:
    key = "service" if tracker.kind is TrackerKind.QUORUM else str(tracker.kind)
    plain = _differing(tracker, Tracker(tracker.kind, tracker.subject))
    if "needs" in plain:
        plain["servers"] = plain.pop("needs")
    return {key: tracker.subject, **plain}


def _differing(value: Raw, default: Raw) -> dict[str, Any]:
    plain = {}
    for field in dataclasses.fields(value):
        one = getattr(value, field.name)
        if one != getattr(default, field.name):
            timed = field.name in ("interval", "timeout")
            plain[field.name] = show_duration(one) if timed else one
    return plain
