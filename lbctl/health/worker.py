"""The probe worker: `python -m lbctl.health.worker`, started by the daemon.

It speaks `lbctl.messages` over the stream socket that it has as its standard input, holds
the checks it is told to, and ends when the other side closes. It decides nothing: what is
due and what results mean is the roster's, how a probe talks is the probe's.
"""

import gc
import random
import resource
import select
import signal
import sys
from functools import partial
from importlib.util import find_spec
from socket import socket
from time import monotonic

from lbctl.errors import Exit
from lbctl.health.outbox import Outbox
from lbctl.health.privileges import drop_to, name_process
from lbctl.health.probes import Instruments, Prepared, prepare
from lbctl.health.probes.command import account
from lbctl.health.reactor import Reactor, Run, Steps
from lbctl.health.result import Result, Unable, failure
from lbctl.health.roster import Roster
from lbctl.messages import AnyMessage, Assign, Files, Garbage, Job, ProbeNow, Unframer
from lbctl.model import Endpoint
from lbctl.spawner import fork as spawner_beside

PULSE = 1.0  # seconds
MOST_AT_ONCE = 8192  # probes under way
SPARE_FILES = 32  # descriptors that are no probe's
_PIECE = 256 << 10


class Worker:
    """One worker on its line to the daemon. room: probes that may be under way. spawner:
    the line to what runs the commands of `exec` checks."""

    def __init__(self, line: socket, room: int, spawner: socket | None = None) -> None:
        self._line = line
        self._room = room
        self._unframer = Unframer()
        self._outbox = Outbox()
        self._roster = Roster(random.random)
        self._reactor = Reactor(monotonic)
        self._shared = Instruments(self._reactor, spawner)
        self._prepared: dict[int, Prepared] = {}
        self._runs: dict[int, Run] = {}
        self._next_pulse = monotonic() + PULSE
        self._open = True
        self._waits_to_send = False

    def work(self) -> None:
        """Until the daemon closes the line. Raises Garbage where it sends what is no
        message for a worker."""
        self._reactor.watch(self._line.fileno(), self._on_line, select.EPOLLIN)
        turned = monotonic()
        while self._open:
            now = monotonic()
            self._start_due(now)
            self._beat(now)
            self._flush()
            until = self._next_pulse
            if len(self._runs) < self._room and (due := self._roster.deadline) is not None:
                until = min(until, due)
            self._reactor.excuse(monotonic() - turned)
            self._reactor.turn(until)
            turned = monotonic()
        self._reactor.close()

    # --- probes -------------------------------------------------------------------------

    def _start_due(self, now: float) -> None:
        for job in self._roster.due(now, self._room - len(self._runs)):
            try:
                prepared = self._prepared_for(job)
            except (ValueError, Unable) as error:
                self._finish(job.id, Result(None, str(error), 0.0))
                continue
            except Exception as error:
                # As in a run: one check's fault is its own, and the server was not asked.
                self._finish(job.id, Result(None, failure(error, 0.0).detail, 0.0))
                continue
            steps: Steps | None = [] if self._roster.asked(job.id) else None
            finished = partial(self._finish, job.id, steps=steps)
            run = self._reactor.start(prepared(), job.timing.timeout, finished, steps)
            if run.under_way:
                self._runs[job.id] = run

    def _prepared_for(self, job: Job) -> Prepared:
        prepared = self._prepared.get(job.id)
        if prepared is None:
            where = Endpoint.parse(job.endpoint, lowest=0)
            prepared = prepare(job.probe, where, job.timing.timeout, self._shared, job.mark)
            self._prepared[job.id] = prepared
        return prepared

    def _finish(self, id: int, result: Result, steps: Steps | None = None) -> None:
        self._runs.pop(id, None)
        if result.report is not None:
            reading = self._roster.reading(id, result.report)
            if reading is not None:
                self._outbox.reading(reading)
        verdict = self._roster.finish(id, result, steps or ())
        if verdict is not None:
            self._outbox.verdict(verdict)

    # --- the line -----------------------------------------------------------------------

    def _on_line(self, mask: int) -> None:
        if mask & ~select.EPOLLOUT:
            try:
                data = self._line.recv(_PIECE)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            self._open = bool(data)
            for message in self._unframer.feed(data):
                self._obey(message)

    def _obey(self, message: AnyMessage) -> None:
        now = monotonic()
        match message:
            case Assign():
                for id in self._roster.assign(message, now):
                    self._reactor.stop(self._runs.pop(id))
                if message.whole:
                    self._prepared.clear()  # made again where they are run again
                for id in (*message.cancel, *(job.id for job in message.start)):
                    self._prepared.pop(id, None)
            case Files(files):
                self._shared.files.take(files)
            case ProbeNow(id):
                if (verdict := self._roster.probe_now(id, now)) is not None:
                    self._outbox.verdict(verdict)
            case _:
                kind = type(message).__name__
                raise Garbage(f"{kind} is no message for a probe worker")

    def _beat(self, now: float) -> None:
        if now >= self._next_pulse:
            self._outbox.pulse(self._roster.pulse())
            self._next_pulse = now + PULSE

    def _flush(self) -> None:
        """Say what the line takes; be woken when it takes more."""
        try:
            while piece := self._outbox.next_piece():
                self._outbox.sent(self._line.send(piece))
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._open = False
        if bool(self._outbox) != self._waits_to_send:
            self._waits_to_send = not self._waits_to_send
            events = select.EPOLLIN | (select.EPOLLOUT if self._waits_to_send else 0)
            self._reactor.watch(self._line.fileno(), self._on_line, events)


def main() -> int:
    try:
        line = socket(fileno=sys.stdin.fileno())
    except OSError:
        print("lbctl probe: started by the daemon; stdin is not its socket", file=sys.stderr)
        return Exit.USAGE
    line.setblocking(False)
    name_process("lbctl-probe")
    spawner = spawner_beside(account())
    if stays := drop_to(account(), _sources()):
        print(f"lbctl probe: stays root, but without its powers: {stays}", file=sys.stderr)
    # Ctrl-C in a terminal reaches the whole group: it is the daemon's to act on, which
    # then closes the line.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = Worker(line, _room(), spawner)
    gc.freeze()  # what is loaded by now stays: no collection needs to look at it again
    try:
        worker.work()
    except Garbage as error:
        print(f"lbctl probe: garbage from the daemon: {error}", file=sys.stderr)
        return Exit.FAILED
    return Exit.OK


def _sources() -> list[str]:
    """Modules that are loaded when a probe first needs them."""
    found = (find_spec(name) for name in ("lbctl.health.probes.secure", "ssl"))
    return [spec.origin for spec in found if spec is not None and spec.origin is not None]


def _room() -> int:
    """Probes that may be under way, by the number of files that may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_AT_ONCE + SPARE_FILES
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(MOST_AT_ONCE, soft - SPARE_FILES))


if __name__ == "__main__":
    sys.exit(main())
