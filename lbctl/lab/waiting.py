"""Waiting for what other processes do, without guessing how long they take."""

import time
from collections.abc import Callable
from typing import TypeVar

Seen = TypeVar("Seen")

PAUSE = 0.02  # seconds between two looks


class NeverHappened(AssertionError):
    """What was waited for did not come; the message is the last failure."""


def eventually(look: Callable[[], Seen], timeout: float = 30.0) -> Seen:
    """Call `look` until it returns something true, and return that.

    A falsy answer or an AssertionError means "not yet". Raises NeverHappened after
    `timeout` seconds, with what `look` said last; it is always called at least once more
    after the time is up, so that a slow machine does not turn a success into a failure.
    """
    end = time.monotonic() + timeout
    while True:
        last_chance = time.monotonic() >= end
        try:
            seen = look()
        except AssertionError as error:
            failure = str(error) or repr(error)
        else:
            if seen:
                return seen
            failure = f"{getattr(look, '__name__', look)} said {seen!r}"
        if last_chance:
            raise NeverHappened(f"not within {timeout:g} s: {failure}")
        time.sleep(PAUSE)
