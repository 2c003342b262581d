"""A probe worker as a real process, and real listeners on loopback for it to meet."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lbctl.health.files import open_for
from lbctl.messages import AnyMessage, Assign, Files, Job, ProbeNow, Pulse, Unframer, Verdict, frame
from lbctl.model import AnyProbe, Timing

PATIENCE = 10.0  # seconds; a slow machine is no failure
QUICK = Timing(interval=0.1, timeout=0.3, fall=3, rise=2, fast_interval=0.05)

Found = TypeVar("Found", bound=AnyMessage)
Connection = Callable[[socket.socket, threading.Event], None]  # what a server does with one


class Worker:
    """The process, and the daemon's end of its line."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair()
        self.line.settimeout(0.1)
        command = [sys.executable, "-m", "lbctl.health.worker"]
        self.process = subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True)
        theirs.close()
        self._unframer = Unframer()
        self.heard: list[AnyMessage] = []

    def tell(self, message: AnyMessage) -> None:
        self.line.sendall(frame(message))

    def check(self, probe: AnyProbe, endpoint: str, timing: Timing = QUICK, id: int = 1) -> None:
        # As the daemon does: the worker is nobody, and opens nothing.
        if probe.files:
            self.tell(Files(tuple(map(open_for, probe.files))))
        self.tell(Assign((Job(id, probe, endpoint, timing),)))

    def ask(self, id: int = 1) -> Verdict:
        """Have a check run at once; the answer, whatever was said before it."""
        self.tell(ProbeNow(id))
        return self.wait(lambda m: m if isinstance(m, Verdict) and m.asked and m.id == id else None)

    def verdict(self, id: int = 1) -> Verdict:
        """The next verdict on a check."""
        return self.wait(lambda m: m if isinstance(m, Verdict) and m.id == id else None)

    def pulse(self) -> Pulse:
        return self.wait(lambda m: m if isinstance(m, Pulse) else None)

    def wait(self, pick: Callable[[AnyMessage], Found | None]) -> Found:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            while self.heard:
                if (found := pick(self.heard.pop(0))) is not None:
                    return found
            with contextlib.suppress(TimeoutError):
                data = self.line.recv(1 << 16)
                assert data, f"the worker ended: {self.process.communicate()[1]}"
                self.heard += self._unframer.feed(data)
        raise AssertionError(f"nothing of that kind from the worker within {PATIENCE} s")

    def listen(self, seconds: float) -> None:
        """Let time go by, and keep what is said meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                self.heard += self._unframer.feed(self.line.recv(1 << 16))

    def end(self) -> tuple[int, str]:
        """Close the line; exit status and what it said on stderr."""
        self.line.close()
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said


class Server:
    """A listener on a loopback address of its own; `answer` handles each connection."""

    def __init__(self, answer: Connection | None = None, backlog: int = 64) -> None:
        self.accepted = 0
        self.stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._answer = answer
        self._threads: list[threading.Thread] = []
        if answer is not None:
            self._spawn(self._serve)

    @property
    def endpoint(self) -> str:
        address, port = self._listener.getsockname()
        return f"{address}:{port}"

    @property
    def address(self) -> tuple[str, int]:
        return self._listener.getsockname()

    def close(self) -> None:
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._spawn(self._handle, connection)

    def _handle(self, connection: socket.socket) -> None:
        assert self._answer is not None
        with connection, contextlib.suppress(OSError):  # the prober may hang up at any time
            connection.settimeout(PATIENCE)
            self._answer(connection, self.stopped)


# --- what servers do with a connection ----------------------------------------------------


def says(answer: bytes) -> Connection:
    def talk(connection: socket.socket, stopped: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    return talk


def resets(connection: socket.socket, stopped: threading.Event) -> None:
    connection.recv(4096)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hangs(connection: socket.socket, stopped: threading.Event) -> None:
    stopped.wait(PATIENCE)


def drips(connection: socket.socket, stopped: threading.Event) -> None:
    """A good answer, one byte at a time, slower than anybody's patience."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok":
        connection.send(bytes([byte]))
        if stopped.wait(0.05):
            return


def pours(connection: socket.socket, stopped: threading.Event) -> None:
    """A body without end."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not stopped.is_set():
        connection.sendall(b"x" * 8192)


def descriptors(process: subprocess.Popen[str]) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))
