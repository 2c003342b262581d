"""The sockets of one virtual router: adverts in and out, announcements out.

In: a raw IP socket on the interface with a filter on VRID and peers in the kernel. Out:
to the group, whole frames through a packet socket on the interface, so that they carry
the virtual MAC; to unicast peers, through the raw socket.
"""

import ctypes
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from lbctl.model import Address, ChecksumForm, Family, Router
from lbctl.vrrp import frames, packet
from lbctl.vrrp.packet import GROUP4, GROUP6, PROTOCOL, TTL, Advert
from lbctl.vrrp.receive import Packet

_SO_ATTACH_FILTER, _SO_BINDTOIFINDEX, _SO_MEMINFO, _SO_TIMESTAMPNS = 26, 62, 55, 35
_STAMP = struct.Struct("=qq")  # struct timespec
_LONGEST_WAIT = 0.005  # seconds; what waited longer met a stall, or a step of the clock
_IP_MULTICAST_ALL = 49
_DROPS = 8  # SK_MEMINFO_DROPS, the ninth of nine 32-bit numbers
_RECEIVE_BUFFER = 256 << 10
_LONGEST = 8 + 255 * 16 + 60

# Classic BPF (linux/filter.h): code, jump if true, jump if false, constant.
_LD_BYTE_X, _LD_BYTE, _LD_WORD = 0x50, 0x30, 0x20
_LDX_IP_HEADER, _JUMP_IF, _RETURN = 0xB1, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from the IP header
_SOURCE6 = 8


Ancillary = list[tuple[int, int, bytes]]


class Wire:
    """index, own, mac: of the interface; own: the source of the adverts; mac: theirs."""

    def __init__(self, router: Router, index: int, own: Address, mac: bytes) -> None:
        self.router, self.index, self.own, self.mac = router, index, own, mac
        self._six = router.family is Family.IPV6
        self._frames: dict[tuple[Advert, ChecksumForm], bytes] = {}
        self._stray = 0
        self._raw = _raw_socket(router, index)
        try:
            self._strays = _raw_socket(router, index, strays=True)
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
        for name in ("_raw", "_strays", "_out"):
            if (one := getattr(self, name, None)) is not None:
                one.close()

    def receive(self, limit: int) -> Iterator[Packet]:
        """At most `limit` packets that are there. Raises OSError when the interface goes."""
        for _ in range(limit):
            try:
                data, ancillary, _, sender = self._raw.recvmsg(_LONGEST, 128)
            except BlockingIOError:
                return
            age = _age(ancillary)
            yield _packet6(data, ancillary, sender, age) if self._six else _packet4(data, age)

    def send(self, advert: Advert, form: ChecksumForm) -> None:
        """To the group, or to each peer; the last error is raised after all were tried."""
        if not self.router.peers:
            self._out.send(self._frame(advert, form))
            return
        failure: OSError | None = None
        for peer in self.router.peers:
            data = packet.encode(advert, self.own, peer, form)
            try:
                self._raw.sendto(data, (str(peer), 0, *self._scope(peer)))
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure

    def announce(self) -> None:
        for frame in self._announcements:
            self._out.send(frame)

    def strays(self) -> int:
        """VRRP packets on this interface that are not this router's. The kernel counts them:
        the second socket has hardly any room, and nobody reads it but this."""
        with suppress(BlockingIOError):
            while True:
                self._strays.recv(1)
                self._stray += 1
        numbers = self._strays.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        return self._stray + int(struct.unpack("=9I", numbers)[_DROPS])

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


def _raw_socket(router: Router, index: int, strays: bool = False) -> socket.socket:
    """strays: hears what the other one does not, and is too small to keep any of it."""
    six = router.family is Family.IPV6
    family = socket.AF_INET6 if six else socket.AF_INET
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    one = socket.socket(family, kind, PROTOCOL)
    try:
        # The filter comes first: what arrives before it would be kept.
        _attach(one, _filter(router.vrid, router.peers, six, strays))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0 if strays else _RECEIVE_BUFFER)
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


# --- the filter -------------------------------------------------------------------------

Instruction = tuple[int, int, int, int]


def _filter(vrid: int, peers: Iterable[Address], six: bool, strays: bool) -> list[Instruction]:
    """Accept what has this VRID and comes from one of `peers`, if there are any; `strays`:
    the rest. A raw IPv4 socket's data start at the IP header, IPv6's behind it."""
    accept, refuse = (0, 0xFFFF) if strays else (0xFFFF, 0)
    program: list[Instruction] = []
    if six:
        program.append((_LD_BYTE, 0, 0, 1))
    else:
        program += [(_LDX_IP_HEADER, 0, 0, 0), (_LD_BYTE_X, 0, 0, 1)]
    program += [(_JUMP_IF, 1, 0, vrid), (_RETURN, 0, 0, refuse)]
    peers = list(peers)
    for peer in peers:
        program += _from_peer(peer, accept)
    program.append((_RETURN, 0, 0, refuse if peers else accept))
    return program


def _from_peer(peer: Address, accept: int) -> list[Instruction]:
    """Return `accept` if the source is `peer`, else go on behind."""
    words = struct.unpack(f"!{len(peer.packed) // 4}I", peer.packed)
    first = _NETWORK_HEADER + (12 if peer.version == 4 else _SOURCE6)
    program: list[Instruction] = []
    for number, word in enumerate(words):
        left = len(words) - number - 1
        program.append((_LD_WORD, 0, 0, first + 4 * number))
        program.append((_JUMP_IF, 0, 2 * left + 1, word))
    return [*program, (_RETURN, 0, 0, accept)]


def _attach(one: socket.socket, program: list[Instruction]) -> None:
    """The kernel copies the program while the call lasts."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
