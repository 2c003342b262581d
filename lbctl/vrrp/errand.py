"""What takes too long for the loop: setting a macvlan down, or closing a packet socket, waits
for the kernel's grace period, 12 ms and more, in which another router's advert may be due.

The thread has the loop's priority: both need the interpreter's lock, and an ordinary thread
that lost its processor while holding that lock would stop the loop for as long."""

import queue
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress

from lbctl.vrrp import realtime
from lbctl.vrrp.netlink import Netlink

_STACK = 256 << 10  # bytes; all of it is locked memory


Errand = bytes | Callable[[], None]


class Errands:
    """One thread that carries out errands in their order. device: what one is about."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Errand, str] | None] = queue.SimpleQueue()
        self._open: Counter[str] = Counter()
        self._pace = realtime.pace()
        self._done = threading.Condition()
        self._failure: BaseException | None = None
        before = threading.stack_size(_STACK)
        self._thread = threading.Thread(target=self._work, name="errands", daemon=True)
        self._thread.start()
        threading.stack_size(before)

    def do(self, errand: Errand, device: str) -> None:
        """Soon: a request to netlink, without an answer, since what is gone already needs
        none; or a call."""
        with self._done:
            self._open[device] += 1
        self._queue.put((errand, device))

    def wait(self, device: str) -> None:
        """Until all that was asked for about `device` is done. Raises what the thread
        ended with."""
        with self._done:
            self._done.wait_for(lambda: self._open[device] == 0 or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            self._carry_out()
        except BaseException as error:
            with self._done:
                self._failure = error
                self._done.notify_all()

    def _carry_out(self) -> None:
        realtime.keep_up(*self._pace)
        with closing(Netlink()) as kernel:
            while (order := self._queue.get()) is not None:
                errand, device = order
                with suppress(OSError):
                    if isinstance(errand, bytes):
                        kernel.do(errand)
                    else:
                        errand()
                with self._done:
                    self._open[device] -= 1
                    self._done.notify_all()
