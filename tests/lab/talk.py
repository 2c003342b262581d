"""Two ends of many TCP connections, as one program on the standard library alone.

    talk.py serve NAME PORT
    talk.py call ADDRESS PORT LONG RATE [IDLE]

A server answers every line with its name. A caller holds LONG connections that ask every
second or so, IDLE that ask only when they are opened and at the end, and opens
RATE new ones a second, each for one question. It prints a line of
JSON for every connection that broke, and on TERM one with what it counted. On USR1 all that
are not idle ask at once, and a line tells when the last was answered or broke. It is ready
when each that it holds was answered, or was not. Times are monotonic seconds, which all hosts
of a lab share.
"""

import asyncio
import json
import random
import resource
import signal
import socket
import sys
import time
from contextlib import suppress

PATIENCE = 8.0  # seconds for an answer: several retransmissions


class Answering(asyncio.Protocol):
    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.name * data.count(b"\n"))


async def serve(name: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    answer = f"{name}\n".encode()
    server = await loop.create_server(lambda: Answering(answer), "0.0.0.0", port, backlog=4096)
    await server.serve_forever()


class Caller:
    def __init__(self, address: str, port: int, long: int, rate: float, idle: int = 0) -> None:
        self.to, self.long, self.rate, self.idle = (address, port), long, rate, idle
        self.stopped, self.bell = asyncio.Event(), asyncio.Event()
        self.rounds = 0
        self.held: set[socket.socket] = set()  # of those that ask
        self.awaited: set[socket.socket] = set()  # of those, who have yet to ask in this round
        self.untried, self.tried = long + idle, asyncio.Event()  # of those that are held
        self.count = {"new": 0, "asked": 0, "long": 0, "open": 0}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGUSR1, self.ring)
        started = time.monotonic()
        tasks = set()
        for number in range(self.long + self.idle):
            tasks.add(asyncio.create_task(self.hold(idle=number >= self.long)))
            await asyncio.sleep(0 if number % 20 else 0.05)
        if self.untried:
            await self.tried.wait()
        print(json.dumps({"ready": time.monotonic()}), flush=True)
        number = 0
        while not self.stopped.is_set():
            due = started + number / self.rate
            if (ahead := due - time.monotonic()) > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stopped.wait(), ahead)
                continue
            if due < time.monotonic() - 1:  # what was missed is not made up for in a burst
                started = time.monotonic() - number / self.rate
            number += 1
            task = asyncio.create_task(self.once())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        print(json.dumps({"counted": self.count}), flush=True)

    def stop(self) -> None:
        self.stopped.set()
        self.bell.set()

    def ring(self) -> None:
        """A round begins."""
        self.rounds += 1
        self.awaited = set(self.held)
        bell, self.bell = self.bell, asyncio.Event()
        bell.set()

    def through(self, connection: socket.socket) -> None:
        """It was answered, or broke; who is the last one says so."""
        if connection in self.awaited:
            self.awaited.remove(connection)
            if not self.awaited:
                print(json.dumps({"round": self.rounds}), flush=True)

    async def hold(self, idle: bool = False) -> None:
        """A connection for as long as there is time; the next one when it breaks."""
        first = True
        while not self.stopped.is_set():
            opened, server = time.monotonic(), ""
            with socket.socket() as connection:
                connection.setblocking(False)
                try:
                    try:
                        server = await self.ask(connection, first=True)
                    finally:
                        self.try_is_over(first)
                        first = False
                    self.count["long"] += 1
                    await (self.sleep_on if idle else self.go_on)(connection, server)
                    self.count["open"] += 1
                except (OSError, TimeoutError) as error:
                    kind = "long" if server else "new"
                    told = {"kind": kind, "at": opened, "server": server, "error": said(error)}
                    print(json.dumps({**told, "ended": time.monotonic()}), flush=True)
                    await asyncio.sleep(0.1)

    def try_is_over(self, first: bool) -> None:
        """One that is to be held was answered, or was not."""
        self.untried -= first
        if not self.untried:
            self.tried.set()

    async def go_on(self, connection: socket.socket, server: str) -> None:
        self.held.add(connection)
        asked = self.rounds
        try:
            while not self.stopped.is_set():
                if asked == self.rounds:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.bell.wait(), random.uniform(0.5, 2.5))
                asked = self.rounds
                self.count["asked"] += 1
                if (other := await self.ask(connection)) != server:
                    raise OSError(f"{other} answers instead of {server}")
                if asked == self.rounds:
                    self.through(connection)
        finally:
            self.held.discard(connection)
            self.through(connection)

    async def sleep_on(self, connection: socket.socket, server: str) -> None:
        await self.stopped.wait()
        self.count["asked"] += 1
        if (other := await self.ask(connection)) != server:
            raise OSError(f"{other} answers instead of {server}")

    async def once(self) -> None:
        opened = time.monotonic()
        self.count["new"] += 1
        with socket.socket() as connection:
            connection.setblocking(False)
            try:
                await self.ask(connection, first=True)
            except (OSError, TimeoutError) as error:
                told = {"kind": "new", "at": opened, "server": "", "error": said(error)}
                print(json.dumps({**told, "ended": time.monotonic()}), flush=True)

    async def ask(self, connection: socket.socket, first: bool = False) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            if first:
                await loop.sock_connect(connection, self.to)
            await loop.sock_sendall(connection, b"?\n")
            answer = await loop.sock_recv(connection, 100)
        if not answer:
            raise OSError("closed early")
        return answer.decode().strip()


def said(error: BaseException) -> str:
    return f"no answer in {PATIENCE:g} s" if isinstance(error, TimeoutError) else str(error)


def main() -> None:
    role, where, port, *rest = sys.argv[1:]
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    if role == "serve":
        asyncio.run(serve(where, int(port)))
    else:
        long, rate, *idle = rest
        asyncio.run(Caller(where, int(port), int(long), float(rate), *map(int, idle)).run())


if __name__ == "__main__":
    main()
