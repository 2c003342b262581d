"""Requests to the kernel that take too long for the loop: setting a macvlan down waits for
the kernel's grace period, 12 ms and more, in which another router's advert may be due.

The thread has the loop's priority: both need the interpreter's lock, and an ordinary thread
that lost its processor while holding that lock would stop the loop for as long."""

import queue
import threading

from lbctl.vrrp import realtime
from lbctl.vrrp.netlink import Netlink

_STACK = 256 << 10  # bytes; all of it is locked memory


class Errands:
    """One thread that carries out requests in their order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._open = 0
        self._pace = realtime.pace()
        self._idle = threading.Condition()
        before = threading.stack_size(_STACK)
        self._thread = threading.Thread(target=self._work, name="errands", daemon=True)
        self._thread.start()
        threading.stack_size(before)

    def do(self, request: bytes) -> None:
        """Soon, without an answer: what is gone already needs no request."""
        with self._idle:
            self._open += 1
        self._queue.put(request)

    def wait(self) -> None:
        """Until all that was asked for is done."""
        with self._idle:
            self._idle.wait_for(lambda: self._open == 0)

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        realtime.keep_up(*self._pace)
        kernel = Netlink()
        while (request := self._queue.get()) is not None:
            kernel.do(request)
            with self._idle:
                self._open -= 1
                self._idle.notify_all()
        kernel.close()
