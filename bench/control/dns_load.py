"""A DNS load generator with a different client subnet in every query.

dnsperf sends one fixed subnet, which measures a cache. This one sends prepared datagrams in
batches (sendmmsg), at most `window` unanswered, which saturates one core of every server it is
used on, or paced for latency (pace.c: Python's own 8 us a query would be most of what it sees).
"""

import ctypes
import functools
import itertools
import random
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lbctl.gslb.wire import name_to_wire

BATCH = 32
ROOM = 1500
MSG_DONTWAIT = 0x40
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Result:
    """seconds: wall time. p50, p99: of a paced run, in seconds, of all that were sent."""

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

    def paced(self, made, rate, seconds, patience=0.5):
        """`rate` queries a second, one by one (65,536 different ones at most).

        Latencies are of all that were sent: one that is not answered within `patience`
        seconds after the last has waited until then, so that a server gains nothing by
        losing those that would have been late.
        """
        data, at = b"".join(made), (ctypes.c_uint32 * (len(made) + 1))()
        at[1:] = list(itertools.accumulate(map(len, made)))
        took = (ctypes.c_double * (int(rate * seconds) + 1))()
        floats = map(ctypes.c_double, (rate, seconds, patience))
        sent = _pace()(self.fd, data, at, len(made), *floats, took, len(took))
        waited = sorted(abs(one) for one in took[:sent])
        answered = sum(one > 0 for one in took[:sent])
        half, high = waited[sent // 2], waited[int(sent * 0.99)]
        return Result(sent, answered, seconds, half, high)


@functools.cache
def _pace():
    """pace.c, built for this run."""
    with tempfile.TemporaryDirectory(prefix="bench-pace-") as name:
        library = Path(name) / "pace.so"
        source = Path(__file__).with_name("pace.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        pace = ctypes.CDLL(str(library)).pace
    pace.restype = ctypes.c_long
    return pace
