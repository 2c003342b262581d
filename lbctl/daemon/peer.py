"""Who is on the other end of a Unix socket, and whether they may change anything."""

import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

GROUP = "lbctl"
_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_MOST = 1024  # bytes that socket.getsockopt returns at most: 256 groups
_UCRED = struct.Struct("3i")  # pid, uid, gid


class PeerSocket(Protocol):
    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Peer:
    """The credentials that the kernel noted when the peer connected."""

    uid: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"

    def may_change(self, own_uid: int, group: int | None) -> bool:
        """root, whoever runs the daemon, and the members of its group."""
        return self.uid in (0, own_uid) or (group is not None and group in self.groups)


def peer_of(connection: PeerSocket) -> Peer:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, gid = _UCRED.unpack(raw)
    return Peer(uid, frozenset({gid, *_groups(connection)}))


def _groups(connection: PeerSocket) -> tuple[int, ...]:
    """The supplementary groups, as long as there are no more than Python can be told."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def group_id() -> int | None:
    """The group that may change things, where the machine has one."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None
