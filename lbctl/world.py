"""What is known: facts only. What follows from them is in `lbctl.desired`.

The three states of a server never mix: *configured* (`config`), *administrative*
(`orders`, set by a person), *operational* (`sightings`, what checks saw).

Times are seconds of one clock that never steps; whoever saves facts converts them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from lbctl.differing import differing
from lbctl.health.judge import Health
from lbctl.health.report import Report
from lbctl.load import Pool
from lbctl.model import (
    AnyProbe,
    Config,
    Endpoint,
    Frontend,
    Listen,
    Server,
    ServerName,
    Service,
    Table,
    Via,
)

Place = tuple[Endpoint, ...]

_EARLIER = "before its check changed: "


class Target(NamedTuple):
    """What is checked. Health is kept under this, so it outlives a reload and feeds every
    service that asks the same of the same place. via: the server that it goes through."""

    probe: AnyProbe
    endpoint: Endpoint
    via: Via | None = None

    def __str__(self) -> str:
        through = f" through {self.via.address}" if self.via is not None else ""
        return f"{self.probe.__struct_config__.tag} {self.endpoint}{through}"


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
    has then are given up; nothing but lifting the order moves it. there: it was given on the
    other gateway of a pair.
    """

    admin: Admin
    since: float
    deadline: float
    until: float | None = None
    reason: str = ""
    by: str = ""
    there: bool = False

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

    newcomers: servers added where others go on serving; each enters after its first pass.
    Unknown servers that are not among them are scheduled: their service is new, or nobody
    else in it serves, or they were serving when this process started.
    outside: places that the data path refuses to take. reports: what agents said last;
    `sightings` has whether they still speak. pools: what load made of each service so far
    (`lbctl.desired.settle` keeps it). unrest: share of a service's ring that is in
    transition, as its data path last said. replicas: weights of the servers of listens that
    the other gateway is Active for, as it serves them. datapath: the name of the one that
    serves; "" where none is open.
    """

    config: Config
    orders: dict[ServerName, Order] = field(default_factory=dict)
    sightings: dict[Target, Sighting] = field(default_factory=dict)
    leaving: list[Leaving] = field(default_factory=list)
    newcomers: set[ServerName] = field(default_factory=set)
    outside: Set[tuple[Frontend, Endpoint]] = frozenset()
    reports: dict[Target, Report] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    unrest: dict[str, float] = field(default_factory=dict)
    replicas: Mapping[Frontend, Mapping[Endpoint, int]] = field(default_factory=dict)
    datapath: str = ""
    _checked: dict[Target, list[ServerName]] = field(default_factory=dict, repr=False)
    _asked: dict[Target, list[ServerName]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._index()

    def _index(self) -> None:
        self._checked = _names_by_target(targets(self.config))
        self._asked = _names_by_target(agents(self.config))

    def copy(self) -> "World":
        """A world to try a change on: it shares only values with this one."""
        trial = copy(self)  # its index, too: of the same configuration
        trial.orders = dict(self.orders)
        trial.sightings = dict(self.sightings)
        trial.leaving = list(self.leaving)
        trial.newcomers = set(self.newcomers)
        trial.reports = dict(self.reports)
        trial.pools = dict(self.pools)
        trial.unrest = dict(self.unrest)
        return trial

    @property
    def asking(self) -> object:
        """Another object wherever what is checked, for whom, or how often, is other."""
        return self._checked

    def checked(self, target: Target) -> Sequence[ServerName]:
        """The servers that a verdict on `target` is about."""
        return self._checked.get(target, ())

    def asked(self, target: Target) -> Sequence[ServerName]:
        """The servers whose agent answers at `target`."""
        return self._asked.get(target, ())

    def see(self, target: Target, sighting: Sighting) -> set[str]:
        """Take a verdict; return the names of services it touches. Of an agent it says
        whether it speaks: UP, or DOWN for a silent one."""
        names = self._checked.get(target, [])
        touched = {name.service for name in (*names, *self.asked(target))}
        if touched:
            self.sightings[target] = sighting
        if sighting.health is Health.UP:
            self.newcomers.difference_update(names)
        return touched

    def hear(self, target: Target, report: Report) -> set[str]:
        """Take what an agent said; return the names of services it touches."""
        names = self.asked(target)
        if names:
            self.reports[target] = report.after(self.reports.get(target))
        return {name.service for name in names}

    def turn_away(self, outside: Set[tuple[Frontend, Endpoint]]) -> set[str]:
        """Take what the data path refuses to take; return the services that it touches."""
        changed = {frontend for frontend, _ in self.outside ^ outside}
        self.outside = outside
        if not changed:
            return set()
        services = self.config.services.items()
        return {name for name, service in services if not changed.isdisjoint(service.listens)}

    def report(self, service: Service, server: Server) -> Report | None:
        """What the agent on `server` said last; None where there is none, or a silent one,
        or one that has said nothing yet."""
        target = agent_of(service, server)
        if target is None:
            return None
        seen = self.sightings.get(target)
        silent = seen is not None and seen.health is Health.DOWN
        return None if silent else self.reports.get(target)

    def reconfigure(self, config: Config, now: float) -> set[str]:
        """Take a new configuration; return the names of services it touches.

        A server that is gone (or moved) leaves after its drain; one that is new where
        others go on serving is a newcomer. A service that is gone goes at once.
        """
        old, self.config = self.config, config
        touched = differing(old.services, config.services)
        for name in touched & old.services.keys() & config.services.keys():
            before, after = old.services[name], config.services[name]
            self._change_servers(name, before, after, now)
            # Where no listen ever had it, nobody has flows.
            self.leaving = [one for one in self.leaving if not self.is_outside(before, one.server)]
        if list(old.services) == list(config.services) and all(
            _asked_of(old.services[name]) == _asked_of(config.services[name]) for name in touched
        ):
            return touched  # every fact is about what there still is
        self._index()
        known = self._checked.keys() | self._asked.keys()
        self.sightings = {t: seen for t, seen in self.sightings.items() if t in known}
        self.reports = {t: said for t, said in self.reports.items() if t in self._asked}
        self.pools = {name: one for name, one in self.pools.items() if name in config.services}
        self.unrest = {name: one for name, one in self.unrest.items() if name in config.services}
        names = set(server_names(config))
        self.orders = {name: order for name, order in self.orders.items() if name in names}
        self.newcomers.intersection_update(name for name, _ in targets(config))
        self.leaving = [one for one in self.leaving if one.name.service in config.services]
        return touched

    def _change_servers(self, service: str, before: Service, after: Service, now: float) -> None:
        """One service's servers, told apart by their places and not by their names."""
        was = {_place(s, after): ServerName(service, key) for key, s in before.servers.items()}
        becomes = {_place(s, after): ServerName(service, key) for key, s in after.servers.items()}
        stay = was.keys() & becomes.keys()
        for place in stay:
            self._keep(was[place], before, becomes[place], after)
        for place, name in was.items():
            if place not in becomes:
                self._take_out(name, before, after, now)
        leaving = {_place(one.server, after) for one in self._leaving_from(service)}
        # Where nobody else takes new flows, an unseen server is better than none.
        if any(self._serves(becomes[place], after, now) for place in stay):
            new = becomes.keys() - was.keys() - leaving
            self.newcomers.update(becomes[place] for place in new)
        back = [one for one in self._leaving_from(service) if _place(one.server, after) in becomes]
        self.leaving = [one for one in self.leaving if one not in back]

    def is_outside(self, service: Service, server: Server) -> bool:
        """Whether the data path refuses a server behind every listen of its service."""
        return all((f, server.endpoint(f)) in self.outside for f in service.listens)

    def _leaving_from(self, service: str) -> list[Leaving]:
        return [one for one in self.leaving if one.name.service == service]

    def _keep(self, old: ServerName, before: Service, new: ServerName, after: Service) -> None:
        """What is known of a server that stays, under another name or another check."""
        if old.server not in after.servers and new.server not in before.servers:
            if (order := self.orders.pop(old, None)) is not None:
                self.orders[new] = order
            if old in self.newcomers:
                self.newcomers.add(new)
        was = self.seen(before, before.servers[old.server])
        target = target_of(after, after.servers[new.server])
        if was is not None and was.health is Health.DOWN and target is not None:
            # Down until it passes what it is asked now; unless that is known already.
            evidence = _EARLIER + was.evidence.removeprefix(_EARLIER)
            self.sightings.setdefault(target, replace(was, evidence=evidence))

    def _take_out(self, name: ServerName, before: Service, after: Service, now: float) -> None:
        """A server that has flows leaves when they are over; one that is out is gone."""
        server = before.servers[name.server]
        seen = self.seen(before, server)
        if name in self.newcomers or (seen is not None and seen.health is Health.DOWN):
            self.newcomers.discard(name)
            return
        deadline = now + after.drain.timeout
        if (order := self.orders.get(name)) is not None:
            deadline = min(deadline, order.deadline)  # it was draining already
        self.leaving.append(Leaving(name, server, deadline))

    def _serves(self, name: ServerName, service: Service, now: float) -> bool:
        """Whether a server that stays takes new flows."""
        server = service.servers[name.server]
        seen, order = self.seen(service, server), self.orders.get(name)
        if order is not None and order.admin is not Admin.READY and order.in_force(now):
            return False
        down = seen is not None and seen.health is Health.DOWN
        return server.weight > 0 and not down and name not in self.newcomers

    def seen(self, service: Service, server: Server) -> Sighting | None:
        """The last verdict on what is checked for `server`."""
        target = target_of(service, server)
        return None if target is None else self.sightings.get(target)

    def start_from(self, held: Table) -> None:
        """Keep every server's place in the kernel: in a service that the kernel already
        serves, a server that it does not hold is a newcomer."""
        for name, service in self.config.services.items():
            found = [table for f in service.listens if (table := held.get(f)) is not None]
            places = {endpoint for table in found for endpoint in table.destinations}
            if not found:
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
        moments += [pool.deadline for pool in self.pools.values() if pool.deadline is not None]
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
    first = service.listens[0]
    if service.check.through and isinstance(first, Listen):
        asked = Endpoint(first.address, service.check.port or first.port)
        return Target(service.check.probe, asked, _via(service, server))
    return Target(service.check.probe, service.check.target(server.endpoint(first)))


def _via(service: Service, server: Server) -> Via:
    tunnel = service.forwarding.tunnel
    if tunnel is None:
        return Via(str(server.address), service.forwarding.mode)
    return Via(str(server.address), service.forwarding.mode, tunnel.encapsulation, tunnel.port)


def agent_of(service: Service, server: Server) -> Target | None:
    """Where the agent of `server` answers; None where the service has none."""
    if service.agent is None:
        return None
    endpoint = server.endpoint(service.listens[0])
    return Target(service.agent.probe, service.agent.target(endpoint))


def targets(config: Config) -> Iterator[tuple[ServerName, Target]]:
    """Every server with what is checked for it."""
    checked = {n: one for n, one in config.services.items() if one.check is not None}
    return _targets(checked, target_of)


def agents(config: Config) -> Iterator[tuple[ServerName, Target]]:
    """Every server with where its agent answers."""
    with_agents = {n: one for n, one in config.services.items() if one.agent is not None}
    return _targets(with_agents, agent_of)


def _targets(
    services: Mapping[str, Service], of: Callable[[Service, Server], Target | None]
) -> Iterator[tuple[ServerName, Target]]:
    for name, service in services.items():
        for key, server in service.servers.items():
            if (target := of(service, server)) is not None:
                yield ServerName(name, key), target


def _asked_of(service: Service) -> tuple[object, ...]:
    """What facts about a service are kept under: its servers, their checks and agents."""
    servers = service.servers.items()
    asked = [(key, target_of(service, one), agent_of(service, one)) for key, one in servers]
    return asked, *(one and one.timing for one in (service.check, service.agent))


def _place(server: Server, service: Service) -> Place:
    """Where `server` is, for each listen of `service`: what tells it from others."""
    return tuple(server.endpoint(frontend) for frontend in service.listens)


def _names_by_target(
    pairs: Iterable[tuple[ServerName, Target]],
) -> dict[Target, list[ServerName]]:
    index: dict[Target, list[ServerName]] = {}
    for name, target in pairs:
        index.setdefault(target, []).append(name)
    return index


def owners(services: Mapping[str, Service]) -> dict[Frontend, str]:
    """Which service each listen belongs to."""
    return {frontend: name for name, s in services.items() for frontend in s.listens}
