"""What came of one probe, and the words an operator reads about it."""

import errno
from dataclasses import dataclass
from typing import NamedTuple

from lbctl.health.judge import Health, Track
from lbctl.health.report import Report
from lbctl.model import Timing
from lbctl.said import plain


class Failed(Exception):
    """The server answered, and not as it should. The message is the evidence."""


class Unable(Exception):
    """The probe could not be made, for a reason on our side. The message is the evidence."""


class Found(NamedTuple):
    """What a probe that passed has to say. report: an agent's."""

    detail: str
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What one probe found.

    passed: None: it could not be made, for a reason on our side; that says nothing about
    the server. detail: `200`, `connection refused`. took: seconds.
    """

    passed: bool | None
    detail: str
    took: float
    report: Report | None = None

    def __str__(self) -> str:
        if self.passed:
            return f"{self.detail} in {duration(self.took)}"
        return self.detail if self.passed is False else f"could not probe: {self.detail}"


_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "reset by peer",
    errno.EPIPE: "reset by peer",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "timed out in the kernel",
    errno.EACCES: "refused by the local firewall or a prohibit route",
    errno.EPERM: "refused by the local firewall or a prohibit route",
    errno.EINVAL: "unreachable from this gateway (invalid argument)",
}

# The box lacks something: the server did nothing wrong. EAGAIN is what connect(2) says
# when no local port is free.
_OURS = {
    errno.EMFILE: "too many open files in the probe worker",
    errno.ENFILE: "too many open files on this gateway",
    errno.ENOMEM: "out of memory on this gateway",
    errno.ENOBUFS: "out of socket buffers on this gateway",
    errno.EADDRNOTAVAIL: "no local port or address left",
    errno.EAGAIN: "no local port left",
    errno.EAFNOSUPPORT: "address family not supported by this kernel",
}


def success(found: Found | str, took: float) -> Result:
    if isinstance(found, str):
        return Result(True, plain(found), took)
    return Result(True, plain(found.detail), took, found.report)


def failure(error: Exception, took: float) -> Result:
    """The result of a probe that ended in `error`.

    Anything but a network error or `Failed` is a fault of the probe itself: evidence for
    the operator, and no reason to take a server out.
    """
    if isinstance(error, Failed):
        return Result(False, plain(str(error)), took)
    if isinstance(error, Unable):
        return Result(None, plain(str(error)), took)
    if not isinstance(error, OSError) or error.errno is None:
        return Result(None, plain(f"{type(error).__name__}: {error}"), took)
    if error.errno in _OURS:
        return Result(None, _OURS[error.errno], took)
    return Result(False, _WORDS.get(error.errno) or error.strerror or str(error), took)


def late(timeout: float, step: str) -> Result:
    """The result of a probe that was not done in `timeout` seconds, stopped at `step`."""
    return Result(False, f"timed out after {timeout:g} s ({step})", timeout)


def evidence(before: Track, after: Track, result: Result, timing: Timing) -> str:
    """`3 of 3 probes: connection refused`: how far the results in a row have come."""
    if result.passed is None:
        return str(result)
    if after.health is not before.health:
        entered = before.health is Health.UNKNOWN and result.passed  # one pass is enough
        seen = 1 if entered else before.streak + 1
        return f"{seen} of {seen} probe{'s' if seen > 1 else ''}: {result}"
    if after.streak:
        needed = timing.rise if result.passed else timing.fall
        return f"{after.streak} of {needed} probes: {result}"
    return str(result)


def duration(seconds: float) -> str:
    """`0.4 ms`, `3 ms`, `1.2 s`."""
    if seconds < 0.001:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
