import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.health.judge import Health, Track, judge
from lbctl.model import Timing

LETTER = {Health.UNKNOWN: "?", Health.UP: "U", Health.DOWN: "D"}


def fold(results: str, start: Health, timing: Timing) -> list[Track]:
    tracks = [Track(start)]
    for result in results:
        tracks.append(judge(tracks[-1], result == "+", timing))
    return tracks[1:]


@pytest.mark.parametrize(
    ("start", "results", "healths"),
    [
        (Health.UNKNOWN, "+", "U"),
        (Health.UNKNOWN, "---", "??D"),
        (Health.UNKNOWN, "--+", "??U"),
        (Health.UP, "+--+", "UUUU"),
        (Health.UP, "+---", "UUUD"),
        (Health.UP, "--+--+---", "UUUUUUUUD"),
        (Health.DOWN, "-+-++", "DDDDU"),
        (Health.DOWN, "++---", "DUUUD"),
        (Health.UP, "---+-++", "UUDDDDU"),
    ],
)
def test_health_follows_results(start: Health, results: str, healths: str) -> None:
    tracks = fold(results, start, Timing(fall=3, rise=2))
    assert "".join(LETTER[track.health] for track in tracks) == healths


def test_fall_and_rise_of_one_follow_each_result() -> None:
    tracks = fold("+-+-", Health.UNKNOWN, Timing(fall=1, rise=1))
    assert "".join(LETTER[track.health] for track in tracks) == "UDUD"


@pytest.mark.parametrize(
    ("start", "results", "wavering"),
    [
        (Health.UNKNOWN, "-", True),
        (Health.UNKNOWN, "+", False),
        (Health.UP, "+", False),
        (Health.UP, "-", True),
        (Health.UP, "--+", False),
        (Health.UP, "---", False),
        (Health.DOWN, "+", True),
    ],
)
def test_a_track_wavers_between_a_surprise_and_the_verdict(
    start: Health, results: str, wavering: bool
) -> None:
    assert fold(results, start, Timing(fall=3, rise=2))[-1].wavering is wavering


TIMINGS = st.builds(Timing, fall=st.integers(1, 5), rise=st.integers(1, 5))
RESULTS = st.text("+-", min_size=1, max_size=40)


@given(RESULTS, st.sampled_from(Health), TIMINGS)
def test_no_change_without_enough_evidence_in_a_row(
    results: str, start: Health, timing: Timing
) -> None:
    before = Track(start)
    for at, after in enumerate(fold(results, start, timing)):
        if after.health is not before.health:
            passed = after.health is Health.UP
            needed = timing.rise if passed else timing.fall
            if passed and before.health is Health.UNKNOWN:
                needed = 1
            assert results[: at + 1].endswith(("+" if passed else "-") * needed)
        before = after


@given(RESULTS, TIMINGS)
def test_agreement_in_a_row_always_ends_in_that_health(results: str, timing: Timing) -> None:
    for passed, health in ((True, Health.UP), (False, Health.DOWN)):
        long_enough = ("+" if passed else "-") * max(timing.fall, timing.rise)
        assert fold(results + long_enough, Health.UNKNOWN, timing)[-1] == Track(health, 0, passed)
