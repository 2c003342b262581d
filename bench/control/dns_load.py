"""A DNS load generator with a different client subnet in every query.

dnsperf sends one fixed subnet, which measures a cache. This one sends prepared datagrams in
batches (sendmmsg), at most `window` unanswered, or paced for latency; a few hundred lines of
C would be faster, but this already saturates one core of every server it is used on.
"""

import ctypes
import random
import socket
import struct
import time
from dataclasses import dataclass

from lbctl.gslb.wire import name_to_wire

BATCH = 32
ROOM = 1500
MSG_DONTWAIT = 0x40
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Result:
    """seconds: wall time. p50, p99: of a paced run, in seconds."""

    sent: int
    answered: int
    seconds: float
    p50: float = 0.0
    p99: float = 0.0


def queries(count, names, prefixes, *, cookie=False, seed=1):
    """`count` A queries for names `wwwN.gslb.example`, each with its own ECS /24."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        address = rng.choice(prefixes)
        options = struct.pack("!HHHBB", 8, 7, 1, 24, 0) + address[:3]
        if cookie:
            options += struct.pack("!HH", 10, 8) + number.to_bytes(8, "big")
        opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(options)) + options
        name = name_to_wire(f"www{rng.randrange(names)}.gslb.example")
        made.append(struct.pack("!6H", number & 0xFFFF, 0, 1, 0, 0, 1) + name + b"\0\1\0\1" + opt)
    return made


class _Batch:
    """BATCH mmsghdrs over one buffer."""

    def __init__(self, room):
        self.buffer = ctypes.create_string_buffer(BATCH * room)
        self.vectors = (ctypes.c_uint64 * (2 * BATCH))()
        self.headers = (ctypes.c_uint64 * (8 * BATCH))()
        for number in range(BATCH):
            self.vectors[2 * number] = ctypes.addressof(self.buffer) + number * room
            self.vectors[2 * number + 1] = room
            self.headers[8 * number + 2] = ctypes.addressof(self.vectors) + 16 * number
            self.headers[8 * number + 3] = 1
        self.view = memoryview(self.buffer).cast("B")
        self.address = ctypes.addressof(self.headers)


class Generator:
    """One connected socket."""

    def __init__(self, server):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.connect(server)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.out, self.back = _Batch(ROOM), _Batch(ROOM)
        self.late = 0

    def _send(self, datagrams):
        for number, datagram in enumerate(datagrams):
            at = number * ROOM
            self.out.view[at : at + len(datagram)] = datagram
            self.out.vectors[2 * number + 1] = len(datagram)
        return _libc.sendmmsg(self.fd, ctypes.c_void_p(self.out.address), len(datagrams), 0)

    def _receive(self):
        return max(0, _libc.recvmmsg(self.fd, ctypes.c_void_p(self.back.address), BATCH,
                                     MSG_DONTWAIT, None))  # fmt: skip

    def saturate(self, made, seconds, window=512):
        """As fast as the server answers, for `seconds`."""
        sent = answered = at = 0
        start = time.monotonic()
        last = start
        while (now := time.monotonic()) - start < seconds:
            while sent - answered < window:
                batch = made[at : at + BATCH]
                at = (at + BATCH) % (len(made) - BATCH)
                sent += self._send(batch)
            got = self._receive()
            answered += got
            if got:
                last = now
            elif now - last > 0.2:  # what is missing by now was dropped: do not wait for it
                sent, last = answered, now
        return Result(sent, answered, time.monotonic() - start)

    def drain(self, seconds):
        """Count in `late` the answers that came after the last query was sent."""
        self.late = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.late += self._receive()

    def paced(self, made, rate, seconds):
        """`rate` queries a second, one by one; latencies by query id."""
        sent_at = [0.0] * 65536
        took = []
        start = time.monotonic()
        sent = 0
        while True:
            now = time.monotonic()
            if now - start >= seconds:
                break
            due = int((now - start) * rate)
            if sent < due:
                number = sent % len(made)
                sent_at[number & 0xFFFF] = time.monotonic()
                self.socket.send(made[number])
                sent += 1
            try:
                reply = self.socket.recv(ROOM, MSG_DONTWAIT)
            except BlockingIOError:
                continue
            took.append(time.monotonic() - sent_at[reply[0] << 8 | reply[1]])
        took.sort()
        half, high = took[len(took) // 2], took[int(len(took) * 0.99)]
        return Result(sent, len(took), time.monotonic() - start, half, high)
