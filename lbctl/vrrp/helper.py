"""The VRRP process's side of its helper (`watch`): sends chores, never waits."""

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from lbctl.vrrp import chores
from lbctl.vrrp.chores import AnyChore

_BUFFER = 1 << 18  # bytes of chores that may wait for a slow helper


class Helper:
    """A running helper process. lost: chores that it had no room for."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lbctl.vrrp.watch", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._socket = ours
        self.lost = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, chore: AnyChore) -> bool:
        """False: it has no room for this, now or ever."""
        data = chores.encode(chore)
        try:
            if len(data) > chores.LIMIT:
                raise OSError(errno.EMSGSIZE, "too long")
            self._socket.send(data)
        except OSError:
            self.lost += 1
            return False
        return True

    def read(self, limit: int) -> Iterator[AnyChore | None]:
        """At most `limit` answers; None at the end: it is gone."""
        for _ in range(limit):
            try:
                data = self._socket.recv(chores.LIMIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                yield None
                return
            try:
                yield chores.decode(data)
            except msgspec.MsgspecError:
                yield None
                return

    def finish(self, seconds: float) -> list[AnyChore]:
        """Wait, for at most so long, until it has done what it was sent and ended; what it
        still said."""
        said: list[AnyChore] = []
        end = time.monotonic() + seconds
        with suppress(OSError, msgspec.MsgspecError, subprocess.TimeoutExpired):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                data = self._socket.recv(chores.LIMIT)
                if not data:
                    break
                said.append(chores.decode(data))
            self._process.wait(max(0.0, end - time.monotonic()))
        self.close()
        return said

    def close(self) -> None:
        """It is gone, or ends by itself."""
        self._socket.close()
        self._process.poll()
