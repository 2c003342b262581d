"""The sockets of one virtual router: adverts in and out, announcements out.

In: a raw IP socket on the interface with a filter on VRID and peers in the kernel. Out:
to the group, whole frames through a packet socket on the interface, so that they carry
the virtual MAC; to unicast peers, through the raw socket.
"""

import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from lbctl.model import Address, ChecksumForm, Family, Router
from lbctl.vrrp import frames, packet, socketfilter
from lbctl.vrrp.packet import GROUP4, GROUP6, PROTOCOL, TTL, Advert
from lbctl.vrrp.receive import Count, Packet
from lbctl.vrrp.socketfilter import Instruction

_SO_BINDTOIFINDEX, _SO_MEMINFO, _SO_TIMESTAMPNS = 62, 55, 35
_STAMP = struct.Struct("=qq")  # struct timespec
_LONGEST_WAIT = 0.005  # seconds; what waited longer met a stall, or a step of the clock
_IP_MULTICAST_ALL = 49
_DROPS = 8  # SK_MEMINFO_DROPS, the ninth of nine 32-bit numbers
_RECEIVE_BUFFER = 256 << 10
_LONGEST = 8 + 255 * 16 + 60


Ancillary = list[tuple[int, int, bytes]]


class Wire:
    """index, own, mac: of the interface; own: the source of the adverts; mac: theirs."""

    def __init__(self, router: Router, index: int, own: Address, mac: bytes) -> None:
        self.router, self.index, self.own, self.mac = router, index, own, mac
        self._six = router.family is Family.IPV6
        self._frames: dict[tuple[Advert, ChecksumForm], bytes] = {}
        self._ours = frozenset({router.vrid})
        self._raw = _raw_socket(
            index, self._six, socketfilter.ours(router.vrid, router.peers, self._six)
        )
        self._passed_by: dict[Count, Tally] = {}
        try:
            self._passed_by[Count.VRID_ERRORS] = self._tally(
                socketfilter.strangers(self._ours, self._six)
            )
            if router.peers:
                self._passed_by[Count.UNKNOWN_PEER] = self._tally(
                    socketfilter.others(router.vrid, router.peers, self._six)
                )
            self._out = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0
            )
            if router.peers:  # else the kernel may send from a virtual address
                self._raw.bind((str(own), 0, *self._scope(own)))
            self._out.bind((socket.if_indextoname(index), 0))
            self._announcements = [frames.announcement(mac, a) for a in router.addresses]
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        for name in ("_raw", "_out"):
            if (one := getattr(self, name, None)) is not None:
                one.close()
        for tally in self._passed_by.values():
            tally.close()

    def receive(self, limit: int) -> Iterator[Packet]:
        """At most `limit` packets that are there. Raises OSError when the interface goes."""
        for _ in range(limit):
            try:
                data, ancillary, _, sender = self._raw.recvmsg(_LONGEST, 128)
            except BlockingIOError:
                return
            age = _age(ancillary)
            yield _packet6(data, ancillary, sender, age) if self._six else _packet4(data, age)

    def send(self, advert: Advert, form: ChecksumForm) -> str:
        """To the group, or to each peer; which peers it cannot be sent to, and why. Raises
        OSError if it left for nobody."""
        if not self.router.peers:
            self._out.send(self._frame(advert, form))
            return ""
        failures: list[str] = []
        for peer in self.router.peers:
            data = packet.encode(advert, self.own, peer, form)
            try:
                self._raw.sendto(data, (str(peer), 0, *self._scope(peer)))
            except OSError as error:
                failures.append(f"{peer}: {error.strerror}")
                code = error.errno
        unsent = ", ".join(failures)
        if len(failures) == len(self.router.peers):
            raise OSError(code, unsent)
        return unsent

    def announce(self) -> None:
        for frame in self._announcements:
            self._out.send(frame)

    def beside(self, vrids: frozenset[int]) -> None:
        """vrids: of all our routers on this interface, which are no strangers."""
        if vrids != self._ours:
            self._ours = vrids
            self._passed_by[Count.VRID_ERRORS].filter(socketfilter.strangers(vrids, self._six))

    def passed_by(self) -> dict[Count, int]:
        """VRRP packets on the interface that the filter keeps away, by what is wrong."""
        return {count: tally.read() for count, tally in self._passed_by.items()}

    def _tally(self, program: list[Instruction]) -> "Tally":
        return Tally(_raw_socket(self.index, self._six, program, room=0))

    def _scope(self, address: Address) -> tuple[int, ...]:
        """The rest of an IPv6 socket address: flow label and interface."""
        if not self._six:
            return ()
        return 0, self.index if address.is_link_local else 0

    def _frame(self, advert: Advert, form: ChecksumForm) -> bytes:
        """Adverts repeat: each is built once."""
        frame = self._frames.get((advert, form))
        if frame is None:
            if len(self._frames) > 8:
                self._frames.clear()
            group = GROUP6 if self._six else GROUP4
            payload = packet.encode(advert, self.own, group, form)
            frame = self._frames[advert, form] = frames.advert(payload, self.mac, self.own)
        return frame


class Tally:
    """Counts packets that nobody wants to see: the socket has hardly any room, and the kernel
    counts what finds none."""

    def __init__(self, one: socket.socket) -> None:
        self._socket = one
        self._kept = 0

    def close(self) -> None:
        self._socket.close()

    def filter(self, program: list[Instruction]) -> None:
        """What to count from now on."""
        socketfilter.attach(self._socket, program)

    def read(self) -> int:
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
                self._kept += 1
        numbers = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        return self._kept + int(struct.unpack("=9I", numbers)[_DROPS])


def _raw_socket(
    index: int, six: bool, program: list[Instruction], room: int = _RECEIVE_BUFFER
) -> socket.socket:
    """Hears the VRRP packets of an interface that `program` accepts."""
    family = socket.AF_INET6 if six else socket.AF_INET
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    one = socket.socket(family, kind, PROTOCOL)
    try:
        # The filter comes first: what arrives before it would be kept.
        socketfilter.attach(one, program)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        one.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, index)
        one.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        (_prepare6 if six else _prepare4)(one, index)
    except OSError:
        one.close()
        raise
    return one


def _prepare4(one: socket.socket, index: int) -> None:
    one.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
    request = struct.pack("=4s4si", GROUP4.packed, bytes(4), index)  # struct ip_mreqn
    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def _prepare6(one: socket.socket, index: int) -> None:
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    request = GROUP6.packed + struct.pack("=i", index)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _age(ancillary: Ancillary) -> float:
    """How long a packet has waited for us, which the Active's successor must not add to its
    own wait. The kernel stamps with the wall clock only; a step of that makes it 0."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack(value)
            age = time.clock_gettime_ns(time.CLOCK_REALTIME) / 1e9 - (seconds + nanoseconds / 1e9)
            return age if 0 <= age <= _LONGEST_WAIT else 0.0
    return 0.0


def _packet4(data: bytes, age: float) -> Packet:
    """A raw IPv4 socket gives the IP header too, and checks its lengths before."""
    header = (data[0] & 0xF) * 4
    source, destination = IPv4Address(data[12:16]), IPv4Address(data[16:20])
    return Packet(source, destination, data[8], data[header:], age)


def _packet6(
    data: bytes, ancillary: Ancillary, sender: tuple[str, int, int, int], age: float
) -> Packet:
    limit, destination = -1, GROUP6
    for level, kind, value in ancillary:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == socket.IPV6_HOPLIMIT:
            limit = int.from_bytes(value[:4], sys.byteorder)
        elif kind == socket.IPV6_PKTINFO:
            destination = IPv6Address(value[:16])
    source = ip_address(sender[0].partition("%")[0])
    return Packet(source, destination, limit, data, age)
