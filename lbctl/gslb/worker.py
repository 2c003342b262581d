"""A worker process: one blocking loop over its UDP sockets.

    python -m lbctl.gslb.worker DIRECTORY SETTINGS_FD REPORT_FD SOCKET_FD...

It looks at the board before each batch, answers, and once a second reports its counters.
It ends when its parent does (PR_SET_PDEATHSIG) or on SIGTERM.
"""

import ctypes
import gc
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lbctl.gslb.answers import Answers, read_names
from lbctl.gslb.board import Numbers, Reader
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.datagrams import Datagrams
from lbctl.gslb.regions import read as read_regions
from lbctl.gslb.responder import Responder
from lbctl.gslb.rrl import RateLimit

PR_SET_PDEATHSIG = 1
PERIOD = 1.0  # seconds between reports


class Settings(msgspec.Struct, frozen=True):
    """What a worker is told at its start. secrets: of cookies."""

    limit: RateLimit
    secrets: tuple[bytes, ...]
    identity: bytes = b""


class Report(msgspec.Struct, frozen=True):
    """A worker's second. answers: (name TAB site, reason, count)."""

    answers: list[tuple[str, str, int]]
    events: dict[str, int]


class Worker:
    """A responder between a board and some sockets."""

    def __init__(self, directory: Path, settings: Settings, report: socket.socket) -> None:
        self.reader = Reader(directory)
        self.responder = Responder(settings.limit, Cookies(*settings.secrets), settings.identity)
        self._report_to = report
        self._have = Numbers(0, 0, 0)
        self._next_report = 0.0
        self._second = -1

    def refresh(self) -> None:
        """Take what is new on the board."""
        numbers = self.reader.fetch()
        if numbers is None:
            return
        try:
            answers = Answers(self.reader.open("answers", numbers.answers))
            if numbers[:2] == self._have[:2]:
                self.responder.swap(answers)
            else:
                names = read_names(self.reader.open("names", numbers.names))
                maps = read_regions(self.reader.open("networks", numbers.networks))
                self.responder.load(names, answers, maps)
        except FileNotFoundError:
            return  # replaced since: the board has changed again
        self._have = numbers
        gc.collect()
        gc.freeze()  # a collection would walk every slot: milliseconds in some query's way

    def tick(self) -> None:
        """Before each batch: time, news, and once a second the report."""
        now = time.monotonic()
        if int(now) != self._second:
            self._second = int(now)
            self.responder.tick(now, int(time.time()))
        if self.reader.changed:
            self.refresh()
        if now >= self._next_report:
            self._next_report = now + PERIOD
            self.report()

    def report(self) -> None:
        counted, events = self.responder.harvest()
        if not counted and not events:
            return
        lines = [(label, reason, count) for (label, reason), count in counted.items()]
        message = msgspec.msgpack.encode(Report(lines, events))
        # The parent reads in its own time; a stream, so that size does not matter.
        self._report_to.sendall(struct.pack("!I", len(message)) + message)

    def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve for ever."""
        answer = self.responder.reply
        groups = {sock.fileno(): Datagrams(sock) for sock in sockets}
        if len(groups) == 1:
            only = next(iter(groups.values()))
            only.socket.setblocking(True)
            only.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200_000)
            )
            while True:
                self.tick()
                only.serve(answer)
        poll = select.epoll()
        for descriptor, group in groups.items():
            group.socket.setblocking(False)
            poll.register(descriptor, select.EPOLLIN)
        while True:
            ready = poll.poll(0.2)
            self.tick()
            for descriptor, _ in ready:
                groups[descriptor].serve(answer)


def main(arguments: Sequence[str]) -> None:
    """See the module's head."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    directory, settings_fd, report_fd, *sockets = arguments
    with open(int(settings_fd), "rb") as file:
        settings = msgspec.msgpack.decode(file.read(), type=Settings)
    report = socket.socket(fileno=int(report_fd))
    worker = Worker(Path(directory), settings, report)
    worker.run([socket.socket(fileno=int(descriptor)) for descriptor in sockets])


if __name__ == "__main__":
    main(sys.argv[1:])
