"""Connections of probes: opened without waiting, closed without leaving anything."""

import errno
import struct
from socket import (
    AF_INET,
    AF_INET6,
    SO_ERROR,
    SO_LINGER,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from typing import NamedTuple, Self

from lbctl.health.reactor import news
from lbctl.model import Endpoint

_STREAM = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
# Closing resets: a box that opens thousands of connections a second would otherwise run
# out of local ports, all of them in TIME_WAIT.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Remote(NamedTuple):
    """An endpoint as socket calls want it."""

    family: int
    sockaddr: tuple[str, int]

    @classmethod
    def of(cls, endpoint: Endpoint) -> Self:
        family = AF_INET if endpoint.address.version == 4 else AF_INET6
        return cls(family, (str(endpoint.address), endpoint.port))

    def stream(self) -> socket:
        """A TCP socket that is not connected yet."""
        sock = socket(self.family, _STREAM)
        sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)
        return sock


async def connect(sock: socket, remote: Remote) -> None:
    """Connect, or raise OSError."""
    code = sock.connect_ex(remote.sockaddr)
    if code == errno.EINPROGRESS:
        await news(sock, "connecting")
        code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if code:
        raise OSError(code, "")
