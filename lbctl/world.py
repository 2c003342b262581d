"""What is known: facts only. What follows from them is in `lbctl.desired`.

The three states of a server never mix: *configured* (`config`), *administrative*
(`orders`, set by a person), *operational* (`sightings`, what checks saw).

Times are seconds of one clock that never steps; whoever saves facts converts them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from lbctl.health.judge import Health
from lbctl.model import (
    AnyProbe,
    Config,
    Endpoint,
    Frontend,
    Server,
    ServerName,
    Service,
    Table,
)


class Target(NamedTuple):
    """What is checked. Health is kept under this, so it outlives a reload and feeds every
    service that asks the same of the same place."""

    probe: AnyProbe
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Sighting:
    """The last verdict on a target, with its evidence."""

    health: Health
    evidence: str = ""
    since: float = 0.0


class Admin(StrEnum):
    """What a person wants of a server."""

    READY = "ready"
    DRAIN = "drain"  # no new flows; still checked
    MAINT = "maint"  # no new flows; unchecked, without hooks


@dataclass(frozen=True, slots=True)
class Order:
    """An administrative state: who wants it, why, and until when.

    until: it ends by itself then (None: never). deadline: the flows that the server still
    has then are given up; nothing but lifting the order moves it.
    """

    admin: Admin
    since: float
    deadline: float
    until: float | None = None
    reason: str = ""
    by: str = ""

    def in_force(self, now: float) -> bool:
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Leaving:
    """A server that was taken out of the configuration and finishes its flows."""

    name: ServerName
    server: Server
    deadline: float


@dataclass
class World:
    """All facts. Shells write them, pure functions read them.

    newcomers: servers added to a service that was already serving; each enters after its
    first pass. Unknown servers that are not among them are scheduled: their service is
    new, or they were serving when this process started.
    """

    config: Config
    orders: dict[ServerName, Order] = field(default_factory=dict)
    sightings: dict[Target, Sighting] = field(default_factory=dict)
    leaving: list[Leaving] = field(default_factory=list)
    newcomers: set[ServerName] = field(default_factory=set)
    _checked: dict[Target, list[ServerName]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._checked = _names_by_target(self.config)

    def copy(self) -> "World":
        """A world to try a change on: it shares only values with this one."""
        return replace(
            self,
            orders=dict(self.orders),
            sightings=dict(self.sightings),
            leaving=list(self.leaving),
            newcomers=set(self.newcomers),
        )

    def checked(self, target: Target) -> Sequence[ServerName]:
        """The servers that a verdict on `target` is about."""
        return self._checked.get(target, ())

    def see(self, target: Target, sighting: Sighting) -> set[str]:
        """Take a verdict; return the names of services it touches."""
        names = self._checked.get(target, [])
        if names:
            self.sightings[target] = sighting
        if sighting.health is Health.UP:
            self.newcomers.difference_update(names)
        return {name.service for name in names}

    def reconfigure(self, config: Config, now: float) -> set[str]:
        """Take a new configuration; return the names of services it touches.

        A server that is gone (or moved) leaves after its drain; a server that is new in
        a service that stays is a newcomer. A service that is gone goes at once.
        """
        old, self.config = self.config, config
        touched = old.services.keys() ^ config.services.keys()
        for name in old.services.keys() & config.services.keys():
            before, after = old.services[name], config.services[name]
            if before != after:
                touched.add(name)
                self._change_servers(name, before, after, now)
        self.leaving = [one for one in self.leaving if one.name.service in config.services]
        names = set(server_names(config))
        self.orders = {name: order for name, order in self.orders.items() if name in names}
        self.newcomers &= names
        self._checked = _names_by_target(config)
        self.sightings = {t: seen for t, seen in self.sightings.items() if t in self._checked}
        return touched

    def _change_servers(self, service: str, before: Service, after: Service, now: float) -> None:
        serving = {(s.address, s.port) for s in after.servers.values()}
        for key, server in before.servers.items():
            if (server.address, server.port) not in serving:
                name = ServerName(service, key)
                deadline = now + after.drain.timeout
                if (order := self.orders.get(name)) is not None:
                    deadline = min(deadline, order.deadline)  # it was draining already
                self.leaving.append(Leaving(name, server, deadline))
        served = {(s.address, s.port) for s in before.servers.values()}
        for key, server in after.servers.items():
            new = (server.address, server.port) not in served
            if before.servers and (new or self._newly_asked(before, after, server)):
                self.newcomers.add(ServerName(service, key))
        self.leaving = [
            one
            for one in self.leaving
            if one.name.service != service or (one.server.address, one.server.port) not in serving
        ]

    def _newly_asked(self, before: Service, after: Service, server: Server) -> bool:
        """A server that is down stays out when it is asked something else, until it
        passes that."""
        was, now = target_of(before, server), target_of(after, server)
        seen = self.sightings.get(was) if was is not None else None
        return was != now and seen is not None and seen.health is Health.DOWN

    def start_from(self, held: Table) -> None:
        """Keep every server's place in the kernel: in a service that the kernel already
        serves, a server that it does not hold is a newcomer."""
        for name, service in self.config.services.items():
            found = [table for f in service.listens if (table := held.get(f)) is not None]
            places = {endpoint for table in found for endpoint in table.destinations}
            if not places:
                continue
            for key, server in service.servers.items():
                if not any(server.endpoint(f) in places for f in service.listens):
                    self.newcomers.add(ServerName(name, key))

    def expire(self, now: float) -> None:
        """Drop orders and departures that time has ended."""
        self.orders = {name: order for name, order in self.orders.items() if order.in_force(now)}
        self.leaving = [one for one in self.leaving if now < one.deadline]

    def deadline(self, now: float) -> float | None:
        """When time alone changes what follows from these facts."""
        moments = [one.deadline for one in self.leaving]
        for order in self.orders.values():
            moments += [order.deadline] if order.until is None else [order.deadline, order.until]
        return min((moment for moment in moments if moment > now), default=None)


def server_names(config: Config) -> Iterator[ServerName]:
    for service, settings in config.services.items():
        for server in settings.servers:
            yield ServerName(service, server)


def target_of(service: Service, server: Server) -> Target | None:
    """What is checked for `server`; None where the service has no check."""
    if service.check is None:
        return None
    endpoint = server.endpoint(service.listens[0])
    return Target(service.check.probe, service.check.target(endpoint))


def targets(config: Config) -> Iterator[tuple[ServerName, Target]]:
    """Every server with what is checked for it."""
    for name, service in config.services.items():
        for key, server in service.servers.items():
            if (target := target_of(service, server)) is not None:
                yield ServerName(name, key), target


def _names_by_target(config: Config) -> dict[Target, list[ServerName]]:
    index: dict[Target, list[ServerName]] = {}
    for name, target in targets(config):
        index.setdefault(target, []).append(name)
    return index


def owners(services: Mapping[str, Service]) -> dict[Frontend, str]:
    """Which service each listen belongs to."""
    return {frontend: name for name, s in services.items() for frontend in s.listens}
