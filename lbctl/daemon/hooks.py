"""Which hooks are due: pure. `lbctl.daemon.hookrunner` runs them.

A hook goes by what is so, not by what was heard: while its server is down (or overloaded)
it is due once the state has lasted `delay`, again `cooldown` after the end of its last run
if the state still lasts, and not more than `per_hour` times. `on_up` is due once for each
return. A server in `maint`, and a service whose virtual router is Active elsewhere, have
no hooks.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from lbctl.events import AnyEvent, HookEnded, HookHeld
from lbctl.health.judge import Health
from lbctl.model import Hook, Server, ServerName, Service, Trigger
from lbctl.world import Admin, World

HOUR = 3600.0
KEPT_RUNS = 20


class Key(NamedTuple):
    name: ServerName
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class Due:
    """A hook to run now."""

    key: Key
    hook: Hook
    server: Server
    evidence: str


@dataclass(frozen=True, slots=True)
class Past:
    """What is remembered of one hook of one server. since: when its state began (None: it
    is not so); done: for `on_up`, that this return was answered. starts: of the last hour.
    """

    since: float | None = None
    done: bool = False
    running: bool = False
    ended: float | None = None
    starts: tuple[float, ...] = ()
    held: bool = False  # the limit was told

    def moved(self, to: Callable[[float], float]) -> "Past":
        """The same on another clock, for a process that runs nothing yet."""
        return Past(
            since=None if self.since is None else to(self.since),
            done=self.done,
            ended=None if self.ended is None else to(self.ended),
            starts=tuple(map(to, self.starts)),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """A run that ended. at, took: seconds. result: in words."""

    key: Key
    at: float
    took: float
    passed: bool
    result: str
    output: str


class _State(NamedTuple):
    """A hook, and the evidence where its state is so."""

    key: Key
    hook: Hook
    server: Server
    evidence: str | None


@dataclass
class Ledger:
    """Every hook's past, and the last runs. counts: since this process started."""

    past: dict[Key, Past] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    counts: Counter[tuple[Key, bool]] = field(default_factory=Counter)  # ended, and how
    events: list[AnyEvent] = field(default_factory=list)
    _downs: set[ServerName] = field(default_factory=set)  # whose return was not answered yet

    def look(self, world: World, active: Callable[[str], bool], now: float) -> list[Due]:
        """The hooks to run now; each counts as running until `ended` is told."""
        states = {one.key: one for one in self._states(world, active)}
        self._downs &= {key.name for key in states if key.trigger is Trigger.UP}
        for key in [k for k, one in self.past.items() if k not in states and not one.running]:
            del self.past[key]
        due = []
        for key, (_, hook, server, evidence) in states.items():
            self.past[key] = one = self._noted(key, evidence is not None, now)
            if evidence is not None and self._is_due(key, hook, now):
                starts = (*_last_hour(one, now), now)
                self.past[key] = replace(one, running=True, starts=starts, held=False)
                due.append(Due(key, hook, server, evidence))
        return due

    def ended(self, run: Run) -> None:
        """A run is over."""
        one = self.past.get(run.key, Past())
        self.past[run.key] = replace(one, running=False, ended=run.at + run.took, done=True)
        if run.key.trigger is Trigger.UP:
            self._downs.discard(run.key.name)
        self.runs.append(run)
        self.counts[run.key, run.passed] += 1
        del self.runs[:-KEPT_RUNS]
        name, trigger = map(str, run.key)
        self.events.append(HookEnded(name, trigger, run.passed, run.result))

    def deadline(self, world: World, now: float) -> float | None:
        """When time alone makes a hook due."""
        moments = []
        for key, one in self.past.items():
            hook = _hook_of(world, key)
            if hook is not None and one.since is not None and not one.running:
                moments += [_ready_at(one, hook), _room_at(one, hook, now)]
        return min((moment for moment in moments if moment > now), default=None)

    def take_events(self) -> list[AnyEvent]:
        events, self.events = self.events, []
        return events

    # --- one hook -----------------------------------------------------------------------

    def _noted(self, key: Key, holds: bool, now: float) -> Past:
        one = self.past.get(key, Past())
        if not holds:
            return replace(one, since=None, done=False, held=False)
        return one if one.since is not None else replace(one, since=now, done=False)

    def _is_due(self, key: Key, hook: Hook, now: float) -> bool:
        one = self.past[key]
        if one.running or (one.done and hook.trigger is Trigger.UP) or now < _ready_at(one, hook):
            return False
        if now >= _room_at(one, hook, now):
            return True
        if not one.held:
            self.past[key] = replace(one, held=True)
            self.events.append(HookHeld(str(key.name), str(key.trigger), hook.per_hour))
        return False

    def _states(self, world: World, active: Callable[[str], bool]) -> Iterator[_State]:
        """Every hook of every server."""
        for name, service in world.config.services.items():
            if not service.hooks:
                continue
            for key, server in service.servers.items():
                who = ServerName(name, key)
                found = self._state(world, service, who, server) if active(name) else {}
                for hook in service.hooks:
                    yield _State(Key(who, hook.trigger), hook, server, found.get(hook.trigger))

    def _state(
        self, world: World, service: Service, who: ServerName, server: Server
    ) -> dict[Trigger, str]:
        order = world.orders.get(who)
        if order is not None and order.admin is Admin.MAINT:
            return {}
        found = {}
        seen = world.seen(service, server)
        if seen is not None and seen.health is Health.DOWN:
            self._downs.add(who)
            found[Trigger.DOWN] = seen.evidence
        elif seen is not None and seen.health is Health.UP and who in self._downs:
            found[Trigger.UP] = seen.evidence
        pool = world.pools.get(who.service)
        memory = pool.servers.get(who.server) if pool is not None else None
        if memory is not None and memory.out:
            found[Trigger.OVERLOAD] = memory.because
        return found


def _last_hour(one: Past, now: float) -> tuple[float, ...]:
    return tuple(start for start in one.starts if start > now - HOUR)


def _ready_at(one: Past, hook: Hook) -> float:
    """When its delay and its cooldown are over."""
    since = one.since if one.since is not None else 0.0
    return max(since + hook.delay, since if one.ended is None else one.ended + hook.cooldown)


def _room_at(one: Past, hook: Hook, now: float) -> float:
    """When the hour has room for one more."""
    recent = _last_hour(one, now)
    return now if len(recent) < hook.per_hour else recent[-hook.per_hour] + HOUR


def _hook_of(world: World, key: Key) -> Hook | None:
    service = world.config.services.get(key.name.service)
    hooks = service.hooks if service is not None else ()
    return next((hook for hook in hooks if hook.trigger is key.trigger), None)


def environment(due: Due) -> Mapping[str, str]:
    """All of what a hook finds in its environment (docs/health.md)."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LBCTL_EVENT": str(due.key.trigger),
        "LBCTL_SERVICE": due.key.name.service,
        "LBCTL_SERVER": due.key.name.server,
        "LBCTL_ADDRESS": str(due.server.address),
        "LBCTL_PORT": str(due.server.port or ""),
        "LBCTL_EVIDENCE": due.evidence,
    }
