"""The worker processes: started, watched, started again; their reports, added up."""

import asyncio
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lbctl.gslb.worker import Report, Settings

AGAIN = 1.0  # seconds from one start of a worker to the next, at least


Key = tuple[str, str, str]  # of a counter: name, site, reason


@dataclass(slots=True)
class Ledger:
    """What one worker's library counted, by number: adding up names would cost more than
    its queries can wait for, where both share a core. named: what the numbers stand for."""

    named: dict[int, Key] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)

    def take(self, report: Report) -> None:
        """Raises KeyError for a number that was never named."""
        for number, (label, reason) in report.named.items():
            self.named[number] = _key(label, reason)
        moved = self.moved
        for number, count in report.counters():
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
        for label, reason, count in report.answers:
            self._answers[_key(label, reason)] += count
        self.events.update(report.events)
        return ledger


def _key(label: str, reason: str) -> Key:
    name, _, site = label.partition("\t")
    return name, site, reason


@asynccontextmanager
async def crew(
    directory: Path, settings: Settings, groups: Sequence[Sequence[socket.socket]], tally: Tally
) -> AsyncIterator[None]:
    """Workers that answer from `directory`, one per socket of each group, while in the
    context. groups: per address, one socket for each worker."""
    tasks = [
        asyncio.create_task(_keep(directory, settings, sockets, tally), name=f"worker {number}")
        for number, sockets in enumerate(zip(*groups, strict=True))
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(
    directory: Path, settings: Settings, sockets: Sequence[socket.socket], tally: Tally
) -> None:
    """Run one worker again and again. Its sockets are ours: queries wait for the next. One
    that ran for a while is replaced at once; one that ends at its start does not spin."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        await _once(directory, settings, sockets, tally)
        tally.restarts += 1
        await asyncio.sleep(max(0.0, started + AGAIN - loop.time()))


async def _once(
    directory: Path, settings: Settings, sockets: Sequence[socket.socket], tally: Tally
) -> None:
    ours, theirs = socket.socketpair()
    told, tell = os.pipe()
    os.write(tell, msgspec.msgpack.encode(settings))
    os.close(tell)
    passed = [told, theirs.fileno(), *(sock.fileno() for sock in sockets)]
    command = [sys.executable, "-m", "lbctl.gslb.worker", str(directory), *map(str, passed)]
    process = await asyncio.create_subprocess_exec(*command, pass_fds=passed)
    os.close(told)
    theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        await _listen(reader, tally)
        await process.wait()
    finally:
        writer.close()
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _listen(reader: asyncio.StreamReader, tally: Tally) -> None:
    """Take a worker's reports until it ends."""
    ledger = tally.open()
    try:
        while True:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            message = await reader.readexactly(length)
            ledger = tally.take(msgspec.msgpack.decode(message, type=Report), ledger)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return
    finally:
        tally.close(ledger)
