"""The checks that one worker holds: which are due, what their results mean, what to tell.

The worker without its sockets: messages and results in, messages out, time passed in.
A worker may hold a check that is *running* (handed out by `due`) or *waiting*; one check
never overlaps itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lbctl.health.judge import Health, Track, judge
from lbctl.health.report import Report
from lbctl.health.result import Result, evidence
from lbctl.health.schedule import Agenda
from lbctl.messages import Assign, Job, Pulse, Reading, Verdict
from lbctl.model import Timing


@dataclass(slots=True)
class _Entry:
    """A job and how far it is. started: of the run under way, None while it waits.
    asked: somebody waits for the next result. unable: its last probe could not be made.
    report: what its agent was last told to have said."""

    job: Job
    track: Track
    started: float | None = None
    asked: bool = False
    unable: bool = False
    report: Report | None = None


@dataclass(slots=True)
class _Tally:
    """What the next pulse reports."""

    probes: int = 0
    unable: int = 0
    lateness: list[float] = field(default_factory=list)


class Roster:
    """random: a number in [0, 1); it spreads the checks over their intervals."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._agenda: Agenda[int] = Agenda(random)
        self._entries: dict[int, _Entry] = {}
        self._tally = _Tally()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def deadline(self) -> float | None:
        """When the next check is due."""
        return self._agenda.deadline

    def assign(self, order: Assign, now: float) -> list[int]:
        """Take jobs on and drop others; return the ids whose run under way is void."""
        gone = set(order.cancel)
        if order.whole:
            gone |= self._entries.keys() - {job.id for job in order.start}
        void = [id for id in sorted(gone) if self._drop(id)]
        void += [job.id for job in order.start if self._take(job, now)]
        return void

    def probe_now(self, id: int, now: float) -> Verdict | None:
        """Move a check to the front; its result is told whatever it is. An unknown id has
        an answer too, so that nobody waits for ever."""
        entry = self._entries.get(id)
        if entry is None:
            return Verdict(id, Health.UNKNOWN, "no such check in this worker", 0.0, asked=True)
        entry.asked = True
        self._agenda.at_once(id, now)
        return None

    def due(self, now: float, room: int) -> list[Job]:
        """At most `room` jobs to start now; those left over are late, and stay first."""
        jobs = []
        for at, id in self._agenda.due(now, room):
            entry = self._entries[id]
            entry.started = now
            self._tally.lateness.append(now - at)
            jobs.append(entry.job)
        return jobs

    def asked(self, id: int) -> bool:
        """Whether somebody waits for this check's next result."""
        return self._entries[id].asked

    def reading(self, id: int, report: Report) -> Reading | None:
        """Take what an agent said; return it where it is news, to the per cent."""
        entry = self._entries[id]
        rounded = report.rounded()
        if rounded == entry.report:
            return None
        entry.report = rounded
        return Reading(id, rounded)

    def finish(
        self, id: int, result: Result, steps: Sequence[tuple[float, str]] = ()
    ) -> Verdict | None:
        """Take the result of a run; return what it is worth telling."""
        entry = self._entries[id]
        before, timing = entry.track, entry.job.timing
        if result.passed is not None:
            entry.track = judge(before, result.passed, timing)
        assert entry.started is not None, f"job {id} was not handed out by due()"
        self._agenda.again(id, entry.started, timing, entry.track)
        self._tally.probes += 1
        self._tally.unable += result.passed is None
        news = entry.track.health is not before.health
        news = news or (result.passed is None and not entry.unable)
        asked, entry.asked = entry.asked, False
        entry.started, entry.unable = None, result.passed is None
        if not (news or asked):
            return None
        said = evidence(before, entry.track, result, timing)
        return Verdict(id, entry.track.health, said, result.took, asked, tuple(steps))

    def pulse(self) -> Pulse:
        """What happened since the last pulse."""
        tally, self._tally = self._tally, _Tally()
        late = sorted(tally.lateness)
        p99 = late[len(late) * 99 // 100] if late else 0.0
        return Pulse(len(self), tally.probes, p99, tally.unable)

    def _drop(self, id: int) -> bool:
        entry = self._entries.pop(id, None)
        self._agenda.remove(id)
        return entry is not None and entry.started is not None

    def _take(self, job: Job, now: float) -> bool:
        """True: a run of another job under the same id is void now."""
        entry = self._entries.get(job.id)
        if entry is None or not _same_target(entry.job, job):
            void = self._drop(job.id)
            asked = entry is not None and entry.asked
            self._entries[job.id] = _Entry(job, Track(job.health), asked=asked)
            self._agenda.add(job.id, now, 0.0 if asked else _spread(job.timing, job.health))
            return void
        if entry.job.timing != job.timing and entry.started is None:
            self._agenda.add(job.id, now, _spread(job.timing, entry.track.health))
        entry.job = job
        return False


def _same_target(one: Job, other: Job) -> bool:
    return (one.probe, one.endpoint, one.mark) == (other.probe, other.endpoint, other.mark)


def _spread(timing: Timing, health: Health) -> float:
    """The time over which first runs are spread: short where a verdict is waited for."""
    if health is Health.UNKNOWN:
        return min(timing.fast_interval, timing.interval)
    return timing.interval
