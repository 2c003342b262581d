"""The probe worker's keeper: starts it, tells it what to check, takes its verdicts, and
replaces it when it dies or falls silent."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lbctl.daemon.assignment import Assignment
from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.journal import Journal
from lbctl.errors import LbctlError
from lbctl.events import WorkerLost, WorkerStarted
from lbctl.messages import (
    AnyMessage,
    Garbage,
    ProbeNow,
    Pulse,
    Reading,
    Unframer,
    Verdict,
    frame,
)
from lbctl.world import Target

COMMAND = (sys.executable, "-m", "lbctl.health.worker")
SILENCE = 5.0  # seconds without a pulse
FIRST_RETRY = 0.5
LAST_RETRY = 30.0
GOOD_AFTER = 60.0  # a worker that lived this long starts the delays anew
_PIECE = 256 << 10


class Lost(Exception):
    """The worker is not to be used any more."""


@dataclass
class Line:
    """One running worker and the stream to it."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    started: float


@dataclass
class WorkerKeeper:
    """Keeps one probe worker running. pulse: its last sign of life. silence: seconds
    without one after which it is replaced."""

    control: Control
    journal: Journal
    clock: Clock
    command: Sequence[str] = COMMAND
    silence: float = SILENCE
    pulse: Pulse | None = None
    pid: int | None = None
    probes: int = 0  # since this daemon started
    _assignment: Assignment = field(default_factory=Assignment)
    _line: Line | None = None
    _asked: dict[int, list[asyncio.Future[Verdict]]] = field(default_factory=dict)

    async def keep(self) -> None:
        """For ever: a worker, and after it another."""
        delay = FIRST_RETRY
        while True:
            started = self.clock.now()
            try:
                async with self._worker() as line:
                    await self._serve(line)
            except (Lost, Garbage, OSError) as error:
                if self.clock.now() - started >= GOOD_AFTER:
                    delay = FIRST_RETRY
                self.journal.tell(WorkerLost(str(error), delay))
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY)

    def tell_changes(self) -> None:
        """The world may want other checks than before."""
        if self._line is not None:
            change = self._assignment.change(self.control.world, self.clock.now())
            if change is not None:
                self._line.writer.write(frame(change))

    async def probe_now(self, target: Target, timeout: float) -> Verdict:
        """Run one check at once. Raises LbctlError where there is no answer in time."""
        number = self._assignment.id(target)
        if self._line is None or number is None:
            raise LbctlError(f"{target.endpoint}: is not being checked")
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(number, []).append(answer)
        self._line.writer.write(frame(ProbeNow(number)))
        try:
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            raise LbctlError(f"{target.endpoint}: no answer to a check in {timeout:g} s") from None

    @property
    def checks(self) -> int:
        return len(self._assignment)

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Line]:
        process, ours = await self._spawn()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._line = Line(process, reader, writer, self.clock.now())
        self.pid = process.pid
        try:
            yield self._line
        finally:
            self._line, self.pid, self.pulse = None, None, None
            writer.close()
            await _end(process)

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """A worker that has its end of the line as standard input, and our end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL
                )
            except BaseException:
                ours.close()
                raise
        return process, ours

    async def _serve(self, line: Line) -> None:
        whole = self._assignment.whole(self.control.world, self.clock.now())
        line.writer.write(frame(whole))
        self.journal.tell(WorkerStarted(line.process.pid, len(whole.start)))
        unframer = Unframer()
        heard = asyncio.get_running_loop().time()
        while True:
            try:
                async with asyncio.timeout_at(heard + self.silence):
                    data = await line.reader.read(_PIECE)
            except ConnectionError:
                data = b""
            except TimeoutError:
                raise Lost(f"silent for {self.silence:g} s") from None
            if not data:
                code = await line.process.wait()
                raise Lost(f"ended with status {code}")
            for message in unframer.feed(data):
                if isinstance(message, Pulse):
                    heard = asyncio.get_running_loop().time()
                self._take(message)

    def _take(self, message: AnyMessage) -> None:
        match message:
            case Pulse():
                self.pulse = message
                self.probes += message.probes
            case Verdict():
                target = self._assignment.target(message.id)
                if target is not None:
                    self.control.see(target, message.health, message.evidence, message.asked)
                for answer in self._asked.pop(message.id, []) if message.asked else []:
                    if not answer.done():
                        answer.set_result(message)
            case Reading():
                target = self._assignment.target(message.id)
                if target is not None:
                    self.control.hear(target, message.report)
            case _:
                raise Lost(f"sent {type(message).__name__}, which is not its to send")


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends when its line closes; one that does not is killed."""
    try:
        async with asyncio.timeout(1.0):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
