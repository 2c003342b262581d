"""Many datagrams per system call: recvmmsg(2) and sendmmsg(2), through ctypes.

At load this saves a system call a query; when idle, a batch of one costs what recvfrom
costs. All memory is laid out once:

    mmsghdr   name, namelen, iov, iovlen, control, controllen, flags, len   64 octets each
    iovec     base, len                                                     16 octets each
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Sequence

from lbctl.gslb.native import Native

BATCH = 64
ROOM = 1024  # octets per query: more is cut, and then malformed
REPLY = 1280  # octets per reply; UDP answers end at 1232
NAME = 28  # sizeof(struct sockaddr_in6)

_HEADER_WORDS = 8  # u64 words in a mmsghdr
_NAME, _NAMELEN, _IOV, _IOVLEN, _FLAGS, _LEN = 0, 1, 2, 3, 6, 7
_MSG_WAITFORONE = 0x10000

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p,
]  # fmt: skip
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]

Answer = Callable[[bytes, bytes], bytes | None]  # query, packed source -> reply or None

News = Callable[[], None]


class _Side:
    """Headers, buffers and names of one direction."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.data = ctypes.create_string_buffer(BATCH * room)
        self.names = ctypes.create_string_buffer(BATCH * NAME)
        self._vectors = (ctypes.c_uint64 * (2 * BATCH))()
        self._headers = (ctypes.c_uint64 * (_HEADER_WORDS * BATCH))()
        self.address = ctypes.addressof(self._headers)
        for number in range(BATCH):
            self._vectors[2 * number] = ctypes.addressof(self.data) + number * room
            self._vectors[2 * number + 1] = room
            at = number * _HEADER_WORDS
            self._headers[at + _NAME] = ctypes.addressof(self.names) + number * NAME
            self._headers[at + _NAMELEN] = NAME
            self._headers[at + _IOV] = ctypes.addressof(self._vectors) + 16 * number
            self._headers[at + _IOVLEN] = 1
        self.view = memoryview(self.data).cast("B")
        self.names_view = memoryview(self.names).cast("B")
        self.headers = memoryview(self._headers).cast("B").cast("Q")
        self.vectors = memoryview(self._vectors).cast("B").cast("Q")


class Datagrams:
    """One UDP socket, answered batch by batch."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._fd = sock.fileno()
        self._in, self._out = _Side(ROOM), _Side(REPLY)
        v4 = sock.family == socket.AF_INET
        self._name = 16 if v4 else NAME
        self._source = (4, 8) if v4 else (8, 24)  # where a sockaddr holds the address
        self._in_names = ctypes.addressof(self._in.names)

    def serve(self, answer: Answer, news: News = lambda: None) -> int:
        """Receive what is there (waiting for the first, as the socket's timeout allows),
        answer it, and say how many came. A reply that cannot be sent is lost, as it may
        be on any network. news: called before answers, which may be others by now."""
        count: int = _recvmmsg(self._fd, self._in.address, BATCH, _MSG_WAITFORONE, None)
        if count < 0:
            error = ctypes.get_errno()
            if error in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
                return 0
            raise OSError(error, os.strerror(error))
        news()
        self._send(self._answer(range(count), answer))
        return count

    def serve_natively(
        self,
        native: Native,
        answer: Answer,
        slip: Answer,
        news: News = lambda: None,
        patience: float = 0.0,
    ) -> int:
        """Like `serve`, with a library that answers the plain queries of a batch, and of
        those after it for `patience` seconds. slip: answers those over the rate limit."""
        count, missed = native.serve(self._fd, self._in.address, self._out.address, patience)
        if count < 0:
            return 0  # a timeout, or news of an unreachable client
        if missed:
            news()
            self._send(self._answer([n for n in missed if n < BATCH], answer))
            if late := [n & 0xFF for n in missed if n >= BATCH]:
                self._send(self._answer(late, slip))
        return count

    def _answer(self, numbers: Sequence[int], answer: Answer) -> int:
        """Put the replies to the queries `numbers` in place; return how many there are."""
        room = (max(numbers) + 1) if numbers else 0
        data = bytes(self._in.view[: room * ROOM])
        names = bytes(self._in.names_view[: room * NAME])
        incoming, outgoing, vectors = self._in.headers, self._out.headers, self._out.vectors
        view, (low, high) = self._out.view, self._source
        sent = 0
        for number in numbers:
            header, name = number * _HEADER_WORDS, number * NAME
            start = number * ROOM
            query = data[start : start + (incoming[header + _LEN] & 0xFFFF)]
            incoming[header + _NAMELEN] = NAME
            reply = answer(query, names[name + low : name + high])
            if reply is None:
                continue
            at = sent * REPLY
            view[at : at + len(reply)] = reply
            vectors[2 * sent + 1] = len(reply)
            outgoing[sent * _HEADER_WORDS + _NAME] = self._in_names + name
            outgoing[sent * _HEADER_WORDS + _NAMELEN] = self._name
            sent += 1
        return sent

    def _send(self, count: int) -> None:
        done = 0
        while done < count:
            address = self._out.address + 8 * _HEADER_WORDS * done
            sent = _sendmmsg(self._fd, address, count - done, 0)
            done += sent if sent > 0 else 1  # the first of those left was refused: skip it
