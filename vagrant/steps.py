"""Steps one after another, each with an end: what it says, how long it may take, what it
saw. One that fails is told, and the next ones are tried all the same unless they need it."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType


class StepFailed(Exception):
    """What a step found is not what it should be."""


class OutOfTime(BaseException):
    """A step's time is over. Not an Exception: what it interrupts must not swallow it."""


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """title: a sentence. seconds: its time at most. needed: without it the rest is in vain."""

    title: str
    seconds: float
    run: Callable[[Say], None]
    needed: bool = False


@dataclass
class Result:
    title: str
    passed: bool = False
    took: float = 0.0
    seen: list[str] = field(default_factory=list)
    trouble: str = ""
    skipped: bool = False


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the main thread, wherever it waits. Nests: the outer one's time
    is kept too, and goes on when the inner one is done."""

    def over(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, over)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    if left and left < seconds:
        signal.setitimer(signal.ITIMER_REAL, left)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            rest = left - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 0.01))


@contextmanager
def undoing(undo: Callable[[], object], seconds: float) -> Iterator[None]:
    """`undo` when what is inside has ended, however it did: also after its time, so it has an
    end of its own. What went wrong first is what is told."""
    try:
        yield
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)  # the step is over, and so is its clock
        with suppress(Exception, OutOfTime), within(seconds):
            undo()
        raise
    undo()


def run(
    steps: Sequence[Step],
    out: Say,
    failures: tuple[type[Exception], ...],
    results: list[Result] | None = None,
) -> list[Result]:
    """All of them, in order. failures: what a step may raise beside StepFailed. results: a list
    to be filled, for who wants to know also what was seen before an interruption."""
    results = [] if results is None else results
    for number, step in enumerate(steps, 1):
        result = Result(step.title)
        results.append(result)
        if any(not one.passed and steps[i].needed for i, one in enumerate(results[:-1])):
            result.skipped = True
            out(f"[{number}/{len(steps)}] {step.title}: skipped")
            continue
        out(f"[{number}/{len(steps)}] {step.title} (at most {step.seconds:.0f} s)")
        try:
            _run_one(step, result, out, failures)
        except KeyboardInterrupt:
            result.trouble = "interrupted"
            results.extend(Result(one.title, skipped=True) for one in steps[number:])
            out(f"[{number}/{len(steps)}] {step.title}: interrupted, after {result.took:.1f} s")
            raise
        mark = "ok" if result.passed else f"FAILED: {result.trouble}"
        out(f"      {mark}, {result.took:.1f} s")
    return results


def _run_one(step: Step, result: Result, out: Say, failures: tuple[type[Exception], ...]) -> None:
    def say(text: str) -> None:
        result.seen.append(text)
        out(f"      {text}")

    told: tuple[type[Exception], ...] = (StepFailed, AssertionError, *failures)
    started = time.monotonic()
    try:
        with within(step.seconds):
            step.run(say)
        result.passed = True
    except OutOfTime:
        result.trouble = f"not done within {step.seconds:.0f} s"
    except told as error:
        result.trouble = str(error) or repr(error)
    finally:
        result.took = time.monotonic() - started
