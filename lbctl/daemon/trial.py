"""What a change would do, seen on two worlds: the one that is and the one that would be."""

from collections.abc import Iterable

from lbctl.dataplane.plan import plan
from lbctl.desired import Rule, decide, desired
from lbctl.errors import Refused
from lbctl.world import World


def operations(before: World, after: World, touched: Iterable[str], now: float) -> tuple[str, ...]:
    """The operations of the data path between the two, for the services touched."""
    names = set(touched)
    ops = plan(desired(after, now, names), desired(before, now, names))
    return tuple(str(op) for op in ops)


def refuse_if_emptied(before: World, after: World, touched: Iterable[str], now: float) -> None:
    """Raise Refused where a service loses its last schedulable server, or goes with it."""
    for name in sorted(touched):
        if not _schedulable(before, name, now) or _schedulable(after, name, now):
            continue
        if name not in after.config.services:
            raise Refused(
                f"{name}: it serves, and would be gone at once, with all its flows",
                f"`lbctl drain {name} --force --wait` lets them finish; --force removes it now",
            )
        raise Refused(
            f"{name}: no server would be left to take new flows",
            "bring another server into service first, or repeat with --force",
        )


def _schedulable(world: World, service: str, now: float) -> bool:
    if service not in world.config.services:
        return False
    of = world.config.services[service]
    return any(
        one.scheduled and one.rule is not Rule.LAST_RESORT and not world.is_outside(of, one.server)
        for one in decide(world, service, now)
    )
