"""Laws of load: what holds for any pool, whatever its agents say and when."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbctl.health.report import Report
from lbctl.load import WHOLE, Policy, allowance, by_load, line, step
from lbctl.model import Metric, Overload, Quorum, Threshold

# Machines are busy, and that is no law's fault.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHARES = st.integers(0, 100).map(lambda n: n / 100)
NAMES = ["app1", "app2", "app3", "app4", "app5"]
reports = st.none() | st.builds(
    Report,
    cpu=st.none() | SHARES,
    memory=st.none() | SHARES,
    percent=st.none() | st.integers(1, 100),
)
pools = st.dictionaries(st.sampled_from(NAMES), reports, max_size=5)


@st.composite
def thresholds(draw) -> Threshold:
    hard = draw(st.integers(1, 100)) / 100
    low = st.integers(0, round(hard * 100) - 1).map(lambda n: n / 100)
    return Threshold(draw(low), hard, draw(low))


overloads = st.builds(
    Overload,
    thresholds=st.tuples(
        st.tuples(st.just(Metric.CPU), thresholds()),
        st.tuples(st.just(Metric.MEMORY), thresholds()),
    ),
    hold=st.sampled_from([0.0, 10.0, 30.0]),
    max_removed=SHARES,
)
policies = st.builds(
    Policy,
    overload=st.none() | overloads,
    slow_start=st.sampled_from([0.0, 40.0]),
    quorum=st.builds(Quorum, st.integers(1, 3), st.integers(0, 2)),
    ring=st.booleans(),
    unrest=st.sampled_from([0.0, 0.2, 0.21]),
)
PASSING = st.sampled_from([0.0, 0.5, 1.0, 5.0, 10.0, 29.0, 30.0, 100.0])
histories = st.lists(st.tuples(PASSING, pools), min_size=1, max_size=12)


def run(history, policy):
    """(time, before, what was said, after) of each step, taken at deadlines too."""
    now, pool, said = 1000.0, None, {}
    for passing, reports_ in history:
        end = now + passing
        while pool is not None and pool.deadline is not None and pool.deadline <= end:
            now, before = pool.deadline, pool
            pool = step(pool, said, policy, now)
            yield now, before, said, pool
        now, before, said = end, pool, reports_
        pool = step(pool, said, policy, now)
        yield now, before, said, pool


@calm
@given(histories, policies)
def test_a_second_step_at_the_same_moment_changes_nothing(history, policy) -> None:
    for now, _, said, pool in run(history, policy):
        assert step(pool, said, policy, now) == pool


@calm
@given(histories, policies, st.floats(0, 1))
def test_nothing_changes_before_the_deadline(history, policy, part: float) -> None:
    for now, _, said, pool in run(history, policy):
        until = now + 1e6 if pool.deadline is None else pool.deadline
        between = now + (until - now) * part
        if between < until:
            assert step(pool, said, policy, between) == pool


@calm
@given(histories, policies)
def test_no_more_leave_than_may_and_the_last_stays(history, policy) -> None:
    for _, _, said, pool in run(history, policy):
        out = sum(one.out for one in pool.servers.values())
        assert pool.servers.keys() == said.keys()
        if policy.overload is None:
            assert out == 0
        elif said:
            assert out <= allowance(policy.overload.max_removed, len(said)) < len(said)


@calm
@given(histories, policies)
def test_only_the_overloaded_leave(history, policy) -> None:
    for _, _, _, pool in run(history, policy):
        assert all(one.hot for one in pool.servers.values() if one.out)
        if pool.overloaded:
            assert all(one.eighths == WHOLE and not one.out for one in pool.servers.values())


@calm
@given(histories, policies)
def test_every_transition_has_its_evidence(history, policy) -> None:
    for _, before, _, pool in run(history, policy):
        for name, one in pool.servers.items():
            was = before.servers.get(name) if before is not None else None
            if was is not None and (was.hot, was.load) != (one.hot, one.load):
                assert one.because or pool.overloaded or one.load == WHOLE


@calm
@given(histories, policies)
def test_one_is_hot_or_not_for_at_least_the_hold_time(history, policy) -> None:
    if policy.overload is None:
        return
    switched: dict[str, float] = {}
    for now, before, _, pool in run(history, policy):
        for name, one in pool.servers.items():
            was = before.servers.get(name) if before is not None else None
            if was is None:
                switched.pop(name, None)  # it was away: another history
            elif was.hot != one.hot:
                assert now - switched.get(name, -1e9) >= policy.overload.hold
                switched[name] = now


@calm
@given(histories, policies)
def test_ring_weights_are_calm(history, policy) -> None:
    """They move once in 30 s, except that a server comes in, or all are overloaded."""
    last: dict[str, float] = {}
    for now, before, _, pool in run(history, policy):
        for name, one in pool.servers.items():
            was = before.servers.get(name) if before is not None else None
            if was is None or was.out != one.out or one.entered == now:
                last.pop(name, None)
            elif was.eighths != one.eighths and policy.ring and not pool.overloaded:
                assert policy.unrest <= 0.2
                assert now - last.get(name, -1e9) >= 30.0 or before.overloaded
                last[name] = now


@calm
@given(overloads, SHARES, SHARES, st.sampled_from([Metric.CPU, Metric.MEMORY]))
def test_more_load_never_means_more_weight(overload, one, other, metric) -> None:
    low, high = sorted((one, other))
    light, heavy = (Report(**{str(metric): share}) for share in (low, high))
    assert by_load(light, overload)[0] >= by_load(heavy, overload)[0]
    threshold = dict(overload.thresholds)[metric]
    assert 0.0 <= line(threshold, high) <= line(threshold, low) <= 1.0


@calm
@given(st.integers(1, 200), SHARES)
def test_the_allowance_is_one_at_least_and_never_all(servers: int, share: float) -> None:
    may = allowance(share, servers)
    assert may == servers - 1 if servers <= 2 else 1 <= may < servers


def test_of_ten_forty_per_cent_are_four() -> None:
    assert allowance(0.4, 10) == 4
    assert allowance(0.3, 10) == 3
    assert allowance(0.4, 2) == 1
    assert allowance(0.4, 1) == 0


@calm
@given(histories, policies)
def test_a_pool_moves_to_another_clock_and_back(history, policy) -> None:
    for _, _, _, pool in run(history, policy):
        there = pool.moved(lambda moment: moment + 1e9)
        back = there.moved(lambda moment: moment - 1e9)
        assert back.servers.keys() == pool.servers.keys()
        for name, one in back.servers.items():
            assert abs(one.switched - pool.servers[name].switched) < 1e-3
