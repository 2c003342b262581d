"""An end for work whose length a server chooses, in a process that has one thread and
thousands of other checks."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from lbctl.health.result import Failed

MOST = 0.05  # seconds of this process's own time: a busy machine takes none of it away

T = TypeVar("T")


class _TooLong(Exception):
    """Raised by the signal, wherever the work is."""


def bounded(work: Callable[[], T], what: str) -> T:
    """What `work` returns. Raises Failed where it takes too long."""
    signal.signal(signal.SIGVTALRM, _ring)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST)
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    except _TooLong:
        raise Failed(f"{what} takes longer than {MOST * 1000:.0f} ms") from None


def _ring(number: int, frame: FrameType | None) -> None:
    raise _TooLong
