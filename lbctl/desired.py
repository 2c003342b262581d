"""What follows from the facts: the table that the data path should hold, and why.

One pure function, `decide()`, says what each server of a service gets. Its branches stand
in the order of precedence:

1. a server that leaves, or that a person drains or maintains, takes no new flows;
2. a server that is down is out;
3. one that nobody has seen yet waits, if its service can serve without it;
4. what its agent wants (HAProxy's words: drain, maint, down) is done;
5. one that is overloaded is out, as far as the pool can do without it;
6. load, and then slow start, scale what is left: the configured weight.

When too little is left to take new flows, `last_resort` decides: here and nowhere else.

Load needs a past (hold times, steps). `World.pools` remembers it, `settle()` writes it
there, and `decide()` takes the next step from it for itself: it is as true without.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from lbctl.health.judge import Health
from lbctl.load import ONE, WHOLE, Policy, Pool, step
from lbctl.model import (
    HASHING,
    MAX_WEIGHT,
    Datapath,
    Destination,
    Endpoint,
    Frontend,
    LastResort,
    Scheduler,
    Server,
    ServerName,
    Service,
    Table,
    VirtualService,
)
from lbctl.world import Admin, Leaving, Order, World, agent_of, target_of

SORRY = "sorry"  # the name of a service's sorry server


class Rule(StrEnum):
    """The rule that had the last word on a server."""

    LEAVING = "leaving"
    ADMIN = "admin"
    HEALTH = "health"
    NEWCOMER = "newcomer"
    AGENT = "agent"
    LOAD = "load"
    SLOW_START = "slow start"
    WEIGHT = "weight"
    LAST_RESORT = "last resort"


@dataclass(frozen=True, slots=True)
class Decision:
    """What one server gets.

    weight: None: not in the table (dead). 0: keeps its flows and takes no new ones.
    """

    name: ServerName
    server: Server
    weight: int | None
    rule: Rule
    because: str

    @property
    def scheduled(self) -> bool:
        return bool(self.weight)


def desired(world: World, now: float, services: Iterable[str] | None = None) -> Table:
    """The table for all services, or for those named: the same either way, per service."""
    names = world.config.services.keys() if services is None else services
    table: dict[Frontend, VirtualService] = {}
    for name in names:
        if (service := world.config.services.get(name)) is not None:
            table |= as_served(world, serve(service, decide(world, name, now)))
    return Table(table)


def as_served(
    world: World, served: dict[Frontend, VirtualService]
) -> dict[Frontend, VirtualService]:
    """What we would serve, but where the peer is Active: there it says who serves, until we
    take over and our own view is a change. On IPVS, hashes that fall back."""
    if world.datapath == Datapath.IPVS:
        served = {f: _falling_back(one) for f, one in served.items()}
    return {f: _as_peer(one, world.replicas.get(f)) for f, one in served.items()}


def _falling_back(one: VirtualService) -> VirtualService:
    """A server that drains, or is full, keeps its share of IPVS's hash, and new flows that it
    leads to it are refused, unless the scheduler is told to look for another server
    (ip_vs_mh_get() and ip_vs_mh_get_fallback() in ip_vs_mh.c; so in ip_vs_sh.c)."""
    name, flags = one.scheduler.name, one.scheduler.flags
    if name not in HASHING:
        return one
    return replace(one, scheduler=Scheduler(name, flags | {f"{name}-fallback"}))


def _as_peer(ours: VirtualService, weights: Mapping[Endpoint, int] | None) -> VirtualService:
    if weights is None:
        return ours
    usual = next(iter(ours.destinations.values()), Destination())
    destinations = {
        endpoint: replace(ours.destinations.get(endpoint, usual), weight=weight)
        for endpoint, weight in weights.items()
    }
    return replace(ours, destinations=destinations)


def serve(service: Service, decisions: Sequence[Decision]) -> dict[Frontend, VirtualService]:
    """The listens of one service, with what was decided for its servers behind each."""
    return {f: _virtual_service(service, f, decisions) for f in service.listens}


def decide(world: World, name: str, now: float) -> list[Decision]:
    """What each server of service `name` gets: those configured, those that leave, and
    the sorry server when it serves."""
    service = world.config.services[name]
    decisions = [_weigh(world, service, ServerName(name, key), now) for key in service.servers]
    held = True
    if has_memory(service):
        pool = _pool(world, name, decisions, now)
        decisions = [_balance(world, service, pool, one) for one in decisions]
        held = pool.held
    decisions += [_leave(one, now) for one in world.leaving if one.name.service == name]
    if held and any(decision.scheduled for decision in decisions):
        return decisions
    return _last_resort(name, service, decisions)


# --- load -------------------------------------------------------------------------------


def has_memory(service: Service) -> bool:
    """Whether what becomes of the service depends on more than the present."""
    return service.agent is not None or service.slow_start > 0 or service.quorum != ONE


def settle(world: World, names: Iterable[str], now: float) -> Iterator[tuple[str, Pool, Pool]]:
    """Write down what load made of these services by now: (name, before, after) of those
    where that is something else. To be called whenever facts changed, and at deadlines."""
    for name in names:
        service = world.config.services.get(name)
        if service is None or not has_memory(service):
            world.pools.pop(name, None)
            continue
        weighed = (_weigh(world, service, ServerName(name, key), now) for key in service.servers)
        before, after = world.pools.get(name), _pool(world, name, list(weighed), now)
        world.pools[name] = after
        if before != after:
            yield name, before or Pool(), after


def _pool(world: World, name: str, weighed: Sequence[Decision], now: float) -> Pool:
    service = world.config.services[name]
    reports = {d.name.server: world.report(service, d.server) for d in weighed if d.scheduled}
    policy = Policy(
        service.overload,
        service.slow_start,
        service.quorum,
        ring=service.scheduler.name in HASHING,
        unrest=world.unrest.get(name, 0.0),
    )
    return step(world.pools.get(name), reports, policy, now)


def scale(service: Service) -> int:
    """What configured weights are multiplied by, so that an eighth of one is a weight. All
    servers of a service have the same, loaded or not: nobody's moves because another's did."""
    heaviest = max((server.weight for server in service.servers.values()), default=0)
    return WHOLE if has_memory(service) and heaviest * WHOLE <= MAX_WEIGHT else 1


def _balance(world: World, service: Service, pool: Pool, one: Decision) -> Decision:
    """What load and slow start leave of a weight. An overloaded server keeps its flows."""
    memory = pool.servers.get(one.name.server)
    if memory is None or not one.weight:
        return one
    if memory.out:
        return replace(one, weight=0, rule=Rule.LOAD, because=f"overloaded: {memory.because}")
    factor = scale(service)
    weight = max(1, one.weight * factor * memory.eighths // WHOLE)
    if memory.eighths == WHOLE:
        return replace(one, weight=weight, because=_neutral(world, service, pool, one))
    scaled = f" x {factor}" if factor > 1 else ""
    product = f"{one.weight} configured{scaled} x {memory.eighths}/{WHOLE} = {weight}"
    if memory.load > memory.eighths:
        because = f"{product}: came back; all of it after {service.slow_start:g} s"
        return replace(one, weight=weight, rule=Rule.SLOW_START, because=because)
    return replace(one, weight=weight, rule=Rule.LOAD, because=f"{product}: {memory.because}")


def _neutral(world: World, service: Service, pool: Pool, one: Decision) -> str:
    """Why load takes nothing away, where that is not plain."""
    if pool.overloaded:
        return f"{one.because}; all are overloaded: spread evenly"
    target = agent_of(service, one.server)
    seen = world.sightings.get(target) if target is not None else None
    if seen is not None and seen.health is Health.DOWN:
        return f"{one.because}; its agent is silent"
    return one.because


# --- one server -------------------------------------------------------------------------


def _weigh(world: World, service: Service, name: ServerName, now: float) -> Decision:
    server = service.servers[name.server]
    target = target_of(service, server)
    seen = world.seen(service, server)
    health = seen.health if seen else Health.UNKNOWN
    evidence = (seen.evidence if seen else "") or "no evidence kept"

    def give(weight: int | None, rule: Rule, because: str) -> Decision:
        return Decision(name, server, weight, rule, because)

    order = world.orders.get(name)
    if order is not None and order.in_force(now) and order.admin is not Admin.READY:
        if now >= order.deadline:
            return give(None, Rule.ADMIN, f"{_said(order)}; drain timeout passed")
        if order.admin is Admin.DRAIN and health is Health.DOWN:
            return give(None, Rule.ADMIN, f"{_said(order)}; and down: {evidence}")
        return give(0, Rule.ADMIN, _said(order))
    if health is Health.DOWN:
        return give(None, Rule.HEALTH, f"down: {evidence}")
    if health is Health.UNKNOWN and target is not None and name in world.newcomers:
        return give(None, Rule.NEWCOMER, "new: enters after its first passed check")
    if (report := world.report(service, server)) is not None:
        said = f": {report.reason}" if report.reason else ""
        if report.state == "down":
            return give(None, Rule.AGENT, f"its agent says down{said}")
        if report.admin in ("drain", "maint"):
            return give(0, Rule.AGENT, f"its agent says {report.admin}{said}")
        if report.percent == 0:
            return give(0, Rule.AGENT, "its agent wants 0 %")
    if target is None:
        return give(server.weight, Rule.WEIGHT, "configured weight; no check")
    if health is Health.UNKNOWN:
        return give(server.weight, Rule.WEIGHT, "configured weight; no verdict yet")
    return give(server.weight, Rule.WEIGHT, f"configured weight; up: {evidence}")


def _said(order: Order) -> str:
    by = f" by {order.by}" if order.by else ""
    return f"{order.admin} ordered{by}" + (f": {order.reason}" if order.reason else "")


def _leave(one: Leaving, now: float) -> Decision:
    if now >= one.deadline:
        because = "removed; drain timeout passed"
        return Decision(one.name, one.server, None, Rule.LEAVING, because)
    return Decision(one.name, one.server, 0, Rule.LEAVING, "removed: finishes its flows")


def _last_resort(name: str, service: Service, decisions: list[Decision]) -> list[Decision]:
    """Too little takes new flows: what the service's policy makes of that."""
    why = "nothing else is left"
    if any(one.scheduled for one in decisions):
        why = f"fewer than {service.quorum.servers} servers are left"
    match service.last_resort:
        case LastResort.NONE:
            return decisions
        case LastResort.ALL:
            return [_pressed(one, why, scale(service)) for one in decisions]
        case LastResort.SORRY:
            if service.sorry is None:
                return decisions
            because = f"last resort (sorry): {why}"
            sorry = Decision(ServerName(name, SORRY), service.sorry, 1, Rule.LAST_RESORT, because)
            return [*(_relieved(one, because) for one in decisions), sorry]
        case _:
            assert_never(service.last_resort)


def _pressed(one: Decision, why: str, factor: int) -> Decision:
    """A server that is out for its health serves all the same."""
    if one.rule not in (Rule.HEALTH, Rule.NEWCOMER) and not _agent_says_down(one):
        return one
    because = f"last resort (all): {why}; {one.because}"
    return replace(one, weight=one.server.weight * factor, rule=Rule.LAST_RESORT, because=because)


def _agent_says_down(one: Decision) -> bool:
    return one.rule is Rule.AGENT and one.weight is None


def _relieved(one: Decision, because: str) -> Decision:
    """A server that is left, but too few are: the sorry server takes the new flows."""
    return replace(one, weight=0, rule=Rule.LAST_RESORT, because=because) if one.scheduled else one


def _virtual_service(
    service: Service, frontend: Frontend, decisions: Iterable[Decision]
) -> VirtualService:
    destinations: dict[Endpoint, Destination] = {}
    for decision in decisions:
        server, weight = decision.server, decision.weight
        place = server.endpoint(frontend)
        # Two can be at one place (a server that leaves, or the sorry server, and one that
        # is configured): then it has the greater weight.
        rival = destinations.get(place)
        if weight is not None and (rival is None or weight > rival.weight):
            destinations[place] = Destination(
                weight, service.forwarding, server.max_connections, server.min_connections
            )
    return VirtualService(service.scheduler, destinations, service.persistence, service.oneshot)
