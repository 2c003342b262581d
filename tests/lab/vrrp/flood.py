"""Bad adverts, many of them, from the lab's client."""

import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice

from lbctl.lab import Lab
from lbctl.lab.kernel import NETNS, namespace
from tests.lab.vrrp.spaces import inside

BURST = 200
RATE = 20_000  # a second


def flood(lab: Lab, frames: Iterator[bytes], seconds: float, during: Callable[[], object]) -> float:
    """Send `frames` at RATE for `seconds`, calling `during` between bursts; the rate that
    was reached."""
    out = inside(NETNS / namespace(lab.name, "client"), _sender)
    start = time.monotonic()
    sent = 0
    with out:
        while (now := time.monotonic()) - start < seconds:
            if sent < (now - start) * RATE:
                for frame in islice(frames, BURST):
                    out.send(frame)
                sent += BURST
            during()
    return sent / seconds


def _sender() -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    one.bind(("front", 0))
    return one
