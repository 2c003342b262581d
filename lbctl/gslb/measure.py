"""Round-trip times to client networks, smoothed, and what agents feed. No I/O:
`eyes` measures.

A target stands for its network: something near its clients that answers TCP, be it with a
refusal. Times are smoothed as TCP smooths them (RFC 6298 section 2.3: an eighth of each new
one), and a target that has been silent three times says nothing until it answers again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

EVERY = 10.0  # seconds between two measurements of one target
WAIT = 2.0  # seconds for an answer; longer is no network to send anybody over
SILENT = 3  # measurements in a row without an answer, and what was measured is forgotten
FED = 30.0  # seconds for which a word of an agent counts; silent ones are nobody's
STEP = 0.001  # seconds; finer changes would rewrite answers that stay the same


@dataclass(frozen=True, slots=True)
class Smoothed:
    """seconds: None before the first answer. missed: measurements without one, in a row."""

    seconds: float | None = None
    missed: int = 0

    def after(self, seen: float | None) -> "Smoothed":
        """After one more measurement; None: no answer."""
        if seen is None:
            missed = min(self.missed + 1, SILENT)
            return Smoothed(None if missed == SILENT else self.seconds, missed)
        if self.seconds is None:
            return Smoothed(seen)
        return Smoothed(self.seconds + (seen - self.seconds) / 8)

    @property
    def shown(self) -> float | None:
        """In whole milliseconds, at least one."""
        if self.seconds is None:
            return None
        return max(STEP, round(self.seconds / STEP) * STEP)


@dataclass(frozen=True, slots=True)
class Fed:
    """What agents told us of this site: its load and its times, each with the moment it came
    (monotonic seconds). An agent that ended does not keep its site spilled for ever."""

    load: float = 0.0
    load_at: float = float("-inf")
    times: Mapping[str, float] = field(default_factory=dict)
    times_at: float = float("-inf")

    def told(self, load: float | None, times: Mapping[str, float] | None, now: float) -> "Fed":
        """After one more word; None: it says nothing of this."""
        fed = self
        if load is not None:
            fed = replace(fed, load=load, load_at=now)
        if times is not None:
            fed = replace(fed, times=times, times_at=now)
        return fed

    def at(self, now: float) -> "Fed":
        """What still counts."""
        return Fed(
            self.load if now - self.load_at <= FED else 0.0, self.load_at,
            self.times if now - self.times_at <= FED else {}, self.times_at,
        )  # fmt: skip
