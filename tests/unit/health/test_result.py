import errno

import pytest

from lbctl.health.judge import Health, Track, judge
from lbctl.health.result import Failed, Result, duration, evidence, failure, late, success
from lbctl.model import Timing
from lbctl.spawner import Ended

TIMING = Timing(fall=3, rise=2)
REFUSED = Result(False, "connection refused", 0.001)
GOOD = Result(True, "200", 0.003)


@pytest.mark.parametrize(
    ("error", "passed", "detail"),
    [
        (Failed("answered 503"), False, "answered 503"),
        (OSError(errno.ECONNREFUSED, ""), False, "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset"), False, "reset by peer"),
        (OSError(errno.EHOSTUNREACH, ""), False, "no route to host"),
        (OSError(errno.EPROTO, "Protocol error"), False, "Protocol error"),
        (OSError(errno.EMFILE, ""), None, "too many open files in the probe worker"),
        (OSError(errno.EADDRNOTAVAIL, ""), None, "no local port or address left"),
        (ZeroDivisionError("by zero"), None, "ZeroDivisionError: by zero"),
        (OSError("no number"), None, "OSError: no number"),
    ],
)
def test_failures_in_words(error: Exception, passed: bool | None, detail: str) -> None:
    assert failure(error, 0.5) == Result(passed, detail, 0.5)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x1b]0;owned\x07", "a\\x1b]0;owned\\x07"),
        ("two\nlines\u202e", "two\\x0alines\\u202e"),
        ("\xe9t\xe9", "\xe9t\xe9"),
        ("x" * 300, "x" * 200),
    ],
)
def test_what_a_server_says_cannot_speak_to_the_terminal(raw: str, shown: str) -> None:
    assert failure(Failed(raw), 0.5).detail == success(raw, 0.5).detail == shown


def test_what_a_script_says_cannot_speak_to_the_terminal() -> None:
    assert str(Ended(1, 2, output="x\na\x1b[2J")) == "exit status 2: a\\x1b[2J"


def test_a_late_probe_tells_where_it_stood() -> None:
    assert str(late(1.0, "connecting")) == "timed out after 1 s (connecting)"


@pytest.mark.parametrize(
    ("before", "result", "said"),
    [
        (Track(Health.UP, 2), REFUSED, "3 of 3 probes: connection refused"),
        (Track(Health.UP, 1), REFUSED, "2 of 3 probes: connection refused"),
        (Track(Health.UP, 1), GOOD, "200 in 3 ms"),
        (Track(Health.DOWN, 1), GOOD, "2 of 2 probes: 200 in 3 ms"),
        (Track(Health.DOWN, 0), GOOD, "1 of 2 probes: 200 in 3 ms"),
        (Track(Health.DOWN, 0), REFUSED, "connection refused"),
        (Track(Health.UNKNOWN, 2), GOOD, "1 of 1 probe: 200 in 3 ms"),
        (Track(Health.UNKNOWN, 1), REFUSED, "2 of 3 probes: connection refused"),
    ],
)
def test_evidence_says_how_far_it_has_come(before: Track, result: Result, said: str) -> None:
    after = judge(before, bool(result.passed), TIMING)
    assert evidence(before, after, result, TIMING) == said


def test_evidence_of_a_probe_that_could_not_be_made() -> None:
    track, result = Track(Health.UP), Result(None, "no local port left", 0.0)
    assert evidence(track, track, result, TIMING) == "could not probe: no local port left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "0.4 ms"), (0.0034, "3 ms"), (0.25, "250 ms"), (1.25, "1.2 s")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
