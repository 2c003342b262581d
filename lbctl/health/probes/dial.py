"""Connections of probes: opened without waiting, closed without leaving anything."""

import errno
import struct
from collections.abc import Callable, Coroutine
from socket import (
    AF_INET,
    AF_INET6,
    SO_ERROR,
    SO_LINGER,
    SO_MARK,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)
from typing import NamedTuple, Self

from lbctl.health.reactor import Wait, news
from lbctl.health.result import Unable
from lbctl.model import Endpoint

_STREAM = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
_DATAGRAM = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC
_PIECE = 16 << 10
# Closing resets: a box that opens thousands of connections a second would otherwise run
# out of local ports, all of them in TIME_WAIT.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Remote(NamedTuple):
    """An endpoint as socket calls want it. mark: by which its packets are routed; 0: none."""

    family: int
    sockaddr: tuple[str, int]
    mark: int = 0

    @classmethod
    def of(cls, endpoint: Endpoint, mark: int = 0) -> Self:
        family = AF_INET if endpoint.address.version == 4 else AF_INET6
        return cls(family, (str(endpoint.address), endpoint.port), mark)

    def stream(self) -> socket:
        """A TCP socket that is not connected yet. Raises Unable."""
        sock = socket(self.family, _STREAM)
        if self.mark:
            _mark(sock, self.mark)
        sock.setsockopt(SOL_SOCKET, SO_LINGER, _RESET_ON_CLOSE)
        return sock

    def datagram(self) -> socket:
        """A UDP socket that is connected, so that ICMP errors come to it. Raises OSError,
        Unable."""
        sock = socket(self.family, _DATAGRAM)
        if self.mark:
            _mark(sock, self.mark)
        sock.connect(self.sockaddr)
        return sock


def _mark(sock: socket, mark: int) -> None:
    """Raises Unable, with the socket closed."""
    try:
        sock.setsockopt(SOL_SOCKET, SO_MARK, mark)
    except PermissionError:
        sock.close()
        raise Unable("may not mark packets (CAP_NET_RAW does from Linux 5.17 on)") from None


class Stream:
    """A connection that a probe talks over. It ends with its context."""

    def __init__(self, sock: socket) -> None:
        self.sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    async def send(self, data: bytes, step: str = "sending the request") -> None:
        """Raises OSError."""
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await news(self.sock, step)

    async def receive(self, step: str) -> bytes:
        """What came; b"" at the end. Raises OSError."""
        while True:
            try:
                return self.sock.recv(_PIECE)
            except BlockingIOError:
                await news(self.sock, step)


Dial = Callable[[], Coroutine[Wait, None, Stream]]  # opens the connection of one run


async def dial(remote: Remote) -> Stream:
    """A connection. Raises OSError."""
    sock = remote.stream()
    try:
        await connect(sock, remote)
    except BaseException:
        sock.close()
        raise
    return Stream(sock)


async def connect(sock: socket, remote: Remote) -> None:
    """Connect, or raise OSError."""
    code = sock.connect_ex(remote.sockaddr)
    if code == errno.EINPROGRESS:
        await news(sock, "connecting")
        code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
    if code:
        raise OSError(code, "")
