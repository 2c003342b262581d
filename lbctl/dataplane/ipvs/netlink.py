"""The generic netlink socket to IPVS.

Requests go out many at a time, and behind the last of a batch a message without meaning
asks for an answer: the kernel handles a batch in order before sendmsg() returns, and of the
requests it answers only those that failed. A table of ten thousand lines takes some two
hundred system calls.

Plain sockets and not pyroute2: ADR 0020 has the numbers.
"""

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from struct import pack
from typing import Self, TypeVar

from lbctl.dataplane.ipvs.codec import Command
from lbctl.dataplane.ipvs.genl import (
    ACK,
    CONTROL,
    DONE,
    DUMP,
    ERROR,
    FAMILY_ID,
    FAMILY_NAME,
    GET_FAMILY,
    INTERRUPTED,
    Reply,
    attribute,
    attributes,
    message,
    nothing,
    number,
    replies,
)
from lbctl.dataplane.ipvs.operation import Request
from lbctl.errors import DataPlaneError, NotPermitted, Unsupported

Result = TypeVar("Result")

NETLINK_GENERIC = 16
SOL_NETLINK, CAP_ACK = 270, 10
SO_RCVBUFFORCE = 33
BATCH = 60_000  # bytes; a socket's default send buffer takes 200 KiB
MEMORY = 4 << 20  # for the answers to one batch, were every request of it refused
PATIENCE = 10  # seconds for one answer; IPVS waits for RCU when a service goes
TRIES = 5
LOADING = 30  # seconds for modprobe
NUMBERS = 0xFFFFFFFF  # sequence numbers begin again after the last


class Overrun(Exception):
    """Answers were lost, or what was dumped changed meanwhile."""


class Netlink:
    """Requests to one generic netlink family. Not thread-safe.

    sent: requests by command since it was opened; what an operator calls writes.
    """

    def __init__(self, link: socket.socket, family: int) -> None:
        self.sent: dict[Command, int] = {}
        self._socket = link
        self._family = family
        self._sequence = 0
        self._buffer = bytearray(65536)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def write(self, requests: Sequence[Request]) -> list[int]:
        """Send `requests` in order; the errno of each. 0: done, or, where the kernel had to
        drop its answers or was interrupted, unknown: whoever must be sure reads back."""
        for command, _ in requests:
            self.sent[command] = self.sent.get(command, 0) + 1
        results: list[int] = []
        for first, last in _batches(requests):
            try:
                results += self._write(requests[first:last])
            except Overrun:
                self._discard()
                results += [0] * (last - first)
        return results

    def dump(self, command: Command, body: bytes = b"") -> list[memoryview]:
        """All that a GET command lists: the attributes of each message.

        Raises DataPlaneError when it stays torn after several tries, OSError as the
        kernel refused it."""
        return self._retried(lambda: self._dump(command, body))

    def ask(self, command: int, body: bytes = b"") -> memoryview:
        """The attributes of a command's one answer."""
        return self._retried(lambda: self._ask(command, body))

    # --- how ----------------------------------------------------------------------------

    def _write(self, requests: Sequence[Request]) -> list[int]:
        first = self._next()
        parts = [
            message(self._family, 0, (first + position) & NUMBERS, command, body)
            for position, (command, body) in enumerate(requests)
        ]
        # Not the last request itself: the kernel says nothing to one that came to EINTR
        # (netlink_rcv_skb()), as when a sync thread is stopped before it first ran.
        end = (first + len(requests)) & NUMBERS
        parts.append(nothing(ACK, end))
        self._sequence = end
        self._socket.send(b"".join(parts))
        results = [0] * len(requests)
        for reply in self._received():
            position = (reply.sequence - first) & NUMBERS
            if reply.type == ERROR and reply.sequence == end:
                return results
            if reply.type == ERROR and position < len(requests):
                results[position] = reply.errno
        raise AssertionError("_received() ends only by raising")

    def _next(self) -> int:
        return (self._sequence + 1) & NUMBERS

    def _dump(self, command: Command, body: bytes) -> list[memoryview]:
        self._sequence = self._next()
        self._socket.send(message(self._family, DUMP, self._sequence, command, body))
        found: list[memoryview] = []
        torn = False
        for reply in self._received():
            if reply.sequence != self._sequence:
                continue
            torn = torn or bool(reply.flags & INTERRUPTED)
            if reply.type not in (ERROR, DONE):
                found.append(reply.body)
            elif reply.errno:
                raise OSError(reply.errno, os.strerror(reply.errno))
            elif torn:
                raise Overrun
            else:
                return found
        raise AssertionError("_received() ends only by raising")

    def _ask(self, command: int, body: bytes) -> memoryview:
        self._sequence = self._next()
        self._socket.send(message(self._family, 0, self._sequence, command, body))
        for reply in self._received():
            if reply.sequence == self._sequence:
                if reply.type == ERROR:
                    raise OSError(reply.errno, os.strerror(reply.errno))
                return reply.body
        raise AssertionError("_received() ends only by raising")

    def _received(self) -> Iterator[Reply]:
        """Replies as they come. Raises Overrun when the kernel had to drop some."""
        while True:
            try:
                size, _, flags, _ = self._socket.recvmsg_into([self._buffer])
            except BlockingIOError:
                raise DataPlaneError(f"IPVS: no answer from the kernel in {PATIENCE} s") from None
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise Overrun from None
                raise
            if flags & socket.MSG_TRUNC:
                raise Overrun
            # Copied, since the caller keeps the replies and the buffer is used again.
            yield from replies(memoryview(bytes(memoryview(self._buffer)[:size])))

    def _retried(self, attempt: Callable[[], Result]) -> Result:
        for _ in range(TRIES):
            try:
                return attempt()
            except Overrun:
                self._discard()
        raise DataPlaneError(
            f"IPVS: the table changed or overran in each of {TRIES} reads",
            "is another tool rewriting it all the time?",
        )

    def _discard(self) -> None:
        """Throw away what is left of a broken answer: a new dump waits for its end."""
        while True:
            try:
                if not self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


def _batches(requests: Sequence[Request]) -> Iterator[tuple[int, int]]:
    """Ranges of requests that fit into one message to the kernel."""
    start = size = 0
    for position, (_, body) in enumerate(requests):
        if size + len(body) + 20 > BATCH and position > start:
            yield start, position
            start, size = position, 0
        size += len(body) + 20
    if start < len(requests):
        yield start, len(requests)


# --- opening ----------------------------------------------------------------------------


def open_ipvs() -> Netlink:
    """A socket to IPVS in the network namespace of this thread; loads the module if need
    be. Raises Unsupported where the kernel has none."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
    try:
        _prepare(link)
        return Netlink(link, _family(link))
    except BaseException:
        link.close()
        raise


def _prepare(link: socket.socket) -> None:
    link.bind((0, 0))
    # Not settimeout(), which would cost a poll() for each answer.
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pack("@ll", PATIENCE, 0))
    link.setsockopt(SOL_NETLINK, CAP_ACK, 1)  # no copy of the request in its answer
    try:
        link.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, MEMORY)
    except PermissionError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MEMORY)


def _family(link: socket.socket) -> int:
    """The number that this boot gave to IPVS."""
    try:
        return _ask_family(link)
    except FileNotFoundError:
        load_module()
    try:
        return _ask_family(link)
    except FileNotFoundError:
        raise no_ipvs("module ip_vs is loaded, but does not answer") from None


def _ask_family(link: socket.socket) -> int:
    control = Netlink(link, CONTROL)
    found = control.ask(GET_FAMILY, attribute(FAMILY_NAME, b"IPVS\0"))
    return number(attributes(found)[FAMILY_ID])


def load_module() -> None:
    """`modprobe ip_vs`, as ipvsadm does. Raises Unsupported with modprobe's own words."""
    try:
        done = subprocess.run(
            ["modprobe", "ip_vs"], capture_output=True, text=True, timeout=LOADING, check=False
        )
    except FileNotFoundError:
        raise no_ipvs("modprobe is not installed") from None
    except subprocess.TimeoutExpired:
        raise no_ipvs(f"modprobe ip_vs did not end within {LOADING} s") from None
    except PermissionError as error:
        raise NotPermitted(
            f"IPVS: cannot run modprobe: {error.strerror}", "run it as root"
        ) from None
    if done.returncode:
        raise no_ipvs(done.stderr.strip() or f"modprobe ip_vs: exit {done.returncode}")


def no_ipvs(cause: str) -> Unsupported:
    return Unsupported(
        f"IPVS: this kernel does not offer it: {cause}",
        "`modprobe ip_vs` must work: boot a distribution's full kernel, or set datapath: xdp",
    )
