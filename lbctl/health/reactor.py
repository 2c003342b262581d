"""The probe worker's event loop: probes are coroutines, epoll wakes them, one heap of
deadlines ends them.

It is a loop of its own because a worker that only connects, waits and closes spends half
its time in asyncio's timers, futures and selectors (see ADR "The probe worker's loop"). A
probe may wait for one thing only:

    await news(sock, "connecting")

which returns when *something* happened on `sock`; the probe then tries, and waits again
when the kernel says EAGAIN. Each socket is registered once, edge-triggered.

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

from lbctl.health.result import Result, failure, late

Wait = tuple[int, str]  # the descriptor, and what is waited for in words
Conversation = Coroutine[Wait, None, str]  # a probe: returns `Result.detail`, or raises
Finished = Callable[[Result], None]

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
_BATCH = 1024  # events per look
_STALL = 0.1  # seconds that one turn may take without being made up for


@coroutine
def news(sock: socket, step: str) -> Generator[Wait, None, None]:
    """Wait until something happens on `sock`; `step` is told if it never does."""
    yield sock.fileno(), step


class Run:
    """One probe under way."""

    __slots__ = ("conversation", "deadline", "fd", "finished", "started", "step", "timeout")

    def __init__(self, conversation: Conversation, timeout: float, finished: Finished) -> None:
        self.conversation = conversation
        self.timeout = timeout
        self.finished = finished
        self.started = 0.0
        self.deadline = 0.0  # on the reactor's clock, which leaves stalls out
        self.fd = -1
        self.step = ""

    @property
    def under_way(self) -> bool:
        return self.fd >= 0


class Reactor:
    """Runs conversations, and calls back for descriptors that are watched."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._runs: dict[int, Run] = {}  # by descriptor
        self._watched: dict[int, Callable[[int], None]] = {}
        self._deadlines: list[tuple[float, int, Run]] = []
        self._count = 0
        self._stalled = 0.0  # seconds, in all

    def __len__(self) -> int:
        """Probes under way."""
        return len(self._runs)

    def watch(self, fd: int, callback: Callable[[int], None], events: int) -> None:
        """Call `callback(mask)` while any of `events` holds (level-triggered)."""
        if fd in self._watched:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._watched[fd] = callback

    def start(self, conversation: Conversation, timeout: float, finished: Finished) -> Run:
        """Run `conversation` for at most `timeout` seconds; then call `finished`, in a
        later turn or before this returns."""
        run = Run(conversation, timeout, finished)
        run.started = self._clock()
        run.deadline = run.started - self._stalled + timeout
        self._count += 1
        heapq.heappush(self._deadlines, (run.deadline, self._count, run))
        self._go_on(run)
        return run

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
        stall = self._clock() - began - patience
        if stall > _STALL:
            self._stalled += stall

    def close(self) -> None:
        for run in list(self._runs.values()):
            self.stop(run)
        self._epoll.close()

    def _next_deadline(self, otherwise: float) -> float:
        while self._deadlines and self._deadlines[0][2].fd < 0:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] + self._stalled if self._deadlines else otherwise

    def _expire(self, now: float) -> None:
        while self._next_deadline(now + 1) <= now:
            run = heapq.heappop(self._deadlines)[2]
            self.stop(run)
            run.finished(late(run.timeout, run.step))

    def _go_on(self, run: Run) -> None:
        try:
            fd, run.step = run.conversation.send(None)
        except StopIteration as done:
            self._end(run, Result(True, done.value, self._clock() - run.started))
        except Exception as error:
            # Also a fault of the probe itself: it becomes evidence on its own check and
            # does not take the ten thousand others down with the worker.
            self._end(run, failure(error, self._clock() - run.started))
        else:
            if fd != run.fd:
                self._runs.pop(run.fd, None)
                run.fd = fd
                self._runs[fd] = run
                self._epoll.register(fd, _EDGES)

    def _end(self, run: Run, result: Result) -> None:
        self._forget(run)
        run.finished(result)

    def _forget(self, run: Run) -> None:
        if run.fd >= 0:  # closing the socket takes it out of the epoll set
            del self._runs[run.fd]
            run.fd = -1
