"""The probe worker's event loop: probes are coroutines, epoll wakes them, one heap of
deadlines ends them.

It is a loop of its own because a worker that only connects, waits and closes spends half
its time in asyncio's timers, futures and selectors (see ADR "The probe worker's loop"). A
probe may wait for one thing only:

    await news(sock, "connecting")

which returns when *something* happened on `sock`; the probe then tries, and waits again
when the kernel says EAGAIN. Each socket is registered once, edge-triggered. Probes that
share one socket (ICMP) wait for a `Bell` of their own, which the socket's callback rings.

Three rules keep it honest:

* nothing is started while events are handed out, so an event never meets a stranger that
  got the same descriptor number;
* a probe is late only if its deadline had passed before the loop last asked the kernel
  for news and got all of it: an answer that lay ready in time is never called late;
* time in which this process itself did not run does not count against any server.
"""

import heapq
import select
from collections.abc import Callable, Coroutine, Generator
from socket import socket
from time import monotonic
from types import coroutine
from typing import NamedTuple

from lbctl.health.result import Found, Result, failure, late, success


class Wait(NamedTuple):
    """What a probe waits for. sock: None where it is a bell. silent: what to say if nothing
    comes and that is good ("": then it is late)."""

    sock: socket | None
    step: str
    silent: str = ""
    bell: "Bell | None" = None


Conversation = Coroutine[Wait, None, "Found | str"]  # a probe: returns what it found, or raises
Finished = Callable[[Result], None]
Steps = list[tuple[float, str]]  # seconds since the start, and what was waited for then

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
_BATCH = 1024  # events per look
_STALL = 0.1  # seconds that one turn may take without being made up for


@coroutine
def news(sock: socket, step: str, silent: str = "") -> Generator[Wait, None, None]:
    """Wait until something happens on `sock`; `step` is told if it never does, unless
    `silent` says that this is good."""
    yield Wait(sock, step, silent)


class Bell:
    """What one probe waits for, and somebody else's callback rings."""

    __slots__ = ("run",)

    def __init__(self) -> None:
        self.run: Run | None = None


@coroutine
def rung(bell: Bell, step: str) -> Generator[Wait, None, None]:
    """Wait until `bell` is rung."""
    yield Wait(None, step, bell=bell)


class Run:
    """One probe under way. steps: kept where somebody wants to see them."""

    __slots__ = (
        *("conversation", "deadline", "fd", "finished", "silent", "sock", "started", "step"),
        *("steps", "timeout", "under_way"),
    )

    def __init__(
        self,
        conversation: Conversation,
        timeout: float,
        finished: Finished,
        steps: Steps | None = None,
    ) -> None:
        self.conversation = conversation
        self.timeout = timeout
        self.finished = finished
        self.steps = steps
        self.started = 0.0
        self.deadline = 0.0  # on the reactor's clock, which leaves stalls out
        self.sock: socket | None = None
        self.fd = -1
        self.step = ""
        self.silent = ""
        self.under_way = False


class Reactor:
    """Runs conversations, and calls back for descriptors that are watched."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._runs: dict[int, Run] = {}  # by descriptor
        self._ringers: set[Run] = set()  # those that wait for a bell
        self._watched: dict[int, Callable[[int], None]] = {}
        self._deadlines: list[tuple[float, int, Run]] = []
        self._count = 0
        self._stalled = 0.0  # seconds, in all

    def __len__(self) -> int:
        """Probes under way."""
        return len(self._runs) + len(self._ringers)

    def watch(self, fd: int, callback: Callable[[int], None], events: int) -> None:
        """Call `callback(mask)` while any of `events` holds (level-triggered)."""
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._watched[fd] = callback

    def start(
        self,
        conversation: Conversation,
        timeout: float,
        finished: Finished,
        steps: Steps | None = None,
    ) -> Run:
        """Run `conversation` for at most `timeout` seconds; then call `finished`, in a
        later turn or before this returns. steps: a list that its steps are added to."""
        run = Run(conversation, timeout, finished, steps)
        run.started = self._clock()
        run.deadline = run.started - self._stalled + timeout
        self._count += 1
        heapq.heappush(self._deadlines, (run.deadline, self._count, run))
        self._go_on(run)
        return run

    def ring(self, bell: Bell) -> None:
        """Wake the probe that waits for `bell`, if one still does."""
        if (run := bell.run) is not None and run.under_way:
            self._go_on(run)

    def stop(self, run: Run) -> None:
        """End a run without a result."""
        self._forget(run)
        run.conversation.close()

    def turn(self, until: float) -> None:
        """Wait for news, until `until` at most, and hand it out."""
        began = self._clock()
        patience = max(0.0, min(until, self._next_deadline(until)) - began)
        events = self._epoll.poll(patience, _BATCH)
        for fd, mask in events:
            if (run := self._runs.get(fd)) is not None:
                self._go_on(run)
            elif (callback := self._watched.get(fd)) is not None:
                callback(mask)
        if len(events) < _BATCH:
            self._expire(began)
        self.excuse(self._clock() - began - patience)

    def excuse(self, seconds: float) -> None:
        """This process did not run for so long, or had other things to do: if that is more
        than a moment, every probe has so much longer."""
        if seconds > _STALL:
            self._stalled += seconds

    def close(self) -> None:
        for run in [*self._runs.values(), *self._ringers]:
            self.stop(run)
        self._epoll.close()

    def _next_deadline(self, otherwise: float) -> float:
        while self._deadlines and not self._deadlines[0][2].under_way:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] + self._stalled if self._deadlines else otherwise

    def _expire(self, now: float) -> None:
        while self._next_deadline(now + 1) <= now:
            run = heapq.heappop(self._deadlines)[2]
            self.stop(run)
            if run.silent:
                run.finished(Result(True, run.silent, run.timeout))
            else:
                run.finished(late(run.timeout, run.step))

    def _go_on(self, run: Run) -> None:
        try:
            wait = run.conversation.send(None)
        except StopIteration as done:
            self._end(run, success(done.value, self._clock() - run.started))
        except Exception as error:
            # Also a fault of the probe itself: it becomes evidence on its own check and
            # does not take the ten thousand others down with the worker.
            self._end(run, failure(error, self._clock() - run.started))
        else:
            self._wait(run, wait)

    def _wait(self, run: Run, wait: Wait) -> None:
        sock, run.step, run.silent, bell = wait
        run.under_way = True
        if run.steps is not None:
            run.steps.append((self._clock() - run.started, run.step))
        if bell is not None:
            bell.run = run
            self._ringers.add(run)
        elif sock is not None and sock is not run.sock:
            self._runs.pop(run.fd, None)
            run.sock, run.fd = sock, sock.fileno()
            self._runs[run.fd] = run
            try:
                self._epoll.register(run.fd, _EDGES)
            except FileExistsError:  # kept since an earlier probe, or TLS began on it
                self._epoll.modify(run.fd, _EDGES)

    def _end(self, run: Run, result: Result) -> None:
        self._forget(run)
        run.finished(result)

    def _forget(self, run: Run) -> None:
        run.under_way = False
        if run.fd >= 0:  # closing the socket takes it out of the epoll set
            del self._runs[run.fd]
            run.sock, run.fd = None, -1
        if self._ringers:
            self._ringers.discard(run)
