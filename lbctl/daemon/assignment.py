"""Which checks a probe worker should hold, and the message that gets it there: pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from lbctl.health.judge import Health
from lbctl.messages import Assign, Job
from lbctl.model import ServerName, Timing
from lbctl.world import Admin, Target, World, agents, targets


def wanted_checks(world: World, now: float) -> dict[Target, Timing]:
    """Every target that somebody wants checked, and every agent that is asked, once.

    A server in `maint` is not checked. Where services ask the same of the same place at
    different paces, the most impatient one sets it.
    """
    wanted: dict[Target, Timing] = {}
    services = world.config.services
    checks = (
        (name, target, services[name.service].check) for name, target in targets(world.config)
    )
    asked = ((name, target, services[name.service].agent) for name, target in agents(world.config))
    for name, target, check in chain(checks, asked):
        if check is None or _maintained(world, name, now):
            continue
        old = wanted.get(target)
        if old is None or _impatience(check.timing) < _impatience(old):
            wanted[target] = check.timing
    return wanted


def _maintained(world: World, name: ServerName, now: float) -> bool:
    order = world.orders.get(name)
    return order is not None and order.admin is Admin.MAINT and order.in_force(now)


def _impatience(timing: Timing) -> tuple[float, int, float]:
    return timing.interval, timing.fall, timing.timeout


@dataclass
class Assignment:
    """What one worker was told, target by job id. An id is never used for another target."""

    _ids: dict[Target, int] = field(default_factory=dict)
    _timings: dict[Target, Timing] = field(default_factory=dict)
    _targets: dict[int, Target] = field(default_factory=dict)
    _last: int = 0

    def __len__(self) -> int:
        return len(self._timings)

    def whole(self, world: World, now: float) -> Assign:
        """All of it: for a worker that knows nothing."""
        self._timings = wanted_checks(world, now)
        self._forget(self._ids.keys() - self._timings.keys())
        return Assign(start=tuple(self._jobs(world, self._timings)), whole=True)

    def change(self, world: World, now: float) -> Assign | None:
        """What is different since it was last told; None where nothing is."""
        wanted = wanted_checks(world, now)
        gone = self._timings.keys() - wanted.keys()
        fresh = [t for t, timing in wanted.items() if self._timings.get(t) != timing]
        self._timings = wanted
        cancelled = self._forget(gone)
        if not gone and not fresh:
            return None
        return Assign(start=tuple(self._jobs(world, fresh)), cancel=tuple(sorted(cancelled)))

    def target(self, job: int) -> Target | None:
        """What job `job` checks; None where it was cancelled meanwhile."""
        return self._targets.get(job)

    def id(self, target: Target) -> int | None:
        return self._ids.get(target)

    def _jobs(self, world: World, which: Iterable[Target]) -> Iterable[Job]:
        for target in which:
            seen = world.sightings.get(target)
            health = seen.health if seen is not None else Health.UNKNOWN
            timing = self._timings[target]
            yield Job(self._number(target), target.probe, str(target.endpoint), timing, health)

    def _number(self, target: Target) -> int:
        if target not in self._ids:
            self._last += 1
            self._ids[target] = self._last
            self._targets[self._last] = target
        return self._ids[target]

    def _forget(self, gone: Iterable[Target]) -> list[int]:
        numbers = [self._ids.pop(target) for target in list(gone)]
        for number in numbers:
            del self._targets[number]
        return numbers
