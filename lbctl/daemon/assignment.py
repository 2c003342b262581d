"""Which checks a probe worker should hold, and the message that gets it there: pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import ceil
from zlib import crc32

from lbctl.health.judge import Health
from lbctl.messages import Assign, Job
from lbctl.model import (
    AgentProbe,
    ExecProbe,
    GrpcProbe,
    HttpProbe,
    ServerName,
    Timing,
    TlsProbe,
    Via,
)
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


def _all_maintained(world: World, now: float) -> set[ServerName]:
    return {name for name in world.orders if _maintained(world, name, now)}


def _impatience(timing: Timing) -> tuple[float, int, float]:
    return timing.interval, timing.fall, timing.timeout


# --- who checks what --------------------------------------------------------------------

Wanted = Mapping[Target, Timing]
RATE = 6000.0  # connections a second that one worker is asked to make (`make bench-checks`)


def cost(target: Target) -> float:
    """A probe's processor time, in connections that are made and closed."""
    match target.probe:
        case TlsProbe():
            return 8.0
        case HttpProbe(tls=tls, keepalive=kept) if not kept:
            return 2.0 if tls is None else 8.0
        case GrpcProbe(tls=tls):
            return 2.0 if tls is None else 8.0
        case AgentProbe() | ExecProbe() | HttpProbe():
            return 2.0
        case _:
            return 1.0


def shares(wanted: Wanted, most: int) -> int:
    """Over how many workers these are spread: as few as can make them in time."""
    rate = sum(cost(target) / timing.interval for target, timing in wanted.items())
    return max(1, min(most, ceil(rate / RATE)))


def ordinary(number: int, most: int, wanted: Wanted) -> Wanted:
    """What worker `number` of at most `most` checks: all probes of one place, if any."""
    straight = {t: timing for t, timing in wanted.items() if t.via is None}
    among = shares(straight, most)
    return {t: timing for t, timing in straight.items() if _place(t) % among == number}


def through_servers(wanted: Wanted) -> Wanted:
    """What the worker without VIPs checks."""
    return {t: timing for t, timing in wanted.items() if t.via is not None}


def _place(target: Target) -> int:
    return crc32(str(target.endpoint).encode())


def alone(wanted: Wanted) -> Wanted:
    """What a worker that is the only one checks."""
    return ordinary(0, 1, wanted)


def nobodys_mark(via: Via) -> int:
    return 0


@dataclass
class Assignment:
    """What one worker was told, target by job id. An id is never used for another target.

    mine: of all that is wanted, what is this worker's. mark: of packets that go through a
    server; None while there is no way to it: its checks are told with the change after that.
    """

    mine: Callable[[Wanted], Wanted] = alone
    mark: Callable[[Via], int | None] = nobodys_mark
    _ids: dict[Target, int] = field(default_factory=dict)
    _timings: dict[Target, Timing] = field(default_factory=dict)
    _targets: dict[int, Target] = field(default_factory=dict)
    _last: int = 0
    _of: tuple[object, set[ServerName]] | None = None  # what `_all` follows from
    _all: dict[Target, Timing] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._timings)

    def whole(self, world: World, now: float) -> Assign:
        """All of it: for a worker that knows nothing."""
        self._timings = self._possible(world, now)
        self._forget(self._ids.keys() - self._timings.keys())
        return Assign(start=tuple(self._jobs(world, self._timings)), whole=True)

    def change(self, world: World, now: float) -> Assign | None:
        """What is different since it was last told; None where nothing is."""
        wanted = self._possible(world, now)
        if wanted is self._timings:
            return None
        gone = self._timings.keys() - wanted.keys()
        fresh = [t for t, timing in wanted.items() if self._timings.get(t) != timing]
        self._timings = wanted
        cancelled = self._forget(gone)
        if not gone and not fresh:
            return None
        return Assign(start=tuple(self._jobs(world, fresh)), cancel=tuple(sorted(cancelled)))

    def wants(self, world: World, now: float) -> bool:
        """Whether there is anything to check."""
        return bool(self._wanted(world, now))

    def vias(self, world: World, now: float) -> set[Via]:
        """The servers that its checks go through."""
        return {t.via for t in self._wanted(world, now) if t.via is not None}

    def files(self, world: World, now: float) -> set[str]:
        """The files that its probes need."""
        return {name for t in self._wanted(world, now) for name in t.probe.files}

    def _wanted(self, world: World, now: float) -> dict[Target, Timing]:
        """Its part of what is wanted; the same object as long as that is the same."""
        maintained = _all_maintained(world, now)
        if self._of is None or self._of[0] is not world.asking or self._of[1] != maintained:
            self._all = dict(self.mine(wanted_checks(world, now)))
            self._of = world.asking, maintained
        return self._all

    def _possible(self, world: World, now: float) -> dict[Target, Timing]:
        """Without those whose way is still being laid."""
        wanted = self._wanted(world, now)
        if self.mark is nobodys_mark:
            return wanted
        return {t: timing for t, timing in wanted.items() if self._mark(t) is not None}

    def _mark(self, target: Target) -> int | None:
        return 0 if target.via is None else self.mark(target.via)

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
            mark = self._mark(target)
            assert mark is not None, f"{target.endpoint}: is told before there is a way to it"
            where = str(target.endpoint)
            yield Job(self._number(target), target.probe, where, timing, health, mark)

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
