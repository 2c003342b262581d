"""The VRRP process's side of its helper (`watch`): sends chores, never waits."""

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator

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

    def close(self) -> None:
        """It ends by itself when it has done what it was sent."""
        self._socket.close()
        self._process.poll()
