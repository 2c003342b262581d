"""A client of a pair of gateways during a drill, on the standard library of any Python 3.8.

    python3 - TARGET,... EVERY HELD LIMIT < probe.py

`lbctl ha failover --drill` sends it to a machine that reaches the virtual addresses as
clients do; nothing is installed there. It holds HELD connections, opens one more every EVERY
seconds, and says ten times a second what became of them, one line of JSON each
(`lbctl.ha.drill.Beat`). It ends after LIMIT seconds, or when nobody reads any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
import time
from contextlib import suppress

PATIENCE = 0.5  # seconds; lbctl.ha.drill says why
BEAT = 0.1
OPENING = 3.0  # seconds for a connection that is to be held
ENDED = "closed"
LAST_ACK = struct.Struct("=56xI")  # tcpi_last_ack_recv of linux/tcp.h's tcp_info
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 30),
)


class Held:
    """A connection that is only there. word: "" while it is open."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.word = ""

    async def open(self, target: tuple[str, int]) -> None:
        try:
            self.socket = new_socket(target)
            for option in KEEPALIVE:
                self.socket.setsockopt(*option)
            await connect(self.socket, target, OPENING)
        except OSError as error:
            self.word = said(error)

    def look(self) -> tuple[int, str]:
        """Milliseconds since its server was heard, and how it is."""
        if self.word or self.socket is None:
            return 0, self.word
        try:
            while self.socket.recv(65536):
                pass
            self.word = ENDED
        except BlockingIOError:
            pass
        except OSError as error:
            self.word = said(error)
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_ACK.size)
        return LAST_ACK.unpack(info)[0], self.word


class Client:
    def __init__(self, targets: list[tuple[str, int]], every: float) -> None:
        self.targets, self.every = targets, every
        self.probes: list[tuple[float, str]] = []
        self.held: list[Held] = []

    async def run(self, held: int, limit: float) -> None:
        for number in range(held):
            one = Held()
            self.held.append(one)
            await one.open(self.targets[number % len(self.targets)])
        tasks = [asyncio.ensure_future(self.probe_on()), asyncio.ensure_future(self.tell_on())]
        done, _ = await asyncio.wait(tasks, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def probe_on(self) -> None:
        running, due, number = set(), time.monotonic(), 0
        while True:
            task = asyncio.ensure_future(self.probe(self.targets[number % len(self.targets)]))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            due = max(due + self.every, time.monotonic() - 1)  # what was missed stays missed
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def probe(self, target: tuple[str, int]) -> None:
        begun, why = time.monotonic(), ""
        try:
            with new_socket(target) as one:
                # An RST at its end: no TIME_WAIT on either side.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await connect(one, target, PATIENCE)
        except OSError as error:
            why = said(error)
        self.probes.append((begun, why))

    async def tell_on(self) -> None:
        while True:
            probes, self.probes = self.probes, []
            beat = {"probes": probes, "held": [one.look() for one in self.held]}
            print(json.dumps(beat), flush=True)
            await asyncio.sleep(BEAT)


def new_socket(target: tuple[str, int]) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    one.setblocking(False)
    return one


async def connect(one: socket.socket, target: tuple[str, int], patience: float) -> None:
    """Raises OSError."""
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(one, target), patience)
    except asyncio.TimeoutError:  # noqa: UP041 -- not the built-in one before Python 3.11
        raise OSError(f"no answer within {patience:g} s") from None


def said(error: OSError) -> str:
    return error.strerror or str(error)


def main() -> None:
    targets, every, held, limit = sys.argv[1:]
    places = []
    for text in targets.split(","):
        address, _, port = text.rpartition(":")
        places.append((address.strip("[]"), int(port)))
    with suppress(BrokenPipeError):
        asyncio.run(Client(places, float(every)).run(int(held), float(limit)))
    os._exit(0)  # nobody reads: there is nothing to flush


if __name__ == "__main__":
    main()
