"""When each check runs next. Time is passed in; randomness too."""

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from lbctl.health.judge import Track
from lbctl.model import Timing

Key = TypeVar("Key", bound=Hashable)


def delay(timing: Timing, track: Track, random: float) -> float:
    """Seconds from the start of one probe to the start of the next.

    random: in [0, 1). The interval is spread by `jitter` to both sides, so that checks
    which started together drift apart.
    """
    interval = min(timing.fast_interval, timing.interval) if track.wavering else timing.interval
    return interval * (1 + timing.jitter * (2 * random - 1))


class Agenda(Generic[Key]):
    """What is due when. Adding spreads the first run over one interval."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._heap: list[tuple[float, int, Key]] = []
        self._entry: dict[Key, int] = {}  # key -> number of its live heap entry
        self._count = 0

    def __len__(self) -> int:
        return len(self._entry)

    @property
    def deadline(self) -> float | None:
        """When the next one is due."""
        self._discard_stale()
        return self._heap[0][0] if self._heap else None

    def add(self, key: Key, now: float, spread: float) -> None:
        """First run within `spread` seconds, at a random moment."""
        self._push(key, now + spread * self._random())

    def again(self, key: Key, started: float, timing: Timing, track: Track) -> None:
        """Next run, counted from the start of the last, so that slow probes do not slip."""
        if key in self._entry:
            self._push(key, started + delay(timing, track, self._random()))

    def at_once(self, key: Key, now: float) -> None:
        """Run now; one that is running already has its answer on the way."""
        if self._entry.get(key):
            self._push(key, now)

    def remove(self, key: Key) -> None:
        self._entry.pop(key, None)

    def due(self, now: float, limit: int | None = None) -> list[tuple[float, Key]]:
        """Those that should have started by now, at most `limit`, earliest first, with the
        moment each was due.

        A key that was handed out waits for `again`, so one check never overlaps itself.
        """
        ready: list[tuple[float, Key]] = []
        while (deadline := self.deadline) is not None and deadline <= now:
            if limit is not None and len(ready) >= limit:
                break
            at, _, key = heapq.heappop(self._heap)
            self._entry[key] = 0
            ready.append((at, key))
        return ready

    def _push(self, key: Key, at: float) -> None:
        self._count += 1
        self._entry[key] = self._count
        heapq.heappush(self._heap, (at, self._count, key))

    def _discard_stale(self) -> None:
        while self._heap and self._entry.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
