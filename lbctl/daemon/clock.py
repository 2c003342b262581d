"""Two clocks: one that never steps, for everything that waits, and the wall, for people."""

import time
from collections.abc import Callable
from typing import NamedTuple


class Clock(NamedTuple):
    """now: seconds that never step (and count a suspended machine's sleep). wall: seconds
    since the epoch; only what is saved or shown has it."""

    now: Callable[[], float]
    wall: Callable[[], float]

    def to_wall(self, moment: float) -> float:
        return self.wall() + (moment - self.now())

    def from_wall(self, moment: float) -> float:
        return self.now() + (moment - self.wall())


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


SYSTEM = Clock(boottime, time.time)
