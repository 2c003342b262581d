"""HTTP load on a lab: requests one can account for one by one, and wrk for mere pressure.

`send` and `sending` start this module as a program on a host; it tells each answer as one
line of JSON. An answer is a failure if it is not a whole `200` within `PATIENCE` seconds.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from lbctl.lab.kernel import LabError
from lbctl.lab.lab import Host, Process

PATIENCE = 10.0  # seconds for a connection, and for an answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. at: when it was sent, in monotonic seconds, which all
    hosts of a lab share. server: who answered. error: empty for a good answer."""

    number: int
    at: float
    took: float
    server: str = ""
    error: str = ""


# --- asking for load --------------------------------------------------------------------


class Pace(NamedTuple):
    """total: requests, 0: until stopped. per_connection: requests before a connection is
    closed. rate: requests a second altogether, 0: as fast as they are answered."""

    total: int = 0
    connections: int = 1
    per_connection: int = 1
    rate: float = 0.0


class Load:
    """Requests under way, or done."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def answers(self) -> list[Answer]:
        """Those that came so far, in the order in which they came."""
        lines = self._process.output().splitlines(keepends=True)
        return [Answer(**json.loads(line)) for line in lines if line.endswith("}\n")]

    def wait(self, timeout: float) -> list[Answer]:
        """All answers, when the load has ended by itself."""
        if self._process.wait(timeout) != 0:
            raise LabError(f"the load ended with an error: {self._process.output()[-500:]}")
        return self.answers()

    def stop(self) -> list[Answer]:
        """All answers; requests under way are waited for."""
        self._process.kill(signal.SIGTERM)
        return self.wait(2 * PATIENCE + 30)


def send(host: Host, url: str, pace: Pace, timeout: float = 60.0) -> list[Answer]:
    """Send `pace.total` requests from a host."""
    return _start(host, url, pace).wait(timeout)


@contextmanager
def sending(host: Host, url: str, pace: Pace) -> Iterator[Load]:
    """Requests from a host for as long as the block takes; they do not outlive it."""
    load = _start(host, url, pace)
    try:
        yield load
    finally:
        load.stop()


def failures(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.error]


def _start(host: Host, url: str, pace: Pace) -> Load:
    words = [sys.executable, "-m", "lbctl.lab.load", url, *(str(value) for value in pace)]
    return Load(host.start(words, log=f"load-{len(host.started)}.jsonl"))


# --- wrk --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wrk:
    """What wrk counted."""

    requests: int
    connect: int
    read: int
    write: int
    timeout: int
    status: int  # answers other than 2xx and 3xx

    @property
    def failed(self) -> int:
        return self.connect + self.read + self.write + self.timeout + self.status


class Pressure:
    """wrk at work on a host."""

    def __init__(self, process: Process) -> None:
        self._process, self.started = process, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.monotonic() - self.started

    def stop(self) -> Wrk:
        """End it; what it counted until now. Raises LabError, ValueError."""
        self._process.kill(signal.SIGINT)  # which makes it report
        self._process.wait()
        return parse_wrk(self._process.output())


@contextmanager
def pressing(host: Host, url: str, connections: int = 20, limit: int = 120) -> Iterator[Pressure]:
    """wrk from a host for as long as the block takes, at most `limit` seconds.

    url: with its port, or wrk looks `http` up in a file that small systems lack.
    """
    words = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{limit}s", url]
    process = host.start(words, log=f"wrk-{len(host.started)}.txt")
    try:
        yield Pressure(process)
    finally:
        process.kill(signal.SIGKILL)
        process.wait()


def parse_wrk(text: str) -> Wrk:
    """wrk's report. It names errors only if there were any. Raises ValueError."""
    total = re.search(r"(\d+) requests in ", text)
    if total is None:
        raise ValueError(f"no report of wrk: {text!r}")
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    connect, read, write, timeout = map(int, errors.groups()) if errors else (0, 0, 0, 0)
    status = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Wrk(int(total[1]), connect, read, write, timeout, int(status[1]) if status else 0)


# --- the program ------------------------------------------------------------------------


class _Client:
    """Sends requests at a pace and prints the answers."""

    def __init__(self, url: str, pace: Pace) -> None:
        parts = urlsplit(url)
        self.pace, self.stopped = pace, asyncio.Event()
        self.address, self.port = parts.hostname or "", parts.port or 80
        self.request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self.sent = 0
        self.started = time.monotonic()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopped.set)
        async with asyncio.TaskGroup() as group:
            for _ in range(self.pace.connections):
                group.create_task(self._connections())

    async def _connections(self) -> None:
        """One connection after the other."""
        while (number := await self._turn()) is not None:
            writer: asyncio.StreamWriter | None = None
            started = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection(self.address, self.port)
                await self._converse(number, started, reader, writer)
            except (OSError, TimeoutError) as error:
                _tell(Answer(number, started, time.monotonic() - started, error=_said(error)))
            finally:
                if writer is not None:
                    writer.close()

    async def _converse(
        self,
        number: int | None,
        started: float,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """The requests of one connection; `number` is the first, sent (with the connection
        that it needed) at `started`."""
        left = self.pace.per_connection
        while number is not None:
            left -= 1
            closing, server, error = await self._ask(reader, writer, last=left == 0)
            _tell(Answer(number, started, time.monotonic() - started, server, error))
            if error or closing or left == 0:
                return
            number, started = await self._turn(), time.monotonic()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: bool
    ) -> tuple[bool, str, str]:
        """One request: whether the server closes, who it is, what went wrong."""
        try:
            async with asyncio.timeout(PATIENCE):
                end = "Connection: close\r\n\r\n" if last else "\r\n"
                writer.write((self.request + end).encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                body = await reader.readexactly(int(_header(head, "content-length") or 0))
        except (OSError, TimeoutError, EOFError) as error:
            return True, "", _said(error)
        server = body.decode("latin-1").strip()
        status = head.partition("\r\n")[0]
        return _header(head, "connection") == "close", server, "" if " 200 " in status else status

    async def _turn(self) -> int | None:
        """The number of the next request, when its time has come; None: no more."""
        number = self.sent
        if self.stopped.is_set() or (self.pace.total and number >= self.pace.total):
            return None
        self.sent += 1
        if self.pace.rate:
            due = self.started + number / self.pace.rate
            try:
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await self.stopped.wait()
            except TimeoutError:
                return number
            return None
        return number


def _header(head: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r$", head, re.MULTILINE)
    return found[1] if found else ""


def _said(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return f"no answer in {PATIENCE:g} s"
        case EOFError():
            return "closed early"
        case OSError(errno=number) if number:
            return os.strerror(number).lower()
        case _:
            return type(error).__name__


def _tell(answer: Answer) -> None:
    print(json.dumps(asdict(answer)), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="lbctl.lab.load")
    parser.add_argument("url")
    for name, kind in Pace.__annotations__.items():
        parser.add_argument(name, type=kind)
    words = vars(parser.parse_args(argv))
    asyncio.run(_Client(words.pop("url"), Pace(**words)).run())


if __name__ == "__main__":
    main()
