"""Echo requests: one raw socket for all targets of a family.

    worker ── one socket ──> everybody; an answer is told by (address, identifier, sequence)

RFC 792 and RFC 4443: an echo reply brings back identifier, sequence and payload. The
payload begins with a secret of this process, so that a reply cannot be made up by somebody
who did not see the request.
"""

import errno
import os
import secrets
import select
import struct
from ipaddress import ip_address
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_RAW,
    SOL_SOCKET,
    socket,
)
from typing import NamedTuple

from lbctl.health.probes.dial import Remote
from lbctl.health.reactor import Bell, Reactor, rung
from lbctl.health.result import Failed, Unable

_HEADER = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence
_SOL_RAW, _ICMP_FILTER = 255, 1  # linux/icmp.h: a bit for each type that is *not* wanted
_SOL_ICMPV6, _ICMP6_FILTER = 58, 1  # linux/icmpv6.h: the same, 256 bits
_AT_ONCE = 64  # packets taken before other sockets have their turn
_SECRET = 16  # bytes


class _Types(NamedTuple):
    """Message types of a family."""

    request: int
    reply: int
    unreachable: int


_TYPES = {AF_INET: _Types(8, 0, 3), AF_INET6: _Types(128, 129, 1)}


class Pinger:
    """The shared socket of one family, on a reactor."""

    def __init__(self, family: int, reactor: Reactor) -> None:
        self._types = _TYPES[AF_INET if family == AF_INET else AF_INET6]
        self._reactor = reactor
        self._v4 = family == AF_INET
        self._socket = _open(self._v4)
        self._identifier = os.getpid() & 0xFFFF
        self._sequence = secrets.randbits(16)
        self._secret = secrets.token_bytes(_SECRET)
        self._waiting: dict[tuple[str, int], tuple[Bell, list[str]]] = {}
        reactor.watch(self._socket.fileno(), self._take, select.EPOLLIN)

    async def ping(self, remote: Remote, size: int) -> str:
        """Raises Failed, Unable, OSError."""
        address = remote.sockaddr[0]
        self._sequence = self._sequence + 1 & 0xFFFF
        bell, said = Bell(), list[str]()
        key = address, self._sequence
        self._waiting[key] = bell, said
        try:
            self._send(address, self._sequence, size)
            while not said:
                await rung(bell, "waiting for an echo reply")
        finally:
            del self._waiting[key]
        if said[0]:
            raise Failed(said[0])
        return "echo reply"

    def _send(self, address: str, sequence: int, size: int) -> None:
        payload = self._secret + bytes(max(0, size - _SECRET))
        packet = self._packet(0, sequence, payload)
        if self._v4:  # for ICMPv6 the kernel does it (RFC 3542, 3.1)
            packet = self._packet(checksum(packet), sequence, payload)
        try:
            self._socket.sendto(packet, (address, 0))
        except BlockingIOError:
            raise Unable("the socket's send buffer is full") from None

    def _packet(self, sum_: int, sequence: int, payload: bytes) -> bytes:
        types = self._types
        return _HEADER.pack(types.request, 0, sum_, self._identifier, sequence) + payload

    def _take(self, mask: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, sender = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED):
                    raise
                continue
            self._hear(data[(data[0] & 15) * 4 :] if self._v4 else data, sender[0])

    def _hear(self, message: bytes, sender: str) -> None:
        if len(message) < _HEADER.size:
            return
        kind, code, _, identifier, sequence = _HEADER.unpack_from(message)
        if kind == self._types.reply and identifier == self._identifier:
            if message[8 : 8 + _SECRET] == self._secret:
                self._answer((sender.partition("%")[0], sequence), "")
        elif kind == self._types.unreachable:
            self._hear_unreachable(message[8:], code, sender)

    def _hear_unreachable(self, quoted: bytes, code: int, sender: str) -> None:
        """RFC 792, RFC 4443 3.1: the packet that did not arrive is quoted, from its IP
        header on."""
        if self._v4:
            start, target = ((quoted[0] & 15) * 4 if quoted else 0), quoted[16:20]
        else:
            start, target = 40, quoted[24:40]
        inner = quoted[start : start + _HEADER.size]
        if len(inner) < _HEADER.size or len(target) not in (4, 16):
            return
        kind, _, _, identifier, sequence = _HEADER.unpack(inner)
        if kind == self._types.request and identifier == self._identifier:
            key = str(ip_address(target)), sequence
            self._answer(key, f"unreachable (code {code}), says {sender}")

    def _answer(self, key: tuple[str, int], words: str) -> None:
        if (waiting := self._waiting.get(key)) is not None:
            bell, said = waiting
            said.append(words)
            self._reactor.ring(bell)


def _open(v4: bool) -> socket:
    kind = SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC
    types = _TYPES[AF_INET if v4 else AF_INET6]
    wanted = (types.reply, types.unreachable)
    try:
        if v4:
            sock = socket(AF_INET, kind, IPPROTO_ICMP)
            unwanted = 0xFFFFFFFF & ~sum(1 << type_ for type_ in wanted)
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("I", unwanted))
        else:
            sock = socket(AF_INET6, kind, IPPROTO_ICMPV6)
            bits = (1 << 256) - 1 & ~sum(1 << type_ for type_ in wanted)
            words = [bits >> 32 * i & 0xFFFFFFFF for i in range(8)]
            sock.setsockopt(_SOL_ICMPV6, _ICMP6_FILTER, struct.pack("8I", *words))
    except PermissionError:
        raise Unable("no permission for raw sockets (CAP_NET_RAW)") from None
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 1 << 20)
    return sock


def checksum(data: bytes) -> int:
    """RFC 1071: the ones' complement of the ones' complement sum of 16-bit words."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
