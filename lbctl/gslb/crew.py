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


@dataclass(slots=True)
class Tally:
    """What all workers have answered. answers: by (name, site, reason)."""

    answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    restarts: int = 0

    def take(self, report: Report) -> None:
        for label, reason, count in report.answers:
            name, _, site = label.partition("\t")
            self.answers[name, site, reason] += count
        self.events.update(report.events)


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
    while True:
        try:
            (length,) = struct.unpack("!I", await reader.readexactly(4))
            message = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return
        tally.take(msgspec.msgpack.decode(message, type=Report))
