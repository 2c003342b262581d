"""The probe worker's keeper: starts it, tells it what to check, takes its verdicts, and
replaces it when it dies or falls silent."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from lbctl.daemon.assignment import Assignment
from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.journal import Journal
from lbctl.daemon.passage import Passage
from lbctl.errors import LbctlError
from lbctl.events import WorkerLost, WorkerStarted
from lbctl.health.files import open_for
from lbctl.health.judge import Health
from lbctl.messages import (
    AnyMessage,
    File,
    Files,
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
FILES_EVERY = 10.0  # seconds between two looks at the files that probes need
SILENCE = 5.0  # seconds without a pulse
STARTING = 60.0  # seconds until its first one, on a busy machine and with thousands of checks
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
    without one after which it is replaced, starting: until its first. always: it runs with
    nothing to check, too. passage: its ways through servers, if it is the one that has them."""

    control: Control
    journal: Journal
    clock: Clock
    command: Sequence[str] = COMMAND
    silence: float = SILENCE
    starting: float = STARTING
    pulse: Pulse | None = None
    pid: int | None = None
    probes: int = 0  # since this daemon started
    always: bool = True
    passage: Passage | None = None
    assignment: Assignment = field(default_factory=Assignment)
    _line: Line | None = None
    _given: dict[str, File] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: dict[int, list[asyncio.Future[Verdict]]] = field(default_factory=dict)

    async def keep(self) -> None:
        """For ever: a worker, and after it another."""
        delay = FIRST_RETRY
        while True:
            await self._until_needed()
            started = self.clock.now()
            try:
                async with self._worker() as line:
                    await self._serve(line)
            except (Lost, Garbage, OSError, LbctlError) as error:
                if self.clock.now() - started >= GOOD_AFTER:
                    delay = FIRST_RETRY
                self.journal.tell(WorkerLost(str(error), delay))
                await asyncio.sleep(delay)
                delay = min(delay * 2, LAST_RETRY)
            else:
                delay = FIRST_RETRY

    def tell_changes(self) -> None:
        """The world may want other checks than before."""
        self._changed.set()
        if self._line is not None and self.passage is None:
            self._tell(self._line)

    def _tell(self, line: Line) -> None:
        self._hand_over(line)
        change = self.assignment.change(self.control.world, self.clock.now())
        if change is not None:
            line.writer.write(frame(change))

    def _hand_over(self, line: Line) -> None:
        """The files that its probes need, where they are other than before."""
        names = self.assignment.files(self.control.world, self.clock.now())
        found = {name: open_for(name) for name in names}
        fresh = tuple(one for name, one in found.items() if self._given.get(name) != one)
        self._given = found
        if fresh:
            line.writer.write(frame(Files(fresh)))

    def _is_needed(self) -> bool:
        return self.always or self.assignment.wants(self.control.world, self.clock.now())

    async def _until_needed(self) -> None:
        while not self._is_needed():
            self._changed.clear()
            await self._changed.wait()

    def checks_target(self, target: Target) -> bool:
        return self._line is not None and self.assignment.id(target) is not None

    def hurry(self, target: Target) -> None:
        """Run one check at once; nobody waits for what becomes of it."""
        number = self.assignment.id(target)
        if self._line is not None and number is not None:
            self._line.writer.write(frame(ProbeNow(number)))

    async def probe_now(self, target: Target, timeout: float) -> Verdict:
        """Run one check at once. Raises LbctlError where there is no answer in time."""
        number = self.assignment.id(target)
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
        return len(self.assignment)

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
        """Until it is lost, or has nothing to check any more."""
        self._changed.clear()
        if self.passage is not None:
            await self.passage.open(line.process.pid, self.control.world.config.gateway)
            await self._lay(self.passage)
        hearing = asyncio.create_task(self._hear(line))
        attending = asyncio.create_task(self._attend(line))
        try:
            await asyncio.wait({hearing, attending}, return_when=asyncio.FIRST_COMPLETED)
            for task in (hearing, attending):
                if task.done():
                    task.result()
        finally:
            hearing.cancel()
            attending.cancel()
            await asyncio.gather(hearing, attending, return_exceptions=True)

    async def _attend(self, line: Line) -> None:
        """Lay the ways that changes need before they are told; end with the last check."""
        while self._is_needed():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), FILES_EVERY)
            self._changed.clear()
            if self.passage is not None:
                await self._lay(self.passage)
            self._tell(line)

    async def _lay(self, passage: Passage) -> None:
        await passage.lay(self.assignment.vias(self.control.world, self.clock.now()))

    async def _hear(self, line: Line) -> None:
        self._given = {}
        self._hand_over(line)
        whole = self.assignment.whole(self.control.world, self.clock.now())
        line.writer.write(frame(whole))
        self.journal.tell(WorkerStarted(line.process.pid, len(whole.start)))
        unframer = Unframer()
        heard, patience = asyncio.get_running_loop().time(), self.starting
        while True:
            try:
                async with asyncio.timeout_at(heard + patience):
                    data = await line.reader.read(_PIECE)
            except ConnectionError:
                data = b""
            except TimeoutError:
                raise Lost(f"silent for {patience:g} s") from None
            if not data:
                code = await line.process.wait()
                raise Lost(f"ended with status {code}")
            for message in unframer.feed(data):
                if isinstance(message, Pulse) or patience != self.silence:
                    heard, patience = asyncio.get_running_loop().time(), self.silence
                self._take(message)

    def _take(self, message: AnyMessage) -> None:
        match message:
            case Pulse():
                self.pulse = message
                self.probes += message.probes
            case Verdict():
                target = self.assignment.target(message.id)
                if target is not None:
                    self.control.see(target, message.health, _said(target, message), message.asked)
                for answer in self._asked.pop(message.id, []) if message.asked else []:
                    if not answer.done():
                        answer.set_result(message)
            case Reading():
                target = self.assignment.target(message.id)
                if target is not None:
                    self.control.hear(target, message.report)
            case _:
                raise Lost(f"sent {type(message).__name__}, which is not its to send")


def _said(target: Target, verdict: Verdict) -> str:
    if target.via is None or verdict.health is not Health.DOWN:
        return verdict.evidence
    return f"{verdict.evidence} (through it to {target.endpoint}: has it that address?)"


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends when its line closes; one that does not is killed."""
    try:
        async with asyncio.timeout(1.0):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
