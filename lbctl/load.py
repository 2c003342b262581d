"""What load does to a pool of servers: values in, values out, no clock.

A pool *remembers* a little about each server,
because two rules need a past: a server that left stays out for the hold time, and weights
move in steps. `step()` is the whole of it:

    pool now = step(pool before, what each server's agent said last, policy, now)

It may be taken as often as one likes: at one moment the second step changes nothing. What
is returned between two deadlines stays the same.

    share used  0        soft                  hard      1
    weight      8/8 ─────────╲______________
                               7/8 ... 1/8  ╲   out
                     back (below it, for `hold`, to return)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from lbctl.health.report import Report, percent
from lbctl.model import Metric, Overload, Quorum, Threshold

WHOLE = 8  # weights move by eighths
RING_STEP = 30.0  # seconds between two steps of one server's weight in a ring
ONE = Quorum()
LONG_AGO = -1e12  # seconds; finite, so that it can be saved
RESTLESS = 0.2  # share of a ring's slots in transition, past which weight steps wait

# --- what is remembered -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """What a pool remembers of one server. Moments are seconds of the clock passed in.

    hot: it was past `hard`, and has not been below `back` for the hold time yet; switched:
    when that last changed. cool: since when it is below `back`. out: it left for its load.
    entered: when it came back to take flows (None: it was always there). load: the eighths
    that its load leaves it, and when that last changed. eighths: those that it gets, and
    when. because: what was seen when any of this changed.
    """

    hot: bool = False
    switched: float = LONG_AGO
    cool: float | None = None
    out: bool = False
    entered: float | None = None
    load: int = WHOLE
    loaded: float = LONG_AGO
    eighths: int = WHOLE
    stepped: float = LONG_AGO
    because: str = ""

    def moved(self, to: Callable[[float], float]) -> "Memory":
        """The same on another clock."""
        return replace(
            self,
            switched=to(self.switched),
            cool=None if self.cool is None else to(self.cool),
            entered=None if self.entered is None else to(self.entered),
            loaded=to(self.loaded),
            stepped=to(self.stepped),
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """What is remembered of one service. overloaded: all of its servers are, so load is
    left out of account. held: it has its quorum. deadline: when time alone changes it."""

    servers: Mapping[str, Memory] = field(default_factory=dict)
    overloaded: bool = False
    held: bool = True
    deadline: float | None = None

    def moved(self, to: Callable[[float], float]) -> "Pool":
        """The same on another clock."""
        servers = {name: one.moved(to) for name, one in self.servers.items()}
        deadline = None if self.deadline is None else to(self.deadline)
        return replace(self, servers=servers, deadline=deadline)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the pool's rules go by. ring: a hash decides, so its weights are to be calm.
    unrest: share of the ring's slots in transition."""

    overload: Overload | None = None
    slow_start: float = 0.0
    quorum: Quorum = ONE
    ring: bool = False
    unrest: float = 0.0


# --- arithmetic -------------------------------------------------------------------------


def line(threshold: Threshold, share: float) -> float:
    """1.0 up to `soft`, 0.0 from `hard` on, a straight line between."""
    if share <= threshold.soft:
        return 1.0
    return max(0.0, (threshold.hard - share) / (threshold.hard - threshold.soft))


def worst(overload: Overload, report: Report) -> tuple[float, Metric | None]:
    """The lowest point on any metric's line, and the metric."""
    found: tuple[float, Metric | None] = (1.0, None)
    for metric, threshold in overload.thresholds:
        share = report.share(metric)
        if share is not None and (factor := line(threshold, share)) < found[0]:
            found = factor, metric
    return found


def excess(overload: Overload, report: Report | None) -> float:
    """How far past `hard` (1.0 is at it): tells the worst from the bad."""
    if report is None:
        return 0.0
    shares = ((threshold, report.share(metric)) for metric, threshold in overload.thresholds)
    return max((s / t.hard for t, s in shares if s is not None), default=0.0)


def in_eighths(factor: float) -> int:
    """Rounded up, and never none: only `out` takes a server's last eighth."""
    return max(1, min(WHOLE, math.ceil(factor * WHOLE - 1e-9)))


# --- a step -----------------------------------------------------------------------------

Reports = Mapping[str, Report | None]  # None: no agent, or a silent one, which says nothing


def step(pool: Pool | None, reports: Reports, policy: Policy, now: float) -> Pool:
    """The pool at `now`. pool None: the service is new, and nobody starts slowly.

    reports: of the servers that nothing but load could keep from taking new flows, by name.
    """
    known = pool.servers if pool is not None else dict.fromkeys(reports, Memory())
    servers = {name: known.get(name) or Memory(entered=now) for name in reports}
    overloaded = False
    if (limits := policy.overload) is not None:
        servers = {n: _heat(one, reports[n], limits, now) for n, one in servers.items()}
        overloaded = bool(servers) and all(one.hot for one in servers.values())
    leavers = set() if overloaded else _leavers(servers, reports, policy.overload)
    servers = {n: _leave_or_return(one, n in leavers, now) for n, one in servers.items()}
    servers = {n: _weigh(one, reports[n], policy, overloaded, now) for n, one in servers.items()}
    scheduled = sum(not one.out for one in servers.values())
    held = _holds(pool is None or pool.held, scheduled, policy.quorum)
    moments = [m for n, one in servers.items() for m in _moments(one, reports[n], policy, now)]
    return Pool(servers, overloaded, held, min((m for m in moments if m > now), default=None))


def _heat(one: Memory, report: Report | None, overload: Overload, now: float) -> Memory:
    """Hot at once when past `hard`; cool after a hold time below `back`. Either way, not
    sooner than the hold time after the last change."""
    if not one.hot:
        past = _past_hard(overload, report)
        if past and now >= one.switched + overload.hold:
            return replace(one, hot=True, switched=now, cool=None, because=past)
        return one
    if _at_back(overload, report):
        return replace(one, cool=None)
    cool = now if one.cool is None else one.cool
    if now >= cool + overload.hold:
        said = f"below its threshold for {overload.hold:g} s ({report or 'its agent is silent'})"
        return replace(one, hot=False, switched=now, cool=None, because=said)
    return replace(one, cool=cool)


def _past_hard(overload: Overload, report: Report | None) -> str:
    """The first metric that is at or past its `hard`, in words; empty if none is."""
    for metric, threshold in overload.thresholds:
        share = report.share(metric) if report is not None else None
        if share is not None and share >= threshold.hard:
            return f"{metric} {percent(share)}, at most {percent(threshold.hard)}"
    return ""


def _at_back(overload: Overload, report: Report | None) -> bool:
    """Whether a metric is still so high that the server may not return."""
    return report is not None and any(
        share >= threshold.back
        for metric, threshold in overload.thresholds
        if (share := report.share(metric)) is not None
    )


def allowance(max_removed: float, servers: int) -> int:
    """How many of so many servers may be out for their load: never the last."""
    return min(max(1, math.floor(max_removed * servers + 1e-9)), servers - 1)


def _leavers(
    servers: Mapping[str, Memory], reports: Reports, overload: Overload | None
) -> set[str]:
    """Of those that are hot: first those already out, then the worst."""
    if overload is None:
        return set()
    hot = [name for name, one in servers.items() if one.hot]
    hot.sort(key=lambda n: (not servers[n].out, -excess(overload, reports[n]), n))
    return set(hot[: allowance(overload.max_removed, len(servers))])


def _leave_or_return(one: Memory, out: bool, now: float) -> Memory:
    # One that returns starts slowly, like one that was down.
    return one if out == one.out else replace(one, out=out, entered=one.entered if out else now)


def _weigh(
    one: Memory, report: Report | None, policy: Policy, overloaded: bool, now: float
) -> Memory:
    if one.out:
        return one
    if overloaded:  # evenly, and at once: alike for all, it moves next to nothing in a ring
        same = one.eighths == one.load == WHOLE
        return one if same else replace(one, load=WHOLE, loaded=now, eighths=WHOLE, stepped=now)
    target, because = by_load(report, policy.overload)
    enters = one.entered == now and one.stepped < now
    falls = target < one.load
    if target != one.load and (falls or enters or now >= one.loaded + _pause(policy)):
        one = replace(one, load=target, loaded=now, because=because)
    wanted = min(one.load, by_slow_start(one, policy, now))
    if wanted == one.eighths or not (enters or _may_step(one, policy, now)):
        return one
    return replace(one, eighths=wanted, stepped=now)


def by_load(report: Report | None, overload: Overload | None) -> tuple[int, str]:
    """The eighths of its weight that a server's load leaves it, and what decided."""
    if report is None:
        return WHOLE, "its agent is silent"
    found, because = in_eighths((100 if report.percent is None else report.percent) / 100), ""
    if found < WHOLE:
        because = f"its agent wants {report.percent} %"
    if overload is not None:
        factor, metric = worst(overload, report)
        if metric is not None and (eighths := in_eighths(factor)) < found:
            threshold = dict(overload.thresholds)[metric]
            between = f"{percent(threshold.soft)} and {percent(threshold.hard)}"
            share = report.share(metric) or 0.0
            found, because = eighths, f"{metric} {percent(share)}, falls between {between}"
    return found, because


def by_slow_start(one: Memory, policy: Policy, now: float) -> int:
    """The eighths that one which came back may have by now."""
    if one.entered is None or policy.slow_start <= 0:
        return WHOLE
    passed = math.floor((now - one.entered) / policy.slow_start * WHOLE + 1e-6)
    return max(1, min(WHOLE, passed))


def _pause(policy: Policy) -> float:
    """Between two steps of a weight upwards, so that what wavers does not."""
    hold = policy.overload.hold if policy.overload is not None else 0.0
    return min(hold, RING_STEP)


def _may_step(one: Memory, policy: Policy, now: float) -> bool:
    if not policy.ring:
        return True
    return policy.unrest <= RESTLESS and now >= one.stepped + RING_STEP


def _holds(held: bool, scheduled: int, quorum: Quorum) -> bool:
    return scheduled >= quorum.servers + (0 if held else quorum.hysteresis)


def _moments(one: Memory, report: Report | None, policy: Policy, now: float) -> Iterator[float]:
    """When time alone may change a server's place: too early costs a look, too late a rule."""
    if policy.overload is not None:
        if one.cool is not None:
            yield one.cool + policy.overload.hold
        if not one.hot:
            yield one.switched + policy.overload.hold
    if one.out:
        return
    if by_load(report, policy.overload)[0] != one.load:
        yield one.loaded + _pause(policy)
    if one.entered is not None and policy.slow_start > 0:
        passed = math.floor((now - one.entered) / policy.slow_start * WHOLE + 1e-6)
        if passed < WHOLE:
            yield one.entered + (passed + 1) * policy.slow_start / WHOLE
    if policy.ring and min(one.load, by_slow_start(one, policy, now)) != one.eighths:
        yield one.stepped + RING_STEP
