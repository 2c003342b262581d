"""What follows from the facts: the table that the data path should hold, and why.

One pure function, `decide()`, says what each server of a service gets. Its branches stand
in the order of precedence:

1. a server that leaves, or that a person drains or maintains, takes no new flows;
2. a server that is down is out;
3. one that nobody has seen yet waits, if its service can serve without it;
4. what is left has its configured weight.

When nothing is left to take new flows, `last_resort` decides: here and nowhere else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from lbctl.health.judge import Health
from lbctl.model import (
    Destination,
    Endpoint,
    Frontend,
    LastResort,
    Server,
    ServerName,
    Service,
    Table,
    VirtualService,
)
from lbctl.world import Admin, Leaving, Order, World, target_of

SORRY = "sorry"  # the name of a service's sorry server


class Rule(StrEnum):
    """The rule that had the last word on a server."""

    LEAVING = "leaving"
    ADMIN = "admin"
    HEALTH = "health"
    NEWCOMER = "newcomer"
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
            table |= serve(service, decide(world, name, now))
    return Table(table)


def serve(service: Service, decisions: Sequence[Decision]) -> dict[Frontend, VirtualService]:
    """The listens of one service, with what was decided for its servers behind each."""
    return {f: _virtual_service(service, f, decisions) for f in service.listens}


def decide(world: World, name: str, now: float) -> list[Decision]:
    """What each server of service `name` gets: those configured, those that leave, and
    the sorry server when it serves."""
    service = world.config.services[name]
    decisions = [_weigh(world, service, ServerName(name, key), now) for key in service.servers]
    decisions += [_leave(one, now) for one in world.leaving if one.name.service == name]
    if any(decision.scheduled for decision in decisions):
        return decisions
    return _last_resort(name, service, decisions)


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
    """Nothing takes new flows: what the service's policy makes of that."""
    match service.last_resort:
        case LastResort.NONE:
            return decisions
        case LastResort.ALL:
            return [_pressed(one) for one in decisions]
        case LastResort.SORRY:
            if service.sorry is None:
                return decisions
            because = "last resort (sorry): nothing else is left"
            who = ServerName(name, SORRY)
            return [*decisions, Decision(who, service.sorry, 1, Rule.LAST_RESORT, because)]
        case _:
            assert_never(service.last_resort)


def _pressed(one: Decision) -> Decision:
    """A server that is out for its health serves all the same."""
    if one.rule not in (Rule.HEALTH, Rule.NEWCOMER):
        return one
    because = f"last resort (all): nothing else is left; {one.because}"
    return replace(one, weight=one.server.weight, rule=Rule.LAST_RESORT, because=because)


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
