"""What a worker holds, on a virtual clock."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lbctl.health.judge import Health
from lbctl.health.result import Result
from lbctl.health.roster import Roster
from lbctl.messages import Assign, Job, Pulse, Verdict
from lbctl.model import HttpProbe, TcpProbe, Timing

TIMING = Timing(interval=2.0, timeout=1.0, fall=3, rise=2, jitter=0.0, fast_interval=0.5)
GOOD = Result(True, "connected", 0.002)
BAD = Result(False, "connection refused", 0.001)
UNABLE = Result(None, "no local port left", 0.0)


def job(id: int = 1, health: Health = Health.UNKNOWN, timing: Timing = TIMING) -> Job:
    return Job(id, TcpProbe(), f"192.0.2.{id}:80", timing, health)


def roster(*jobs: Job) -> Roster:
    one = Roster(lambda: 0.5)
    one.assign(Assign(jobs), now=0.0)
    return one


def ids(jobs: list[Job]) -> list[int]:
    return [one.id for one in jobs]


def run(one: Roster, result: Result, id: int = 1) -> Verdict | None:
    """Let time go on to the next start, which is that of `id`, and finish it."""
    assert one.deadline is not None
    assert ids(one.due(one.deadline, room=1)) == [id]
    return one.finish(id, result)


def test_only_changes_are_told() -> None:
    one = roster(job())
    told = [run(one, result) for result in (GOOD, GOOD, BAD, BAD, BAD, BAD, GOOD, GOOD, GOOD)]
    assert told == [
        Verdict(1, Health.UP, "1 of 1 probe: connected in 2 ms", 0.002),
        *[None] * 3,
        Verdict(1, Health.DOWN, "3 of 3 probes: connection refused", 0.001),
        *[None] * 2,
        Verdict(1, Health.UP, "2 of 2 probes: connected in 2 ms", 0.002),
        None,
    ]


def test_a_job_starts_from_the_health_it_came_with() -> None:
    one = roster(job(health=Health.DOWN))
    assert run(one, GOOD) is None
    verdict = run(one, GOOD)
    assert verdict is not None
    assert verdict.health is Health.UP


@pytest.mark.parametrize(
    ("health", "first"), [(Health.UNKNOWN, 0.25), (Health.UP, 1.0), (Health.DOWN, 1.0)]
)
def test_first_runs_are_spread_and_sooner_without_a_verdict(health: Health, first: float) -> None:
    assert roster(job(health=health)).deadline == first


def test_a_surprise_quickens_the_pace_and_the_verdict_slows_it() -> None:
    one = roster(job(health=Health.UP))
    started = []
    for result in (GOOD, BAD, BAD, BAD, BAD):
        started.append(one.deadline)
        run(one, result)
    assert started == [1.0, 3.0, 3.5, 4.0, 6.0]


def test_the_next_start_is_counted_from_the_start() -> None:
    one = roster(job(health=Health.UP))
    one.due(1.0, room=1)
    one.finish(1, Result(True, "connected", 0.9))
    assert one.deadline == 3.0


def test_an_asked_check_runs_at_once_and_tells_whatever_it_is() -> None:
    one = roster(job(health=Health.UP))
    assert one.probe_now(1, now=0.1) is None
    assert one.deadline == 0.1
    assert run(one, GOOD) == Verdict(1, Health.UP, "connected in 2 ms", 0.002, asked=True)
    assert run(one, GOOD) is None


def test_asking_while_it_runs_waits_for_that_run() -> None:
    one = roster(job(health=Health.UP))
    one.due(1.0, room=1)
    one.probe_now(1, now=1.1)
    assert one.due(1.2, room=1) == []
    verdict = one.finish(1, BAD)
    assert verdict == Verdict(1, Health.UP, "1 of 3 probes: connection refused", 0.001, asked=True)


def test_asking_for_an_unknown_check_is_answered() -> None:
    verdict = roster().probe_now(7, now=0.0)
    assert verdict == Verdict(7, Health.UNKNOWN, "no such check in this worker", 0.0, asked=True)


def test_what_could_not_be_probed_is_told_once_and_changes_nothing() -> None:
    one = roster(job(health=Health.UP))
    told = [run(one, result) for result in (UNABLE, UNABLE, BAD, BAD, UNABLE, BAD)]
    unable = Verdict(1, Health.UP, "could not probe: no local port left", 0.0)
    assert told[:5] == [unable, None, None, None, unable]
    assert told[5] == Verdict(1, Health.DOWN, "3 of 3 probes: connection refused", 0.001)


def test_those_without_room_stay_first_and_are_counted_late() -> None:
    one = roster(*(job(id, Health.UP) for id in (1, 2, 3)))
    assert ids(one.due(1.0, room=2)) == [1, 2]
    assert ids(one.due(1.5, room=2)) == [3]
    for id in (1, 2, 3):
        one.finish(id, GOOD)
    assert one.pulse() == Pulse(jobs=3, probes=3, late_p99=0.5)


def test_a_pulse_tells_what_happened_since_the_last() -> None:
    one = roster(job())
    run(one, UNABLE)
    run(one, BAD)
    assert one.pulse() == Pulse(jobs=1, probes=2, late_p99=0.0, unable=1)
    assert one.pulse() == Pulse(jobs=1, probes=0, late_p99=0.0)


# --- assignments --------------------------------------------------------------------------


def test_the_same_job_again_changes_nothing() -> None:
    one = roster(job())
    run(one, GOOD)
    before = one.deadline
    assert one.assign(Assign((job(),), whole=True), now=0.3) == []
    assert one.deadline == before
    assert run(one, GOOD) is None  # still up


def test_another_timing_keeps_the_track_and_counts_from_now() -> None:
    one = roster(job(health=Health.UP))
    run(one, BAD)
    run(one, BAD)
    slow = Timing(interval=10.0, jitter=0.0, fall=3)
    assert one.assign(Assign((job(timing=slow),)), now=4.0) == []
    assert one.deadline == 9.0
    assert run(one, BAD) == Verdict(1, Health.DOWN, "3 of 3 probes: connection refused", 0.001)


def test_another_timing_lets_a_run_finish() -> None:
    one = roster(job(health=Health.UP))
    one.due(1.0, room=1)
    assert one.assign(Assign((job(timing=Timing(interval=10.0, jitter=0.0)),)), now=1.1) == []
    assert one.due(500.0, room=1) == []
    one.finish(1, GOOD)
    assert one.deadline == 11.0


def test_another_probe_under_the_same_id_starts_anew_and_voids_the_run() -> None:
    one = roster(job(health=Health.UP))
    one.due(1.0, room=1)
    other = Job(1, HttpProbe(), "192.0.2.1:80", TIMING)
    assert one.assign(Assign((other,)), now=1.0) == [1]
    assert one.due(1.25, room=1) == [other]


def test_who_asked_before_the_probe_changed_is_answered_by_the_new_one() -> None:
    one = roster(job(health=Health.UP))
    one.probe_now(1, now=0.1)
    one.assign(Assign((Job(1, HttpProbe(), "192.0.2.1:80", TIMING),)), now=0.1)
    verdict = run(one, GOOD)
    assert verdict is not None
    assert verdict.asked


def test_cancelling_voids_what_runs_and_forgets_what_waits() -> None:
    one = roster(job(1), job(2), job(3))
    assert ids(one.due(0.25, room=1)) == [1]
    assert one.assign(Assign(cancel=(1, 2, 9)), now=0.3) == [1]
    assert ids(one.due(100.0, room=9)) == [3]
    assert len(one) == 1


def test_a_whole_assignment_cancels_what_it_does_not_name() -> None:
    one = roster(job(1), job(2))
    one.due(0.25, room=9)
    assert one.assign(Assign((job(2),), whole=True), now=0.3) == [1]
    assert len(one) == 1


class AnyHistory(RuleBasedStateMachine):
    """Assignments, results and questions in any order: no check overlaps itself, none is
    forgotten, and every verdict that is told is the present one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.roster = Roster(lambda: 0.5)
        self.held: dict[int, Job] = {}
        self.running: set[int] = set()
        self.asked: set[int] = set()

    jobs = st.builds(
        Job,
        id=st.integers(1, 4),
        probe=st.sampled_from([TcpProbe(), HttpProbe()]),
        endpoint=st.sampled_from(["192.0.2.1:80", "192.0.2.2:80"]),
        timing=st.sampled_from([TIMING, Timing(fall=1, rise=1)]),
        health=st.sampled_from(Health),
    )

    @rule(start=st.lists(jobs, unique_by=lambda job: job.id), cancel=st.sets(st.integers(1, 4)))
    def assign(self, start: list[Job], cancel: set[int]) -> None:
        void = self.roster.assign(Assign(tuple(start), tuple(cancel)), self.now)
        assert set(void) <= self.running
        self.running -= set(void)
        for id in cancel:
            self.held.pop(id, None)
            self.asked.discard(id)
        self.held |= {job.id: job for job in start}

    @rule(id=st.integers(1, 4))
    def ask(self, id: int) -> None:
        answer = self.roster.probe_now(id, self.now)
        assert (answer is None) == (id in self.held)
        if answer is None:
            self.asked.add(id)

    @rule(passed=st.lists(st.sampled_from([True, False, None]), max_size=4))
    def time_passes(self, passed: list[bool | None]) -> None:
        self.now += 0.4
        for job in self.roster.due(self.now, room=3):
            assert job == self.held[job.id]
            assert job.id not in self.running
            self.running.add(job.id)
        for outcome, id in zip(passed, sorted(self.running), strict=False):
            self.running.remove(id)
            verdict = self.roster.finish(id, Result(outcome, "so", 0.1))
            assert (id in self.asked) == (verdict is not None and verdict.asked)
            self.asked.discard(id)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert len(self.roster) == len(self.held)
        assert self.running <= self.held.keys()
        if self.held.keys() - self.running:
            assert self.roster.deadline is not None


TestAnyHistory = AnyHistory.TestCase
