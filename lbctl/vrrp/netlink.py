"""Links and addresses for the VRRP process, in plain netlink bytes.

`lbctl.netlink` does the same with pyroute2 for everybody else; here its import would be
24 MiB of locked memory, and a promotion is one system call: several messages in one
buffer, which the kernel carries out in order. Layouts: linux/netlink.h, rtnetlink.h,
if_link.h, if_addr.h; everything is in host byte order, attributes are padded to four.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from lbctl.model import Address, Network

TAG = 118  # IFA_PROTO of addresses that this process put there ('v'); lbctl.netlink has 76
TAGS = frozenset({TAG, 76})

_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 5, 18, 20
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE = 1, 2, 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_PROTO = 1, 2, 8, 11
_NODAD, _TENTATIVE, _SECONDARY, _DADFAILED = 0x02, 0x40, 0x01, 0x08
_NEWROUTE, _GETROUTE, _RTA_DST, _FIB_MATCH, _UNICAST = 24, 26, 1, 0x2000, 1
_UP, _RUNNING = 0x1, 0x40
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE = struct.Struct("=BBBBBBBBI")
_SAMPLES_OF_DEFAULT = (ip_address("192.88.99.1"), ip_address("100::1"))  # hardly ever routed


class NetlinkError(OSError):
    """A request that the kernel refused."""


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. running: up, with carrier."""

    index: int
    name: str
    mac: bytes
    up: bool
    running: bool
    alias: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """An address on an interface. usable: can be a source now."""

    index: int
    address: Address
    prefix: int
    tag: int
    primary: bool
    usable: bool


@dataclass
class Picture:
    """All links and addresses, as far as the kernel has told."""

    links: dict[int, Link] = field(default_factory=dict)
    addresses: dict[tuple[int, Address], Held] = field(default_factory=dict)

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links.values() if link.name == name), None)

    def on(self, index: int) -> list[Held]:
        return [held for (at, _), held in self.addresses.items() if at == index]

    def take(self, kind: int, body: memoryview) -> None:
        """One message of the kernel's."""
        if kind == _NEWLINK:
            link = _parse_link(body)
            self.links[link.index] = link
        elif kind == _DELLINK:
            index = _parse_link(body).index
            self.links.pop(index, None)
            self.addresses = {key: at for key, at in self.addresses.items() if key[0] != index}
        elif kind in (_NEWADDR, _DELADDR) and (held := _parse_address(body)) is not None:
            # One that is renewed keeps its place: the first is the source of adverts.
            if kind == _NEWADDR:
                self.addresses[held.index, held.address] = held
            else:
                self.addresses.pop((held.index, held.address), None)


class Netlink:
    """One socket for requests; each is answered before the call returns."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def picture(self) -> Picture:
        picture = Picture()
        for kind, body in self._dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0)):
            picture.take(kind, body)
        for kind, body in self._dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            picture.take(kind, body)
        return picture

    def link(self, name: str) -> Link | None:
        """The interface of that name now."""
        body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        self._sequence += 1
        self._socket.send(_message(_GETLINK, _REQUEST, self._sequence, body))
        for kind, answer in self._answers():
            return _parse_link(answer) if kind == _NEWLINK else None
        return None

    def do(self, *requests: bytes) -> list[OSError | None]:
        """Carry out requests in their order, in one call of the kernel's; what each came
        to. One that is refused does not stop those after it."""
        batch = b""
        for request in requests:
            self._sequence += 1
            batch += request[:8] + self._sequence.to_bytes(4, sys.byteorder) + request[12:]
        if not requests:
            return []
        self._socket.send(batch)
        results: list[OSError | None] = []
        while len(results) < len(requests):
            for kind, body in self._answers():
                if kind == _ERROR:
                    code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    results.append(NetlinkError(code, os.strerror(code)) if code else None)
        return results

    def has_route(self, prefix: Network) -> bool:
        """Whether the routing table has exactly this prefix. The kernel is asked for
        addresses inside: a whole table may have a million routes."""
        return any(self._matches(prefix, address) for address in _samples(prefix))

    def _matches(self, prefix: Network, address: Address) -> bool:
        family = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, prefix.max_prefixlen, 0, 0, 0, 0, 0, 0, _FIB_MATCH)
        body += _attribute(_RTA_DST, address.packed)
        self._sequence += 1
        self._socket.send(_message(_GETROUTE, _REQUEST, self._sequence, body))
        for kind, answer in self._answers():
            if kind == _NEWROUTE:
                length, route_type = answer[1], answer[7]
                return length == prefix.prefixlen and route_type == _UNICAST
        return False

    def _dump(self, kind: int, body: bytes) -> Iterator[tuple[int, memoryview]]:
        self._sequence += 1
        self._socket.send(_message(kind, _REQUEST | _DUMP, self._sequence, body))
        while True:
            for answer, part in self._answers():
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    code = -int.from_bytes(part[:4], sys.byteorder, signed=True)
                    raise NetlinkError(code, os.strerror(code))
                yield answer, part

    def _answers(self) -> Iterator[tuple[int, memoryview]]:
        return split(self._socket.recv(1 << 16))


class News:
    """What the kernel tells of links and addresses, without being asked."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, 0)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self, picture: Picture, limit: int) -> bool:
        """Take at most `limit` datagrams into `picture`. False: some were lost, and only
        a new picture helps."""
        with suppress(BlockingIOError):
            for _ in range(limit):
                try:
                    data = self._socket.recv(1 << 16)
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        return False
                    raise
                for kind, body in split(data):
                    picture.take(kind, body)
        return True


# --- requests ---------------------------------------------------------------------------


def add_macvlan(name: str, parent: int, mac: bytes) -> bytes:
    """In bridge mode: in private mode the kernel would keep a peer's advert, which has the
    same source MAC, from the parent."""
    mode = _attribute(_IFLA_MACVLAN_MODE, struct.pack("=I", _MACVLAN_MODE_BRIDGE))
    info = _attribute(_IFLA_INFO_KIND, b"macvlan") + _attribute(_IFLA_INFO_DATA, mode)
    body = (
        _LINK.pack(0, 0, 0, 0, 0)
        + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        + _attribute(_IFLA_LINK, struct.pack("=I", parent))
        + _attribute(_IFLA_ADDRESS, mac)
        + _attribute(_IFLA_LINKINFO, info)
    )
    return _message(_NEWLINK, _REQUEST | _ACK | _CREATE | _EXCL, 0, body)


def name_alias(index: int, alias: str) -> bytes:
    body = _LINK.pack(0, 0, index, 0, 0) + _attribute(_IFLA_IFALIAS, alias.encode())
    return _message(_NEWLINK, _REQUEST | _ACK, 0, body)


def set_up(index: int, up: bool) -> bytes:
    body = _LINK.pack(0, 0, index, _UP if up else 0, _UP)
    return _message(_NEWLINK, _REQUEST | _ACK, 0, body)


def delete_link(index: int) -> bytes:
    return _message(_DELLINK, _REQUEST | _ACK, 0, _LINK.pack(0, 0, index, 0, 0))


def add_address(index: int, address: Address) -> bytes:
    """Tagged, as a host address, without duplicate detection: the peer may still have it."""
    flags = struct.pack("=I", _NODAD if address.version == 6 else 0)
    body = _address_body(index, address) + _attribute(_IFA_FLAGS, flags)
    body += _attribute(_IFA_PROTO, bytes([TAG]))
    return _message(_NEWADDR, _REQUEST | _ACK | _CREATE | _EXCL, 0, body)


def delete_address(index: int, address: Address) -> bytes:
    return _message(_DELADDR, _REQUEST | _ACK, 0, _address_body(index, address))


def prefix_length(address: Address) -> int:
    """A link-local address brings the route to its link along; the others stand alone."""
    if address.version == 4:
        return 32
    return 64 if address.is_link_local else 128


def _address_body(index: int, address: Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    head = _ADDRESS.pack(family, prefix_length(address), 0, 0, index)
    packed = address.packed
    return head + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)


# --- bytes ------------------------------------------------------------------------------


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def split(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """The messages in a datagram: type and what follows the header."""
    view = memoryview(data)
    while len(view) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(view)
        if length < _HEADER.size:
            return
        yield kind, view[_HEADER.size : length]
        view = view[(length + 3) & ~3 :]


def _attributes(view: memoryview) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(view) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(view)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = bytes(view[_ATTRIBUTE.size : length])
        view = view[(length + 3) & ~3 :]
    return found


def _samples(prefix: Network) -> list[Address]:
    if prefix.prefixlen == 0:
        return [address for address in _SAMPLES_OF_DEFAULT if address.version == prefix.version]
    last = prefix.num_addresses - 1
    return [prefix[number] for number in {min(1, last), last // 2, max(0, last - 1)}]


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _parse_link(body: memoryview) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body[_LINK.size :])
    info = _attributes(memoryview(found.get(_IFLA_LINKINFO, b"")))
    return Link(
        index,
        _text(found.get(_IFLA_IFNAME, b"")),
        found.get(_IFLA_ADDRESS, b""),
        bool(flags & _UP),
        flags & (_UP | _RUNNING) == _UP | _RUNNING,
        _text(found.get(_IFLA_IFALIAS, b"")),
        _text(info.get(_IFLA_INFO_KIND, b"")),
    )


def _parse_address(body: memoryview) -> Held | None:
    family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
    found = _attributes(body[_ADDRESS.size :])
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if packed is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if _IFA_FLAGS in found:
        flags = int.from_bytes(found[_IFA_FLAGS], sys.byteorder)
    address = ip_address(packed)
    assert isinstance(address, IPv4Address | IPv6Address)
    tag = int.from_bytes(found.get(_IFA_PROTO, b"\0"), sys.byteorder)
    primary = family == socket.AF_INET6 or not flags & _SECONDARY
    usable = not flags & (_TENTATIVE | _DADFAILED)
    return Held(index, address, prefix, tag, primary, usable)
