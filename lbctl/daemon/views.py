"""The facts of one moment, in the shapes that the API shows. Pure."""

from collections.abc import Iterable, Iterator
from typing import assert_never

from lbctl.daemon.clock import Clock
from lbctl.daemon.reconcile import Reconciler, Stuck
from lbctl.daemon.shapes import (
    AgentView,
    OverrideView,
    Reason,
    ServerView,
    ServiceDescription,
    ServiceView,
    StatsView,
    Sums,
    TransitionView,
    Why,
)
from lbctl.dataplane.port import Stats
from lbctl.desired import Decision, Rule, has_memory, scale
from lbctl.health.judge import Health
from lbctl.load import WHOLE, Memory
from lbctl.model import AgentProbe, Endpoint, Listen, Server, ServerName, Service
from lbctl.stats.totals import Total, service_total, totals, whole
from lbctl.world import Admin, Target, World, agents, target_of

UNCHECKED = "unchecked"


class Show:
    """The facts of one moment, as the API shows them."""

    def __init__(self, world: World, reconciler: Reconciler, stats: Stats, clock: Clock) -> None:
        self._world = world
        self._reconciler = reconciler
        self._stats = stats
        self._clock = clock
        self._now = clock.now()

    def services(self) -> Iterator[ServiceView]:
        for name in self._world.config.services:
            yield self.service(name)

    def service(self, name: str) -> ServiceView:
        service = self._world.config.services[name]
        rows = self._rows(name)
        state, because = self._reconciler.states.get(name, ("starting", ""))
        return ServiceView(
            name=name,
            listens=tuple(map(str, service.listens)),
            scheduler=str(service.scheduler),
            mode=str(service.forwarding.mode),
            check=_check_of(service),
            state=state,
            because=because,
            servers=len(service.servers),
            scheduled=sum(one.scheduled and not self._refused(service, one) for one, _ in rows),
            connections=whole(sums for _, sums in rows).open,
            problems=tuple(one.error for one in self._stuck_of_service(service)),
        )

    def servers(self, service: str | None = None) -> Iterator[ServerView]:
        names = self._world.config.services if service is None else (service,)
        for name in names:
            for decision, sums in self._rows(name):
                yield self._server(decision, sums)

    def server(self, name: ServerName) -> ServerView:
        rows = [row for row in self._rows(name.service) if row[0].name == name]
        # One that leaves may bear the name of one that came; the latter is meant.
        decision, sums = min(rows, key=lambda row: row[0].rule is Rule.LEAVING)
        return self._server(decision, sums)

    def describe(self, name: str) -> ServiceDescription:
        service = self._world.config.services[name]
        kept = service.persistence
        return ServiceDescription(
            service=self.service(name),
            servers=tuple(self.servers(name)),
            drain_timeout=service.drain.timeout,
            drain_quiet=service.drain.quiet,
            last_resort=str(service.last_resort),
            vip=str(service.vip),
            persistence=f"{kept.timeout} s per /{kept.prefix}" if kept else "none",
        )

    def agents(self) -> Iterator[AgentView]:
        for name, target in agents(self._world.config):
            service = self._world.config.services[name.service]
            yield self._agent(name, target, service.servers[name.server])

    def _agent(self, name: ServerName, target: Target, server: Server) -> AgentView:
        world = self._world
        seen = world.sightings.get(target)
        said = world.report(world.config.services[name.service], server)
        memory = _memory(world, name)
        known = {Health.UP: "speaks", Health.DOWN: "silent", Health.UNKNOWN: "unheard"}
        probe = target.probe
        return AgentView(
            server=str(name),
            address=str(target.endpoint),
            speaks=probe.speaks if isinstance(probe, AgentProbe) else "",
            state=known[seen.health] if seen is not None else "unheard",
            cpu=said.cpu if said else None,
            memory=said.memory if said else None,
            disk=said.disk if said else None,
            words=said.words if said else "",
            connections=said.connections if said else None,
            out=memory.out,
            eighths=memory.eighths,
            weight=self.server(name).weight if self._known(name) else None,
            evidence=seen.evidence if seen is not None else "",
        )

    def _known(self, name: ServerName) -> bool:
        decisions = self._reconciler.decisions.get(name.service, ())
        return any(one.name == name for one in decisions)

    def why(self, name: ServerName, overrides: Iterable[OverrideView]) -> Why:
        view = self.server(name)
        prefix = ("services", name.service, "servers", name.server)
        return Why(
            server=view,
            reasons=tuple(self._reasons(name, view)),
            overrides=tuple(one for one in overrides if one.path[: len(prefix)] == prefix),
            transitions=tuple(
                TransitionView(self._clock.to_wall(t.at), t.weight, t.rule, t.because)
                for t in self._reconciler.transitions.get(name, ())
            ),
        )

    def stats(self, at: float, service: str | None = None) -> StatsView:
        names = self._world.config.services if service is None else (service,)
        rows = {name: self._rows(name) for name in names}
        return StatsView(
            at=at,
            age=max(0.0, self._now - at),
            services={name: _sums(self._service_total(name, part)) for name, part in rows.items()},
            servers={str(d.name): _sums(t) for parts in rows.values() for d, t in parts},
            verdicts=dict(self._stats.verdicts),
            writes=dict(self._stats.writes),
        )

    # --- one server ---------------------------------------------------------------------

    def _rows(self, name: str) -> list[tuple[Decision, Total]]:
        service = self._world.config.services[name]
        return totals(service, self._reconciler.decisions.get(name, ()), self._stats)

    def _service_total(self, name: str, rows: Iterable[tuple[Decision, Total]]) -> Total:
        service = self._world.config.services[name]
        return service_total(service, (total for _, total in rows), self._stats)

    def _server(self, one: Decision, sums: Total) -> ServerView:
        service = self._world.config.services[one.name.service]
        admin = self._admin(one.name)
        health, evidence = self._health(service, one.server)
        past = self._reconciler.transitions.get(one.name)
        refused = self._refused(service, one)
        return ServerView(
            name=str(one.name),
            address=_address(one.server),
            state="refused" if refused else state_word(one, admin),
            admin=admin,
            health=health,
            weight=None if refused else one.weight,
            configured=one.server.weight,
            rule=one.rule,
            because=one.because,
            evidence=evidence,
            connections=sums.open,
            connections_from=sums.source,
            since=self._clock.to_wall(past[-1].at) if past else None,
            problems=tuple(stuck.error for stuck in self._stuck_of_server(service, one.server)),
            admin_until=self._admin_until(one.name),
        )

    def _refused(self, service: Service, one: Decision) -> bool:
        """Whether the data path should have it, and takes it behind no listen."""
        return one.weight is not None and self._world.is_outside(service, one.server)

    def _admin(self, name: ServerName) -> Admin:
        order = self._world.orders.get(name)
        return order.admin if order is not None and order.in_force(self._now) else Admin.READY

    def _admin_until(self, name: ServerName) -> float | None:
        order = self._world.orders.get(name)
        if order is None or order.until is None or not order.in_force(self._now):
            return None
        return self._clock.to_wall(order.until)

    def _health(self, service: Service, server: Server) -> tuple[str, str]:
        target = target_of(service, server)
        if target is None:
            return UNCHECKED, ""
        seen = self._world.sightings.get(target)
        return (str(seen.health), seen.evidence) if seen is not None else ("unknown", "")

    def _stuck_of_server(self, service: Service, server: Server) -> Iterator[Stuck]:
        places = {(f, server.endpoint(f)) for f in service.listens}
        return (one for s, one in self._reconciler.stuck.items() if (s.what, s.server) in places)

    def _stuck_of_service(self, service: Service) -> Iterator[Stuck]:
        """What is about the service or its VIPs, not about one server."""
        addresses = {f.address for f in service.listens if isinstance(f, Listen)}
        about = {*service.listens, *addresses}
        return (
            one for s, one in self._reconciler.stuck.items() if s.server is None and s.what in about
        )

    def _reasons(self, name: ServerName, view: ServerView) -> Iterator[Reason]:
        """The rules in their order, up to the one that had the last word."""
        order = self._world.orders.get(name)
        said = "ready: nobody ordered anything else"
        if order is not None and view.admin is not Admin.READY:
            said = f"{order.admin}" + (f" by {order.by}" if order.by else "")
            said += f": {order.reason}" if order.reason else ""
        steps = [
            (Rule.ADMIN, "administrative", said),
            (Rule.HEALTH, "health", view.health + (f": {view.evidence}" if view.evidence else "")),
            (Rule.NEWCOMER, "newcomer", _newcomer(name in self._world.newcomers)),
            *self._load_reasons(name),
            (Rule.WEIGHT, "weight", self._product(name, view)),
            (Rule.LAST_RESORT, "last resort", "nothing else is left"),
        ]
        for rule, step, says in steps:
            decided = rule is view.rule
            only = decided and rule is not Rule.WEIGHT
            yield Reason(step, view.because if only else says, decided)
            if decided:
                return

    def _load_reasons(self, name: ServerName) -> Iterator[tuple[Rule, str, str]]:
        """What its agent says and what its load does, where it has an agent."""
        service = self._world.config.services[name.service]
        server = service.servers.get(name.server)
        if server is None or not has_memory(service):
            return
        memory, said = _memory(self._world, name), self._world.report(service, server)
        if service.agent is not None:
            yield Rule.AGENT, "agent", str(said) if said else "says nothing: that is neutral"
            left = f"{memory.load}/{WHOLE} of its weight"
            yield Rule.LOAD, "load", left + (f" ({memory.because})" if memory.because else "")
        if service.slow_start:
            slow = f"{memory.eighths}/{WHOLE} of its weight"
            yield Rule.SLOW_START, "slow start", slow

    def _product(self, name: ServerName, view: ServerView) -> str:
        """The arithmetic of a weight."""
        service = self._world.config.services[name.service]
        if not has_memory(service) or view.weight is None:
            return view.because
        factor, eighths = scale(service), _memory(self._world, name).eighths
        return f"{view.configured} x {factor} x {eighths}/{WHOLE} = {view.weight}; {view.because}"


def _memory(world: World, name: ServerName) -> Memory:
    pool = world.pools.get(name.service)
    return (pool.servers.get(name.server) if pool is not None else None) or Memory()


def state_word(one: Decision, admin: Admin) -> str:
    """What a server is doing, in one word."""
    match one.rule:
        case Rule.LEAVING:
            return "leaving" if one.weight is not None else "gone"
        case Rule.ADMIN if admin is Admin.MAINT:
            return "maint"
        case Rule.ADMIN:
            return "draining" if one.weight is not None else "drained"
        case Rule.HEALTH:
            return "down"
        case Rule.NEWCOMER:
            return "new"
        case Rule.AGENT:
            return "down" if one.weight is None else "draining"
        case Rule.LOAD if not one.weight:
            return "overloaded"
        case Rule.LAST_RESORT:
            return "last resort"
        case Rule.LOAD | Rule.SLOW_START | Rule.WEIGHT:
            return "serving" if one.weight else "idle"
        case _:
            assert_never(one.rule)


def _newcomer(waits: bool) -> str:
    return "new: waits for its first pass" if waits else "no: it may serve without a verdict"


def _address(server: Server) -> str:
    if server.port is None:
        return str(server.address)
    return str(Endpoint(server.address, server.port))


def _sums(total: Total) -> Sums:
    counters = total.counters
    return Sums(
        connections=counters.connections,
        packets_in=counters.packets_in,
        packets_out=counters.packets_out,
        bytes_in=counters.bytes_in,
        bytes_out=counters.bytes_out,
        refused=counters.refused,
        established=total.established,
        embryonic=total.embryonic,
        closing=total.closing,
        source=total.source,
    )


def _check_of(service: Service) -> str:
    check = service.check
    if check is None:
        return "none"
    timing = check.timing
    kind = check.probe.__struct_config__.tag
    return f"{kind} every {timing.interval:g} s, fall {timing.fall}, rise {timing.rise}"
