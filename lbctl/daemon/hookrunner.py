"""Runs the hooks that are due, through a spawner of its own (see `lbctl.spawner`)."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.hooks import Due, Ledger, Run, environment
from lbctl.daemon.journal import Journal
from lbctl.events import HookStarted
from lbctl.spawner import PACKET, Ended, Script

COMMAND = (sys.executable, "-m", "lbctl.spawner")
IDLE = 60.0  # seconds


@dataclass
class HookRunner:
    """ledger: what is due and what was run. active: whether this gateway acts for a service
    (in a pair: whether its virtual router is Active here)."""

    control: Control
    journal: Journal
    clock: Clock
    ledger: Ledger
    active: Callable[[str], bool]
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _line: socket.socket | None = None
    _process: asyncio.subprocess.Process | None = None
    _running: dict[int, tuple[Due, float]] = field(default_factory=dict)
    _last: int = 0

    def look(self) -> None:
        """Something changed: see whether a hook is due."""
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. A hook that runs then goes on by itself."""
        try:
            while True:
                self._wake.clear()
                await self._start_due()
                await self._sleep()
        finally:
            self._hang_up()

    async def _start_due(self) -> None:
        now = self.clock.now()
        for due in self.ledger.look(self.control.world, self.active, now):
            self._last += 1
            self._running[self._last] = due, now
            hook = due.hook
            script = Script(
                self._last,
                hook.command,
                environment(due),
                hook.timeout,
                hook.user,
                most=0,
                starts=True,
            )
            self.journal.tell(
                HookStarted(str(due.key.name), str(due.key.trigger), due.hook.command[0])
            )
            self.control.remember()
            await self._ask(script)
        self.journal.tell(*self.ledger.take_events())

    async def _ask(self, script: Script) -> None:
        try:
            (await self._spawner()).send(msgspec.json.encode(script))
        except OSError as error:
            self._end(Ended(script.id, None, f"the spawner does not run: {error}", unable=True))

    async def _spawner(self) -> socket.socket:
        """The line to it. It is started when a hook is due for the first time."""
        if self._line is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *COMMAND, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
                )
            ours.setblocking(False)
            asyncio.get_running_loop().add_reader(ours.fileno(), self._hear)
            self._line = ours
        return self._line

    def _hear(self) -> None:
        assert self._line is not None
        try:
            data = self._line.recv(PACKET)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self._end(msgspec.json.decode(data, type=Ended))
            return
        self._hang_up()
        for number in list(self._running):
            self._end(Ended(number, None, "the spawner ended", unable=True))

    def _end(self, ended: Ended) -> None:
        if (run := self._running.pop(ended.id, None)) is not None:
            due, started = run
            took = self.clock.now() - started
            passed, said = ended.status == 0, ended.output
            self.ledger.ended(Run(due.key, started, took, passed, str(ended), said))
            self.control.remember()
            self._wake.set()

    def _hang_up(self) -> None:
        if self._line is not None:
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            self._line.close()
            self._line = None

    async def _sleep(self) -> None:
        now = self.clock.now()
        due = self.ledger.deadline(self.control.world, now)
        try:
            async with asyncio.timeout(IDLE if due is None else min(IDLE, due - now)):
                await self._wake.wait()
        except TimeoutError:
            return
