"""The named socket of the VRRP process: SEQPACKET, one packet is one message.

A client gets every router's role when it connects and each change after that; each
message that it sends is answered with `Done`. One that does not read is let go: nothing
waits for a client.
"""

import grp
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lbctl.errors import LbctlError, Unreachable
from lbctl.messages import AnyMessage, Done, Garbage, decode, encode

PATH = Path("/run/lbctl/vrrp.sock")
GROUP = "lbctl"
CLIENTS = 16
LIMIT = 1 << 20  # bytes of one message
_KIND = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC


class Server:
    """The listening socket and its clients. Raises LbctlError if another one serves `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.listener = socket.socket(socket.AF_UNIX, _KIND | socket.SOCK_NONBLOCK)
        self.clients: dict[int, socket.socket] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if _alive(path):
            raise LbctlError(f"{path}: another lbctl vrrp is running")
        path.unlink(missing_ok=True)
        self.listener.bind(str(path))
        os.chmod(path, 0o660)
        with suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
        self.listener.listen(CLIENTS)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        for one in (self.listener, *self.clients.values()):
            one.close()

    def accept(self) -> socket.socket | None:
        """A new client, unless there are enough."""
        try:
            client, _ = self.listener.accept()
        except OSError:
            return None
        if len(self.clients) >= CLIENTS:
            client.close()
            return None
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LIMIT)
        self.clients[client.fileno()] = client
        return client

    def read(self, client: socket.socket, limit: int) -> Iterator[AnyMessage | None]:
        """At most `limit` messages; None at the end: the client is gone, or talks garbage."""
        for _ in range(limit):
            try:
                data = client.recv(LIMIT)
                if not data:
                    yield None
                    return
                yield decode(data)
            except BlockingIOError:
                return
            except (OSError, Garbage):
                yield None
                return

    def send(self, client: socket.socket, message: AnyMessage) -> bool:
        """False: it does not read, or is gone."""
        try:
            client.send(encode(message))
        except OSError:
            return False
        return True

    def forget(self, client: socket.socket) -> None:
        self.clients.pop(client.fileno(), None)
        client.close()


class Client:
    """The other end, blocking: for the command line and for tests."""

    def __init__(self, path: Path = PATH, timeout: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, _KIND)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            hint = "systemctl start lbctl-vrrp"
            raise Unreachable(f"{path}: no VRRP process: {error.strerror}", hint) from None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, message: AnyMessage) -> list[AnyMessage]:
        """What is said until the message is done. Raises Unreachable, LbctlError."""
        try:
            self._socket.send(encode(message))
            said: list[AnyMessage] = []
            while not isinstance(answer := self.read(), Done):
                said.append(answer)
        except OSError as error:
            raise Unreachable(f"the VRRP process does not answer: {error}") from None
        if answer.refused:
            raise LbctlError(answer.refused)
        return said

    def read(self) -> AnyMessage:
        """The next message. Raises Unreachable when the process is gone."""
        data = self._socket.recv(LIMIT)
        if not data:
            raise Unreachable("the VRRP process is gone")
        return decode(data)


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, _KIND) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
