"""The worker processes: started, watched, started again; their reports, added up."""

import asyncio
import os
import socket
import struct
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lbctl.gslb.worker import Report, Settings

AGAIN = 1.0  # seconds from one start of a worker to the next, at least
LONGEST = 64 << 20  # octets of a report


Key = tuple[str, str, str]  # of a counter: name, site, reason
Well = Callable[[], object]  # is called for each report
Start = Callable[[Well], Awaitable[None]]  # runs one worker until it ends


@dataclass(slots=True)
class Ledger:
    """What one worker's library counted, by number: adding up names would cost more than
    its queries can wait for, where both share a core. named: what the numbers stand for."""

    named: dict[int, Key] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)

    def take(self, report: Report) -> None:
        """Raises KeyError for a number that was never named, ValueError for half a one."""
        for number, (label, reason) in report.named.items():
            self.named[number] = _key(label, reason)
        found = dict(report.counters())
        if unnamed := found.keys() - self.named.keys():
            raise KeyError(f"counter {min(unnamed)} has no name")
        moved = self.moved
        for number, count in found.items():
            moved[number] = moved.get(number, 0) + count

    def empty(self) -> dict[Key, int]:
        """What has moved since the last time."""
        moved, self.moved = self.moved, {}
        return {self.named[number]: count for number, count in moved.items()}


@dataclass(slots=True)
class Tally:
    """What all workers have answered."""

    events: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    _answers: Counter[Key] = field(default_factory=Counter)
    _ledgers: list[Ledger] = field(default_factory=list)

    @property
    def answers(self) -> Counter[Key]:
        for ledger in self._ledgers:
            self._answers.update(ledger.empty())
        return self._answers

    def add(self, answers: Mapping[tuple[str, str], int], events: Mapping[str, int]) -> None:
        """What a responder of this process has harvested."""
        for (label, reason), count in answers.items():
            self._answers[_key(label, reason)] += count
        self.events.update(events)

    def open(self) -> Ledger:
        """For a worker that begins."""
        self._ledgers.append(Ledger())
        return self._ledgers[-1]

    def close(self, ledger: Ledger) -> None:
        """The worker has ended, or its numbers begin anew."""
        self._answers.update(ledger.empty())
        self._ledgers.remove(ledger)

    def take(self, report: Report, ledger: Ledger) -> Ledger:
        """Add a report; the ledger for the worker's next."""
        if report.anew:
            self.close(ledger)
            ledger = self.open()
        ledger.take(report)
        self.add({(label, reason): count for label, reason, count in report.answers}, report.events)
        return ledger


def _key(label: str, reason: str) -> Key:
    name, _, site = label.partition("\t")
    return name, site, reason


@asynccontextmanager
async def crew(
    directory: Path,
    settings: Settings,
    groups: Sequence[Sequence[socket.socket]],
    tally: Tally,
    errors: MutableMapping[str, str],
) -> AsyncIterator[None]:
    """Workers that answer from `directory`, one per socket of each group, while in the
    context. groups: per address, one socket for each worker. errors: what keeps a worker
    from its work now, by `worker N`."""

    def start(sockets: Sequence[socket.socket]) -> Start:
        return lambda well: _once(directory, settings, sockets, tally, well)

    tasks = [
        asyncio.create_task(_keep(f"worker {number}", start(sockets), tally, errors))
        for number, sockets in enumerate(zip(*groups, strict=True))
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(
    name: str, start: Start, tally: Tally, errors: MutableMapping[str, str], again: float = AGAIN
) -> None:
    """Run one worker again and again. Its sockets are ours: queries wait for the next. One
    that ran for a while is replaced at once; one that ends at its start does not spin. That
    it cannot be started (no memory, no descriptor) or reports nonsense does not end this."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            await start(lambda: errors.pop(name, None))
        except (OSError, ValueError, LookupError, msgspec.MsgspecError) as error:
            errors[name] = f"{name}: failed: {error!r} (started again every {again:g} s)"
        tally.restarts += 1
        await asyncio.sleep(max(0.0, started + again - loop.time()))


async def _spawn(
    directory: Path, settings: Settings, sockets: Sequence[socket.socket]
) -> tuple[Process, socket.socket]:
    """A worker, and where its reports come from. Raises OSError."""
    with ExitStack() as theirs:
        ours, report = socket.socketpair()
        theirs.enter_context(report)
        with ExitStack() as mine:
            mine.enter_context(ours)
            told, tell = os.pipe()
            theirs.callback(os.close, told)
            try:
                os.write(tell, msgspec.msgpack.encode(settings))
            finally:
                os.close(tell)
            passed = [told, report.fileno(), *(sock.fileno() for sock in sockets)]
            command = [sys.executable, "-m", "lbctl.gslb.worker", str(directory)]
            process = await asyncio.create_subprocess_exec(
                *command, *map(str, passed), pass_fds=passed
            )
            mine.pop_all()
    return process, ours


async def _once(
    directory: Path,
    settings: Settings,
    sockets: Sequence[socket.socket],
    tally: Tally,
    well: Well,
) -> None:
    """Run a worker until it ends, or says what it cannot mean: then it is ended."""
    process, ours = await _spawn(directory, settings, sockets)
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        await _listen(reader, tally, well)
        await process.wait()
    finally:
        writer.close()
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _listen(reader: asyncio.StreamReader, tally: Tally, well: Well) -> None:
    """Take a worker's reports until it ends. Raises for one that makes no sense."""
    ledger = tally.open()
    try:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            if length > LONGEST:
                raise ValueError(f"a report of {length} octets (at most {LONGEST})")
            message = await reader.readexactly(length)
            ledger = tally.take(msgspec.msgpack.decode(message, type=Report), ledger)
            well()
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return
    finally:
        tally.close(ledger)
