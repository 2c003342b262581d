"""A worker process: one blocking loop over its UDP sockets.

    python -m lbctl.gslb.worker DIRECTORY SETTINGS_FD REPORT_FD SOCKET_FD...

It looks at the board before each batch, answers, and reports its counters in numbers whose
names it tells once: a report is in some query's way.
It ends when its parent does (PR_SET_PDEATHSIG) or on SIGTERM.

It reads packets of strangers, in C, so it has no powers: it becomes `lbctl-gslb`, or else
`nobody`, without a capability. Its sockets are inherited; the board's directory is where it
stands (chdir), so that it need not be let through the directories above.
"""

import ctypes
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from lbctl.gslb.answers import REASONS, Answers, read_names
from lbctl.gslb.board import PARTS, Numbers, Reader
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.datagrams import Datagrams
from lbctl.gslb.native import Native
from lbctl.gslb.regions import read as read_regions
from lbctl.gslb.responder import Responder
from lbctl.gslb.rrl import RateLimit, Ruling, Window
from lbctl.health.privileges import drop_to, first_account

PR_SET_PDEATHSIG = 1
ACCOUNTS = ("lbctl-gslb", "nobody")  # the first that exists
PERIOD = 1.0  # seconds between reports
PATIENCE = 0.01  # seconds of batches without a look at the clock or the board


class Settings(msgspec.Struct, frozen=True):
    """What a worker is told at its start. secrets: of cookies."""

    limit: RateLimit
    secrets: tuple[bytes, ...]
    identity: bytes = b""
    library: str = ""  # of `native`; "": Python alone


class Report(msgspec.Struct, frozen=True):
    """What a worker did since its last. answers: (name TAB site, reason, count), of what
    Python answered. numbers, counts: the library's counters, as `Native.harvest` has them.
    named: what (name TAB site, reason) a number stands for, where no report has said so;
    anew: what they said is void."""

    answers: list[tuple[str, str, int]]
    events: dict[str, int]
    numbers: bytes = b""
    counts: bytes = b""
    named: dict[int, tuple[str, str]] = {}
    anew: bool = False

    @property
    def empty(self) -> bool:
        return not (self.answers or self.events or self.numbers)

    def counters(self) -> Iterator[tuple[int, int]]:
        """(number, by how much it moved)."""
        return zip(array("I", self.numbers), array("Q", self.counts), strict=True)


class MeteredWindow(Window):
    """The rate limit by the library's meters, which count both ways' replies."""

    def __init__(self, limit: RateLimit, native: Native) -> None:
        super().__init__(limit)
        self._native = native

    def rule(self, network: bytes, *, error: bool) -> Ruling:
        return self._native.rule(network, error=error)


class Worker:
    """A responder between a board and some sockets."""

    def __init__(self, directory: Path, settings: Settings, report: socket.socket) -> None:
        self.reader = Reader(directory)
        self.responder = Responder(settings.limit, Cookies(*settings.secrets), settings.identity)
        self._report_to = report
        self.native: Native | None = None
        if settings.library:
            self.native = Native(Path(settings.library), settings.limit, settings.secrets[0])
            self.native.watch(self.reader.board)
            self.responder.window = MeteredWindow(settings.limit, self.native)
        self._have = Numbers(0, 0, 0)
        self._answers: Answers | None = None
        self._named: set[int] = set()  # counters whose names the parent knows
        self._anew = False
        self._waiting = bytearray()  # reports that the parent has not taken
        self._next_report = 0.0
        self._second = -1

    def refresh(self) -> None:
        """Take what is new on the board."""
        numbers = self.reader.fetch()
        if numbers is None:
            return
        same = numbers[:2] == self._have[:2]
        try:
            answers = Answers(self.reader.open("answers", numbers.answers))
            if self.native is not None:
                while self._collect():  # the numbers of counters change
                    pass
                names_path, networks_path, answers_path = (
                    self.reader.path(part, number)
                    for part, number in zip(PARTS, numbers, strict=True)
                )
                if same:
                    self.native.load(None, None, answers_path)
                else:
                    self.native.load(names_path, networks_path, answers_path)
            if same:
                self.responder.swap(answers)
            else:
                names = read_names(self.reader.open("names", numbers.names))
                maps = read_regions(self.reader.open("networks", numbers.networks))
                self.responder.load(names, answers, maps)
        except FileNotFoundError:
            return  # replaced since: the board has changed again
        self._have = numbers
        if self.native is not None:
            self.native.seen(self.reader.seen)
        self._answers = answers
        self._named.clear()
        self._anew = True
        gc.collect()
        gc.freeze()  # a collection would walk every slot: milliseconds in some query's way

    def news(self) -> None:
        """Take what is new on the board, if anything is."""
        if self.reader.changed:
            self.refresh()

    def tick(self) -> None:
        """Between batches: time, news, and now and then a report."""
        now = time.monotonic()
        if int(now) != self._second:
            self._second = int(now)
            unix = int(time.time())
            self.responder.tick(now, unix)
            if self.native is not None:
                self.native.tick(self._second, unix)
        self.news()
        if now >= self._next_report:
            self._next_report = now + PERIOD
            self.report()

    def _gather(self) -> Report:
        """What was done since the last time."""
        numbers = counts = b""
        named: dict[int, tuple[str, str]] = {}
        if self.native is not None and self._answers is not None:
            numbers, counts = self.native.harvest()
            for number in set(array("I", numbers)) - self._named:
                choice, reason = divmod(number, 16)
                named[number] = self._answers.label(choice), REASONS[reason]
            self._named.update(named)
            if dropped := self.native.dropped:
                self.responder.events["limited"] += dropped
        counted, events = self.responder.harvest()
        answers = [(label, reason, count) for (label, reason), count in counted.items()]
        return Report(answers, events, numbers, counts, named, self._anew)

    def report(self) -> None:
        """Tell the parent, which reads in its own time; a stream, so that size does not
        matter. What it has no room for now waits here, and what is new stays in the counters:
        no query waits for the parent."""
        if self._flush():
            self._collect()
            self._flush()

    def _collect(self) -> bool:
        """Put a report behind those that wait. Was there anything to tell?"""
        report = self._gather()
        if report.empty:
            return False
        self._anew = False
        message = msgspec.msgpack.encode(report)
        self._waiting += struct.pack("!I", len(message)) + message
        return True

    def _flush(self) -> bool:
        """Send what waits. Is all of it sent?"""
        while self._waiting:
            try:
                sent = self._report_to.send(self._waiting, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            del self._waiting[:sent]
        return True

    def _serve(self, group: Datagrams, patience: float = 0.0) -> None:
        if self.native is None:
            group.serve(self.responder.reply, self.news)
        else:
            reply, slip = self.responder.reply, self.responder.slip
            group.serve_natively(self.native, reply, slip, self.news, patience)

    def run(self, sockets: Sequence[socket.socket]) -> None:
        """Serve for ever."""
        groups = {sock.fileno(): Datagrams(sock) for sock in sockets}
        if len(groups) == 1:
            only = next(iter(groups.values()))
            only.socket.setblocking(True)
            only.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200_000)
            )
            while True:
                self.tick()
                self._serve(only, PATIENCE)
        poll = select.epoll()
        for descriptor, group in groups.items():
            group.socket.setblocking(False)
            poll.register(descriptor, select.EPOLLIN)
        while True:
            ready = poll.poll(0.2)
            self.tick()
            for descriptor, _ in ready:
                self._serve(groups[descriptor])


def main(arguments: Sequence[str]) -> None:
    """See the module's head."""
    parent = os.getppid()
    directory, settings_fd, report_fd, *sockets = arguments
    with open(int(settings_fd), "rb") as file:
        settings = msgspec.msgpack.decode(file.read(), type=Settings)
    report = socket.socket(fileno=int(report_fd))
    os.chdir(directory)
    worker = Worker(Path(), settings, report)  # loads the library, which nobody may be barred from
    if stays := drop_to(first_account(ACCOUNTS), ["board"], raw=False):
        print(f"lbctl gslb: a worker stays root, but without its powers: {stays}", file=sys.stderr)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a change of user clears it
    if os.getppid() != parent:
        return
    worker.run([socket.socket(fileno=int(descriptor)) for descriptor in sockets])


if __name__ == "__main__":
    main(sys.argv[1:])
