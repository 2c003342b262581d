"""One loop that sees a failover from outside: a UDP probe every millisecond from the
client to the virtual address, an echo on each gateway, and the adverts on the bridge.

All sockets are one process's, each made in the namespace it belongs to; it runs at a
real-time priority below the routers', so that what is measured is theirs.
"""

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lbctl.vrrp.netlink import Netlink, set_up
from lbctl.vrrp.realtime import Timer
from tests.lab.vrrp.spaces import inside

PORT = 7007
PERIOD = 0.001
REAL_TIME = 45
_IP_FREEBIND = 15
_ETH_P_ALL = 3  # nothing less sees a bridge's port


@dataclass(frozen=True)
class Advert:
    """An advert as seen on the bridge, at `at` (CLOCK_MONOTONIC)."""

    at: float
    source: str
    mac: str
    priority: int


@dataclass
class Record:
    """What was seen. sent: when each probe left; answered: number of probe -> when."""

    sent: list[float] = field(default_factory=list)
    answered: dict[int, float] = field(default_factory=dict)
    adverts: list[Advert] = field(default_factory=list)

    def lost(self, since: float, until: float) -> list[float]:
        """When the probes left that were never answered."""
        return [
            at
            for number, at in enumerate(self.sent)
            if since <= at < until and number not in self.answered
        ]

    def back(self, since: float) -> float | None:
        """When the first probe after `since` left that was answered after `since`."""
        moments = (
            self.sent[number]
            for number, at in self.answered.items()
            if at > since and self.sent[number] > since
        )
        return min(moments, default=None)


class Scene:
    """client, switch: namespaces; echoes: those whose `echo` (else `vip`) answers. listen: the
    switch's interface, a bridge or one of its ports, where adverts are heard."""

    def __init__(
        self, client: Path, echoes: list[Path], switch: Path, listen: str, vip: str, echo: str = ""
    ) -> None:
        self.record = Record()
        self._vip = vip
        self._poll = select.epoll()
        self._timer = Timer()
        self._next = 0.0
        self._client = inside(client, lambda: _client(vip))
        self._echoes = [inside(space, lambda: _echo(echo or vip)) for space in echoes]
        self._tap = inside(switch, lambda: _tap(listen))
        self._switch = inside(switch, Netlink)
        for one in (self._timer, self._client, self._tap, *self._echoes):
            self._poll.register(one.fileno(), select.EPOLLIN)

    def close(self) -> None:
        for one in (self._client, self._tap, *self._echoes, self._poll):
            one.close()
        self._timer.close()
        self._switch.close()

    def link(self, port: str, up: bool) -> None:
        """Plug a port of the switch in, or pull it."""
        link = self._switch.link(port)
        assert link is not None
        (error,) = self._switch.do(set_up(link.index, up))
        if error is not None:
            raise error

    def watch(self, until: Callable[[], bool], limit: float) -> bool:
        """Probe and listen until `until()`, asked every 10 ms, or for `limit` seconds."""
        end = time.monotonic() + limit
        asked = time.monotonic()
        self._next = max(self._next, asked)
        while (now := time.monotonic()) < end:
            if now - asked >= 0.01:
                asked = now
                if until():
                    return True
            self._timer.set(self._next)
            for fd, _ in self._poll.poll(0.1):
                if fd == self._timer.fileno():
                    self._timer.rest()
            self._look()
        return until()

    def _look(self) -> None:
        """Send what is due, answer what asks, note what came."""
        now = time.monotonic()
        if now >= self._next:
            self._probe(now)
            self._next = max(self._next + PERIOD, now)
        for echo in self._echoes:
            for data, sender in _datagrams(echo):
                try:
                    echo.sendto(data, sender)
                except OSError:
                    continue  # its link is cut: no answer, which is what is measured
        for data, _ in _datagrams(self._client):
            number = struct.unpack("!Q", data)[0]
            self.record.answered.setdefault(number, time.monotonic())
        for data, _ in _datagrams(self._tap):
            self._note(data)

    def _probe(self, now: float) -> None:
        number = len(self.record.sent)
        self.record.sent.append(now)
        try:
            self._client.send(struct.pack("!Q", number))
        except OSError:
            return  # an ICMP error of a gateway without the address: a lost probe

    def _note(self, frame: bytes) -> None:
        if frame[23] != 112 or frame[12:14] != b"\x08\x00":
            return
        at = time.monotonic()
        header = 14 + (frame[14] & 0xF) * 4
        source = socket.inet_ntoa(frame[26:30])
        self.record.adverts.append(Advert(at, source, frame[6:12].hex(":"), frame[header + 2]))


def _datagrams(one: socket.socket) -> Iterator[tuple[bytes, tuple[str, int]]]:
    for _ in range(16):
        try:
            yield one.recvfrom(2048)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            continue


def _client(vip: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    one.connect((vip, PORT))
    return one


def _echo(vip: str) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    one.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    one.bind((vip, PORT))
    return one


def _tap(interface: str) -> socket.socket:
    """VRRP adverts among an interface's frames: the filter drops the probes in the kernel."""
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    code = [(0x30, 0, 0, 23), (0x15, 0, 1, 112), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *c) for c in code))
    fprog = struct.pack("@HP", len(code), ctypes.addressof(program))
    one.setsockopt(socket.SOL_SOCKET, 26, fprog)
    one.bind((interface, _ETH_P_ALL))
    return one


@contextmanager
def real_time() -> Iterator[None]:
    """At REAL_TIME for a while; children are ordinary."""
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    os.sched_setscheduler(0, policy, os.sched_param(REAL_TIME))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
