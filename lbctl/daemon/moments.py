"""What time alone changes: orders that end, drains that are given up, departures, the hold
times of load; and what load changed, in events."""

from collections.abc import Iterator

from lbctl.events import AnyEvent, DrainEnded, LoadChanged, OrderEnded
from lbctl.load import Memory, Pool
from lbctl.model import ServerName
from lbctl.world import Admin, World


def pass_time(world: World, since: float, now: float) -> tuple[set[str], list[AnyEvent]]:
    """Take what ended after `since` and up to `now` out of `world`; return the services
    that it touches and what to tell."""
    touched: set[str] = set()
    events: list[AnyEvent] = []
    for name, order in world.orders.items():
        if not order.in_force(now):
            touched.add(name.service)
            events.append(OrderEnded(str(name), order.admin))
        elif since < order.deadline <= now and order.admin is not Admin.READY:
            touched.add(name.service)
            events.append(DrainEnded(str(name), f"{order.admin}: drain timeout passed"))
    for one in world.leaving:
        if one.deadline <= now:
            touched.add(one.name.service)
            events.append(DrainEnded(str(one.name), "removed: drain timeout passed"))
    for service, pool in world.pools.items():
        if pool.deadline is not None and pool.deadline <= now:
            touched.add(service)
    world.expire(now)
    return touched, events


def load_changes(service: str, before: Pool, after: Pool) -> Iterator[LoadChanged]:
    """The servers that left for their load between the two, and those that came back."""
    for key, one in after.servers.items():
        out = before.servers.get(key, Memory()).out
        if one.out != out:
            because = one.because
            if not one.out and after.overloaded:
                because = "all servers are: load is spread evenly"
            yield LoadChanged(str(ServerName(service, key)), one.out, because)
