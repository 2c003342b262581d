"""A process that runs on time: real-time scheduling, locked memory, a timer of the
kernel's.

Asyncio and epoll round their time-outs to a millisecond; a timerfd does not. RLIMIT_RTTIME
is left alone: the kernel would kill the process for a single long wake-up.
"""

import ctypes
import gc
import os
import resource
import time
from contextlib import suppress

_CLOCK_MONOTONIC = 1
_CLOCK_MONOTONIC_COARSE = 6  # of linux/time.h
_ABSOLUTE = 1
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_PR_SET_TIMERSLACK = 29

_libc = ctypes.CDLL(None, use_errno=True)


class _TimeSpec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """A file that becomes readable at a moment of CLOCK_MONOTONIC (seconds)."""

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._set: float | None = None

    def fileno(self) -> int:
        return self._fd

    def set(self, moment: float | None) -> None:
        """Readable from `moment` on, at once if that is past; None: never."""
        if moment == self._set:
            return
        self._set = moment
        value = self._spec.value
        # All zeros would disarm it.
        value.sec, value.nsec = (0, 0) if moment is None else _split(max(moment, 1e-9))
        _libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._spec), None)

    def rest(self) -> None:
        """After it was readable: it must be set anew."""
        self._set = None

    def close(self) -> None:
        os.close(self._fd)


def _split(moment: float) -> tuple[int, int]:
    seconds = int(moment)
    return seconds, min(999_999_999, int((moment - seconds) * 1e9) + 1)


def be_on_time(priority: int) -> list[str]:
    """Take SCHED_FIFO `priority` and lock the memory; what was not granted, in words.

    Children start with an ordinary scheduler again.
    """
    refused = []
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except PermissionError:
        refused.append(
            f"SCHED_FIFO {priority} is not granted (CAP_SYS_NICE or LimitRTPRIO): "
            "adverts faster than 100 ms are refused"
        )
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        refused.append(f"memory is not locked (LimitMEMLOCK is {soft}): paging may cost time")
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    return refused


def pace() -> tuple[int, int]:
    """How the calling thread is scheduled: policy and priority. Threads that it makes are
    ordinary ones again, as children are: SCHED_RESET_ON_FORK does not tell them apart."""
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority


def keep_up(policy: int, priority: int) -> None:
    """Schedule the calling thread as `pace` said of another one."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, policy, os.sched_param(priority))


def freeze() -> None:
    """What is there now is never looked at by the garbage collector again."""
    gc.collect()
    gc.freeze()


def jiffy() -> float:
    """Seconds: the coarse clock's resolution."""
    return time.clock_getres(_CLOCK_MONOTONIC_COARSE)


def real_time() -> bool:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
