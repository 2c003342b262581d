"""What the worker has to say and the daemon has not read yet: the newest word on each
check, so that a daemon that is busy for long finds the present and not a queue of the past.
"""

from msgspec.structs import replace

from lbctl.messages import Pulse, Reading, Verdict, frame


class Outbox:
    """Bounded by the number of checks."""

    def __init__(self) -> None:
        self._readings: dict[int, Reading] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._pulse: Pulse | None = None
        self._frame = memoryview(b"")  # the message under way: what is left of it

    def __bool__(self) -> bool:
        return bool(self._frame or self._readings or self._verdicts or self._pulse)

    def verdict(self, verdict: Verdict) -> None:
        """Supersedes an unsent verdict on the same check; somebody who asked still gets
        an answer."""
        older = self._verdicts.pop(verdict.id, None)
        if older is not None and older.asked and not verdict.asked:
            verdict = replace(verdict, asked=True)
        self._verdicts[verdict.id] = verdict

    def reading(self, reading: Reading) -> None:
        """Supersedes an unsent reading, and goes before verdicts: an agent that speaks
        again is believed by what it says now."""
        self._readings[reading.id] = reading

    def pulse(self, pulse: Pulse) -> None:
        self._pulse = pulse

    def next_piece(self) -> memoryview:
        """Bytes to send now; empty when all is said."""
        if not self._frame:
            if self._readings:
                self._frame = memoryview(frame(self._readings.pop(next(iter(self._readings)))))
            elif self._verdicts:
                self._frame = memoryview(frame(self._verdicts.pop(next(iter(self._verdicts)))))
            elif self._pulse is not None:
                self._frame = memoryview(frame(self._pulse))
                self._pulse = None
        return self._frame

    def sent(self, count: int) -> None:
        """`count` bytes of that piece are on their way."""
        self._frame = self._frame[count:]
