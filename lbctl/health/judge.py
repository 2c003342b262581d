"""What a run of probe results says about a server: one fold, no clock."""

from dataclasses import dataclass, replace
from enum import StrEnum

from lbctl.model import Timing


class Health(StrEnum):
    UNKNOWN = "unknown"  # no verdict yet
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Track:
    """How far a server is on the way to its next verdict.

    streak: results in a row that disagree with `health`.
    """

    health: Health = Health.UNKNOWN
    streak: int = 0
    last: bool | None = None

    @property
    def wavering(self) -> bool:
        """On the way to a change, or without a verdict: probed at the fast interval."""
        return self.streak > 0 or self.health is Health.UNKNOWN


def judge(track: Track, passed: bool, timing: Timing) -> Track:
    """The track after one more result.

    An unknown server is up after its first pass (it entered to serve), down after
    `fall` failures. One that is down needs `rise` passes, one that is up `fall` failures,
    in a row.
    """
    if track.health is Health.UNKNOWN:
        if passed:
            return Track(Health.UP, 0, True)
        streak = track.streak + 1
        health = Health.DOWN if streak >= timing.fall else Health.UNKNOWN
        return Track(health, 0 if health is Health.DOWN else streak, False)
    if passed == (track.health is Health.UP):
        return replace(track, streak=0, last=passed)
    streak = track.streak + 1
    if streak < (timing.rise if passed else timing.fall):
        return replace(track, streak=streak, last=passed)
    return Track(Health.UP if passed else Health.DOWN, 0, passed)
