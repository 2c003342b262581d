"""TCP ports for servers that are started later, or again: nobody else is given them."""

import os
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PORTS = range(10_000, 1 << 16)
_LOCAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _share() -> Iterator[int]:
    """Those of this process: none that the kernel hands out to whoever connects, or binds to
    none. One of those may be another's by the time that its server starts."""
    first, last = map(int, _LOCAL.read_text().split())
    others = [port for port in _PORTS if not first <= port <= last]
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = (others or list(_PORTS))[worker::workers]
    random.SystemRandom().shuffle(ports)  # a second run beside this one has others
    return iter(ports)


_MINE = _share()


def free_port() -> int:
    """A port of the loopback address that this call alone returns."""
    for port in _MINE:
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise LookupError(f"no free port outside of {_LOCAL}")
