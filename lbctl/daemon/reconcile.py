"""What the next pass over the data path does: pure, so that every story can be told.

Level-triggered. A mark says only *which* services may be different; a pass recomputes them
whole, compares with what the data path is known to hold, and asks for the difference. What
is held is read back at the start, every `OBSERVE_EVERY` seconds and after an error; between
those it is what was held plus what was done.

    mark -> step(world, now) -> Step -> (the shell carries it out) -> finish(step, refusals)
                  ^                                                        |
                  +------------- deadline: a retry, the next look ---------+

What was refused stays on its subject and is tried again with growing delay.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lbctl.daemon.acts import (
    Act,
    AddVip,
    Held,
    Refusal,
    RemoveVip,
    Subject,
    in_order,
    managed_vips,
    roots,
    subject_of,
)
from lbctl.dataplane.plan import plan
from lbctl.dataplane.port import AddServer, AddService, Op
from lbctl.desired import Decision, Rule, as_served, decide, desired, serve
from lbctl.events import AnyEvent, Drift, Refused, ServiceChanged, Taken
from lbctl.load import Pool
from lbctl.model import Address, Endpoint, Frontend, ServerName, Table, VirtualService
from lbctl.world import World

OBSERVE_EVERY = 60.0  # seconds
FIRST_RETRY = 1.0
LAST_RETRY = 60.0
KEPT_TRANSITIONS = 10
AT_ONCE = -math.inf


@dataclass(frozen=True, slots=True)
class Stuck:
    """An act that was refused. retry: when it is tried again."""

    act: Act
    error: str
    tries: int
    since: float
    retry: float


@dataclass(frozen=True, slots=True)
class Transition:
    """A server got another place in the schedule, or the same for another reason."""

    at: float
    weight: int | None
    rule: Rule
    because: str


@dataclass(frozen=True, slots=True)
class Step:
    """One pass. A VIP comes before its service does, and goes after it."""

    before: tuple[AddVip, ...] = ()
    ops: tuple[Op, ...] = ()
    after: tuple[RemoveVip, ...] = ()
    events: tuple[AnyEvent, ...] = ()

    @property
    def acts(self) -> tuple[Act, ...]:
        return (*self.before, *self.ops, *self.after)


@dataclass
class Reconciler:
    """Which pass is due, what it asks for, and what became of it.

    decisions, states, transitions and stuck are what `get`, `describe` and `why` show.
    """

    decisions: dict[str, list[Decision]] = field(default_factory=dict)
    states: dict[str, tuple[str, str]] = field(default_factory=dict)
    transitions: dict[ServerName, deque[Transition]] = field(default_factory=dict)
    stuck: dict[Subject, Stuck] = field(default_factory=dict)
    held: Held | None = None
    passes: int = 0
    _wanted: dict[str, Mapping[Frontend, VirtualService]] = field(default_factory=dict)
    _owner: dict[Frontend, str] = field(default_factory=dict)  # whose it is in `_wanted`
    _dirty: set[str] = field(default_factory=set)
    _all: bool = True
    _doubt: bool = True  # what is held is to be read back
    _drift: bool = False  # what was read back was not expected to differ

    # --- what is due --------------------------------------------------------------------

    def mark(self, services: Iterable[str]) -> None:
        """These may have to be served differently now."""
        self._dirty.update(services)

    def doubt(self) -> None:
        """Something else may have touched the data path: read it back."""
        self._doubt = True

    def retry_now(self, now: float) -> None:
        """The kernel has news: what it refused deserves a new try at once."""
        self.stuck = {s: replace(one, retry=now) for s, one in self.stuck.items()}

    def outside(self) -> set[tuple[Frontend, Endpoint]]:
        """Where the data path refuses to take a server, by itself or with its whole listen."""
        if not self.stuck:
            return set()
        acts = [one.act for one in self.stuck.values()]
        listens = {act.frontend for act in acts if isinstance(act, AddService)}
        behind = {
            (frontend, endpoint)
            for served in self._wanted.values()
            for frontend in listens & served.keys()
            for endpoint in served[frontend].destinations
        }
        return behind | {(act.frontend, act.endpoint) for act in acts if isinstance(act, AddServer)}

    @property
    def deadline(self) -> float:
        """When the next pass is due; `AT_ONCE` where something waits for it already."""
        if self.held is None or self._dirty or self._all or self._doubt:
            return AT_ONCE
        return min([self.held.at + OBSERVE_EVERY, *(one.retry for one in self.stuck.values())])

    def must_observe(self, now: float) -> bool:
        return self.held is None or self._doubt or now >= self.held.at + OBSERVE_EVERY

    def observed(self, table: Table, vips: Iterable[Address], now: float) -> None:
        """Take what was read back; the next step compares all of it."""
        found = Held(table, frozenset(vips), now)
        self._drift = (
            self.held is not None and not self._doubt and found != replace(self.held, at=now)
        )
        self.held, self._doubt, self._all = found, False, True

    # --- a pass -------------------------------------------------------------------------

    def step(self, world: World, now: float) -> Step:
        """Recompute what is marked, and say what the data path should do about it. The
        data path has been observed at least once."""
        whole = self._all
        names = self._dirty | (
            world.config.services.keys() | self._wanted.keys() if whole else set()
        )
        self._dirty, self._all = set(), False
        fronts = self._fronts(names)
        events = [event for name in sorted(names) for event in self._recompute(world, name, now)]
        fronts |= self._fronts(names) | self._stuck_fronts()
        step = self._plan(world, fronts, whole)
        if self._drift and step.acts:
            events.append(Drift(tuple(str(act) for act in step.acts)))
        self._drift = False
        return replace(self._without_waiting(step, fronts, now), events=tuple(events))

    def finish(self, step: Step, refusals: Sequence[Refusal], now: float) -> list[AnyEvent]:
        """Take what became of `step`'s acts."""
        assert self.held is not None
        self.passes += 1
        not_done = {id(refusal.act) for refusal in refusals}
        done = [act for act in step.acts if id(act) not in not_done]
        self.held = self.held.after(done)
        self._doubt = self._doubt or bool(refusals)
        events: list[AnyEvent] = [
            Taken(str(act), one.tries + 1)
            for act in done
            if (one := self.stuck.pop(subject_of(act), None)) is not None
        ]
        for refusal in roots(refusals):
            events += self._stick(refusal, now)
        return events

    def _stick(self, refusal: Refusal, now: float) -> list[AnyEvent]:
        """Keep a refusal on its subject; only a new one is an event."""
        subject = subject_of(refusal.act)
        old = self.stuck.get(subject)
        again = old is not None and old.act == refusal.act and old.error == refusal.error
        tries = old.tries + 1 if old is not None and again else 1
        since = old.since if old is not None and again else now
        retry = now + min(FIRST_RETRY * 2 ** (tries - 1), LAST_RETRY)
        self.stuck[subject] = Stuck(refusal.act, refusal.error, tries, since, retry)
        return [] if again else [Refused(refusal.error)]

    def _recompute(self, world: World, name: str, now: float) -> list[AnyEvent]:
        service = world.config.services.get(name)
        if service is None:
            self._forget(name)
            return []
        decisions = decide(world, name, now)
        self._remember(name, decisions, now)
        self.decisions[name] = decisions
        self._want(name, as_served(world, serve(service, decisions)))
        refused = [one for one in decisions if world.is_outside(service, one.server)]
        state, because = state_of(decisions, world.pools.get(name), refused)
        before, _ = self.states.get(name, ("serving", ""))
        self.states[name] = state, because
        return [ServiceChanged(name, state, because)] if state != before else []

    def _want(self, name: str, served: Mapping[Frontend, VirtualService]) -> None:
        for frontend in self._wanted.pop(name, ()):
            if self._owner.get(frontend) == name:
                del self._owner[frontend]
        if served:
            self._wanted[name] = served
            self._owner.update(dict.fromkeys(served, name))

    def _forget(self, name: str) -> None:
        self._want(name, {})
        self.decisions.pop(name, None)
        self.states.pop(name, None)
        self.transitions = {n: t for n, t in self.transitions.items() if n.service != name}

    def _remember(self, service: str, decisions: Iterable[Decision], now: float) -> None:
        # One that leaves may bear the name of one that came: the latter's history counts.
        by_name = {one.name: one for one in reversed(list(decisions))}
        for name, one in by_name.items():
            past = self.transitions.setdefault(name, deque(maxlen=KEPT_TRANSITIONS))
            latest = Transition(now, one.weight, one.rule, one.because)
            if not past or replace(past[-1], at=now) != latest:
                past.append(latest)
        was = {one.name for one in self.decisions.get(service, ())}
        for name in was - by_name.keys():
            del self.transitions[name]

    def _fronts(self, names: Iterable[str]) -> set[Frontend]:
        return {frontend for name in names for frontend in self._wanted.get(name, ())}

    def _stuck_fronts(self) -> set[Frontend]:
        return {s.what for s in self.stuck if isinstance(s.what, Frontend)}

    def _plan(self, world: World, fronts: set[Frontend], whole: bool) -> Step:
        assert self.held is not None
        if whole:
            wanted = {f: v for served in self._wanted.values() for f, v in served.items()}
            held = self.held.table
        else:
            named = sorted(fronts, key=str)
            wanted = {f: self._wanted[self._owner[f]][f] for f in named if f in self._owner}
            held = self.held.part(named)
        return _step(Table(wanted), managed_vips(world.config), replace(self.held, table=held))

    def _without_waiting(self, step: Step, fronts: set[Frontend], now: float) -> Step:
        """`step` without what was refused and is not due yet; what nobody wants any more is
        no longer stuck."""
        asked = {subject_of(act) for act in step.acts}
        self.stuck = {s: one for s, one in self.stuck.items() if s in asked}
        waiting = {
            subject_of(act)
            for act in step.acts
            if (one := self.stuck.get(subject_of(act))) and one.act == act and now < one.retry
        }
        unserved = {op.frontend for op in step.ops if isinstance(op, AddService)} & {
            subject.what for subject in waiting if subject.server is None
        }
        return Step(
            tuple(act for act in step.before if subject_of(act) not in waiting),
            tuple(
                op
                for op in step.ops
                if subject_of(op) not in waiting
                and not (isinstance(op, AddServer) and op.frontend in unserved)
            ),
            tuple(act for act in step.after if subject_of(act) not in waiting),
        )


def differences(world: World, held: Held, now: float) -> tuple[Act, ...]:
    """What separates `held` from what is wanted now."""
    return _step(desired(world, now), managed_vips(world.config), held).acts


def state_of(
    decisions: Sequence[Decision],
    pool: Pool | None = None,
    refused: Sequence[Decision] = (),
) -> tuple[str, str]:
    """What a service is doing, in a word, and why where it is not simply serving. refused:
    those whose servers the data path does not take."""
    scheduled = [one for one in decisions if one.scheduled and one not in refused]
    pressed = [one for one in scheduled if one.rule is Rule.LAST_RESORT]
    if pressed:
        return "last resort", pressed[0].because
    if scheduled and pool is not None and pool.overloaded:
        return "overloaded", "every server is; load is spread evenly"
    if scheduled and pool is not None and not pool.held:
        return "without quorum", f"only {len(scheduled)} of its servers take new flows"
    if scheduled:
        return "serving", ""
    reasons = "; ".join(
        f"{one.name.server} "
        + ("is refused by the data path" if one.scheduled and one in refused else one.because)
        for one in decisions[:3]
    )
    return "down", f"no server takes new flows: {reasons}" if reasons else "it has no server"


def _step(wanted: Table, vips: set[Address], held: Held) -> Step:
    return Step(
        tuple(AddVip(address) for address in in_order(vips - held.vips)),
        tuple(plan(wanted, held.table)),
        tuple(RemoveVip(address) for address in in_order(held.vips - vips)),
    )
