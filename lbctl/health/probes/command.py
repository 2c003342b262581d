"""A command whose exit status says how the server is. The worker may not run anything
itself: the spawner beside it does, as an unprivileged user."""

import select
from socket import socket

import msgspec

from lbctl.health.privileges import first_account
from lbctl.health.reactor import Bell, Reactor, rung
from lbctl.health.result import Failed, Unable
from lbctl.model import Endpoint, ExecProbe
from lbctl.spawner import PACKET, Ended, Script

ACCOUNTS = ("lbctl-check", "nobody")  # the first that exists
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def account() -> str:
    """Whose group the commands of checks have."""
    return first_account(ACCOUNTS)


def environment(endpoint: Endpoint, timeout: float) -> dict[str, str]:
    """All of what a command finds in its environment (docs/health.md)."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "LBCTL_ADDRESS": str(endpoint.address),
        "LBCTL_PORT": str(endpoint.port),
        "LBCTL_TIMEOUT": f"{timeout:g}",
    }


class Scripts:
    """The line to the spawner, on a reactor."""

    def __init__(self, line: socket, reactor: Reactor) -> None:
        self._line = line
        self._reactor = reactor
        self._last = 0
        self._open = True
        self._waiting: dict[int, tuple[Bell, list[Ended]]] = {}
        line.setblocking(False)
        reactor.watch(line.fileno(), self._take, select.EPOLLIN)

    async def run(self, probe: ExecProbe, env: dict[str, str], timeout: float) -> str:
        """Raises Failed, Unable."""
        self._last += 1
        script = Script(self._last, probe.command, env, timeout)
        bell, ends = Bell(), list[Ended]()
        self._waiting[script.id] = bell, ends
        try:
            self._ask(script)
            while not ends:
                await rung(bell, "running the command")
        finally:
            del self._waiting[script.id]
        ended = ends[0]
        if ended.unable:
            raise Unable(str(ended))
        if ended.status != 0:
            raise Failed(str(ended))
        return str(ended)

    def _ask(self, script: Script) -> None:
        try:
            self._line.send(msgspec.json.encode(script))
        except BlockingIOError:
            raise Unable("the spawner has too much to do") from None
        except (BrokenPipeError, ConnectionResetError):
            raise Unable("the spawner is gone") from None

    def _take(self, mask: int) -> None:
        try:
            data = self._line.recv(PACKET)
        except (BlockingIOError, ConnectionResetError):
            return
        if not data:
            # The daemon sees this in the worker's end and starts both again.
            raise SystemExit("lbctl probe: the spawner is gone")
        ended = msgspec.json.decode(data, type=Ended)
        if (waiting := self._waiting.get(ended.id)) is not None:
            bell, ends = waiting
            ends.append(ended)
            self._reactor.ring(bell)
