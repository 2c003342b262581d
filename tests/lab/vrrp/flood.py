"""Bad adverts, many of them, from the lab's client."""

import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

from lbctl.lab import Lab
from lbctl.lab.kernel import NETNS, namespace
from tests.lab.vrrp.spaces import inside

BURST = 100
RATE = 20_000  # a second
PRIORITY = 10  # real-time, far below the routers': they are what is flooded, not starved

_libc = ctypes.CDLL(None, use_errno=True)


class _Buffer(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


def flood(lab: Lab, frames: Iterator[bytes], seconds: float, during: Callable[[], object]) -> float:
    """Send `frames` at RATE for `seconds`, calling `during` between bursts; the rate that
    was reached."""
    out = inside(NETNS / namespace(lab.name, "client"), _sender)
    sent = 0
    with out, _ahead():
        start = time.monotonic()
        while (now := time.monotonic()) - start < seconds:
            if sent < (now - start) * RATE:
                sent += _send(out, list(islice(frames, BURST)))
            else:
                time.sleep(BURST / RATE / 4)
            during()
    return sent / seconds


def _send(out: socket.socket, frames: list[bytes]) -> int:
    """All of them in one system call; how many went."""
    buffers = [_Buffer(frame, len(frame)) for frame in frames]
    messages = (_Message * len(frames))(
        *(_Message(_Header(buffers=ctypes.pointer(one), count=1)) for one in buffers)
    )
    return max(0, int(_libc.sendmmsg(out.fileno(), messages, len(frames), 0)))


def _sender() -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    one.bind(("front", 0))
    return one


@contextmanager
def _ahead() -> Iterator[None]:
    """Before whatever else this machine does, so that the rate is reached."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
