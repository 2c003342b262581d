"""Round-trip times to client networks, smoothed. No I/O: `eyes` measures.

A target stands for its network: something near its clients that answers TCP, be it with a
refusal. Times are smoothed as TCP smooths them (RFC 6298 section 2.3: an eighth of each new
one), and a target that has been silent three times says nothing until it answers again.
"""

from dataclasses import dataclass

EVERY = 10.0  # seconds between two measurements of one target
WAIT = 2.0  # seconds for an answer; longer is no network to send anybody over
SILENT = 3  # measurements in a row without an answer, and what was measured is forgotten
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
