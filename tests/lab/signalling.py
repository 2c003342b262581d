"""Signals to processes of which some end with others."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress


def signal_all(pids: Iterable[int], how: signal.Signals = signal.SIGKILL) -> None:
    """One that has ended meanwhile, as a child does that notices its parent's end, is no
    failure."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, how)
