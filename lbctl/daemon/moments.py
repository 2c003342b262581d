"""What time alone changes: orders that end, drains that are given up, departures."""

from lbctl.events import AnyEvent, DrainEnded, OrderEnded
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
    world.expire(now)
    return touched, events
