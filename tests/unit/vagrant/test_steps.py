"""Steps have an end, whatever they wait for, and the report says what was seen."""

import signal
import subprocess
import threading

import pytest

from vagrant.report import markdown
from vagrant.steps import OutOfTime, Result, Say, Step, StepFailed, run, undoing, within

NEVER = threading.Event()


def quiet(text: str) -> None:
    pass


def fine(say: Say) -> None:
    say("seen")


def wrong(say: Say) -> None:
    raise StepFailed("app1 is up")


def hangs(say: Say) -> None:
    NEVER.wait()


def hangs_in_a_program(say: Say) -> None:
    subprocess.run(["sleep", "1000"], check=True)


def hangs_and_swallows(say: Say) -> None:
    try:
        NEVER.wait()
    except Exception:
        NEVER.wait()


def results(*steps: Step) -> list[tuple[bool, bool, str]]:
    found = run(steps, quiet, (OSError,))
    return [(one.passed, one.skipped, one.trouble) for one in found]


def test_each_step_is_told_and_one_that_fails_does_not_stop_the_next() -> None:
    assert results(Step("a", 9, wrong), Step("b", 9, fine)) == [
        (False, False, "app1 is up"),
        (True, False, ""),
    ]


@pytest.mark.parametrize("waits", [hangs, hangs_in_a_program, hangs_and_swallows])
def test_a_step_that_hangs_ends_and_the_next_one_is_run(waits) -> None:
    found = results(Step("a", 0.1, waits), Step("b", 9, fine))
    assert found == [(False, False, "not done within 0 s"), (True, False, "")]


def test_without_a_needed_step_the_rest_is_skipped() -> None:
    found = results(Step("a", 9, wrong, needed=True), Step("b", 9, fine))
    assert found == [(False, False, "app1 is up"), (False, True, "")]


def test_a_failure_that_was_expected_is_told() -> None:
    def refused(say: Say) -> None:
        raise ConnectionRefusedError("nobody there")

    assert results(Step("a", 9, refused)) == [(False, False, "nobody there")]


def test_a_mistake_in_a_step_is_not_hidden() -> None:
    def mistake(say: Say) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        results(Step("a", 9, mistake))


def test_an_outer_limit_holds_inside_an_inner_one() -> None:
    with pytest.raises(OutOfTime), within(0.1), within(60):
        NEVER.wait()


def test_the_outer_limit_goes_on_after_the_inner_one() -> None:
    def inner_then_for_ever() -> None:
        with within(60):
            pass
        NEVER.wait()

    with pytest.raises(OutOfTime), within(0.2):
        inner_then_for_ever()


# --- what a step puts back ---------------------------------------------------------------


def test_what_is_put_back_after_a_steps_time_has_an_end_too() -> None:
    def cuts_a_cable(say: Say) -> None:
        with undoing(NEVER.wait, 0.1):
            NEVER.wait()

    assert results(Step("a", 0.1, cuts_a_cable)) == [(False, False, "not done within 0 s")]


def test_what_went_wrong_first_is_told() -> None:
    def nobody_there() -> None:
        raise OSError("nobody there")

    def fails(say: Say) -> None:
        with undoing(nobody_there, 9):
            raise StepFailed("app1 is up")

    def fails_at_the_end(say: Say) -> None:
        with undoing(nobody_there, 9):
            pass

    assert results(Step("a", 9, fails), Step("b", 9, fails_at_the_end)) == [
        (False, False, "app1 is up"),
        (False, False, "nobody there"),
    ]


def test_an_interruption_is_no_step_that_failed_also_at_the_end_of_its_time() -> None:
    """What is put back then has its own time, not the little that the step had left."""
    left: list[float] = []

    def undo() -> None:
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])

    def interrupted(say: Say) -> None:
        with undoing(undo, 100):
            raise KeyboardInterrupt

    seen: list[Result] = []
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run([Step("a", 40, interrupted), Step("b", 9, fine)], said.append, (), seen)
    assert len(left) == 1
    assert left[0] > 40
    assert "[1/2] a: interrupted" in said[-1]
    assert [(one.trouble, one.skipped) for one in seen] == [("interrupted", False), ("", True)]


def test_the_report_says_what_was_seen() -> None:
    text = markdown(
        [
            Result("Both answer", True, 1.5, ["app1 20, app2 20"]),
            Result("A cable", False, 60, [], "lb2: backup |\n not active"),
            Result("The rest", skipped=True),
        ],
        {"takeover": "3.61 s"},
        {"emulation": "TCG"},
    )
    assert text.startswith(
        "# The Vagrant lab: what was seen\n\n**1 of 3 steps failed, 1 skipped**, in 1.0"
    )
    assert "| takeover | 3.61 s |" in text
    assert "| 2 | A cable | **failed** | 60.0 |" in text
    assert "| 3 | The rest | skipped | 0.0 |" in text
    assert "```\napp1 20, app2 20\n```" in text
    assert "**lb2: backup \\| not active**" in text


def test_a_green_report_says_so() -> None:
    assert "**every step passed**, in 0.1 minutes." in markdown([Result("a", True, 6)], {}, {})
