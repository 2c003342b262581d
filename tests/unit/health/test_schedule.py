import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.health.judge import Health, Track
from lbctl.health.schedule import Agenda, delay
from lbctl.model import Timing

STEADY = Track(Health.UP)
WAVERING = Track(Health.UP, streak=1)
EVERY_TWO = Timing(interval=2.0, fast_interval=0.5, jitter=0.1)


def agenda(random: float = 0.5) -> Agenda[str]:
    return Agenda(lambda: random)


@pytest.mark.parametrize(
    ("track", "random", "seconds"),
    [
        (STEADY, 0.5, 2.0),
        (STEADY, 0.0, 1.8),
        (STEADY, 1.0, 2.2),
        (WAVERING, 0.5, 0.5),
        (Track(), 0.5, 0.5),
        (Track(Health.DOWN), 0.5, 2.0),
    ],
)
def test_delay(track: Track, random: float, seconds: float) -> None:
    assert delay(EVERY_TWO, track, random) == pytest.approx(seconds)


def test_a_fast_interval_is_never_slower_than_the_interval() -> None:
    timing = Timing(interval=0.2, fast_interval=0.5, jitter=0.0)
    assert delay(timing, WAVERING, 0.5) == 0.2


def test_the_first_run_is_spread() -> None:
    early, late = agenda(0.0), agenda(0.75)
    early.add("a", now=10.0, spread=2.0)
    late.add("a", now=10.0, spread=2.0)
    assert (early.deadline, late.deadline) == (10.0, 11.5)


def test_what_is_due_comes_in_order_with_the_moment_it_was_due() -> None:
    one = agenda(0.0)
    one.add("b", now=2.0, spread=0.0)
    one.add("a", now=1.0, spread=0.0)
    one.add("c", now=9.0, spread=0.0)
    assert one.due(now=3.0) == [(1.0, "a"), (2.0, "b")]
    assert one.deadline == 9.0


def test_a_limit_leaves_the_latest_for_later() -> None:
    one = agenda(0.0)
    for at, key in enumerate("abc"):
        one.add(key, now=float(at), spread=0.0)
    assert [key for _, key in one.due(now=5.0, limit=2)] == ["a", "b"]
    assert one.due(now=5.0, limit=0) == []
    assert one.due(now=5.0) == [(2.0, "c")]


def test_a_running_check_is_not_due_until_it_is_over() -> None:
    one = agenda()
    one.add("a", now=0.0, spread=0.0)
    one.due(now=0.0)
    assert one.due(now=100.0) == []
    assert one.deadline is None
    one.again("a", started=0.0, timing=EVERY_TWO, track=STEADY)
    assert one.deadline == 2.0


def test_a_running_check_cannot_be_hurried() -> None:
    one = agenda()
    one.add("a", now=0.0, spread=0.0)
    one.due(now=0.0)
    one.at_once("a", now=0.1)
    assert one.deadline is None


def test_at_once_moves_a_waiting_check_to_the_front() -> None:
    one = agenda()
    one.add("a", now=0.0, spread=100.0)
    one.at_once("a", now=1.0)
    assert one.due(now=1.0) == [(1.0, "a")]
    assert one.due(now=1000.0) == []


def test_at_once_brings_back_nothing_that_was_removed() -> None:
    one = agenda()
    one.add("a", now=0.0, spread=1.0)
    one.remove("a")
    one.at_once("a", now=0.0)
    assert len(one) == 0
    assert one.deadline is None


def test_what_was_removed_while_it_ran_does_not_come_again() -> None:
    one = agenda()
    one.add("a", now=0.0, spread=0.0)
    one.due(now=0.0)
    one.remove("a")
    one.again("a", started=0.0, timing=EVERY_TWO, track=STEADY)
    assert one.deadline is None


def test_adding_again_replaces_the_moment() -> None:
    one = agenda(0.0)
    one.add("a", now=5.0, spread=0.0)
    one.add("a", now=1.0, spread=0.0)
    assert one.due(now=9.0) == [(1.0, "a")]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.999)), max_size=30),
    st.floats(0.1, 10),
)
def test_each_start_is_one_delay_after_the_last(
    runs: list[tuple[str, float]], interval: float
) -> None:
    """Whatever happens between, a check starts at most 1 + jitter intervals after its
    last start, and at least 1 - jitter."""
    timing = Timing(interval=interval, jitter=0.1, fast_interval=interval)
    draws = iter([draw for _, draw in runs] + [0.5] * 100)
    one: Agenda[str] = Agenda(lambda: next(draws))
    for key in "abc":
        one.add(key, now=0.0, spread=interval)
    started: dict[str, float] = {}
    for _ in range(len(runs)):
        assert one.deadline is not None
        now = one.deadline
        for at, key in one.due(now):
            if key in started:
                assert 0.9 * interval <= (at - started[key]) * 1.000001
                assert at - started[key] <= 1.1 * interval * 1.000001
            started[key] = at
            one.again(key, at, timing, STEADY)
