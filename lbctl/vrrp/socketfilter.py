"""Which VRRP packets a raw socket hears: classic BPF, so that a flood ends in the kernel.

A raw IPv4 socket's data start at the IP header, IPv6's behind it.
"""

import ctypes
import socket
import struct
from collections.abc import Iterable

from lbctl.model import Address

_SO_ATTACH_FILTER = 26

# linux/filter.h: code, jump if true, jump if false, constant.
_LD_BYTE_X, _LD_BYTE, _LD_WORD = 0x50, 0x30, 0x20
_LDX_IP_HEADER, _JUMP_IF, _RETURN = 0xB1, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from the IP header
_SOURCE6 = 8
_HEARD, _REFUSED = 0xFFFF, 0

Instruction = tuple[int, int, int, int]


def ours(vrid: int, peers: Iterable[Address], six: bool) -> list[Instruction]:
    """What has this VRID and comes from one of `peers`, if there are any."""
    return _of_vrid(vrid, peers, six, heard=_HEARD, rest=_REFUSED)


def others(vrid: int, peers: Iterable[Address], six: bool) -> list[Instruction]:
    """What has this VRID and comes from none of `peers`."""
    return _of_vrid(vrid, peers, six, heard=_REFUSED, rest=_HEARD)


def strangers(vrids: Iterable[int], six: bool) -> list[Instruction]:
    """What has none of `vrids`."""
    program = _load_vrid(six)
    for vrid in sorted(vrids):
        program += [(_JUMP_IF, 0, 1, vrid), (_RETURN, 0, 0, _REFUSED)]
    return [*program, (_RETURN, 0, 0, _HEARD)]


def attach(one: socket.socket, program: list[Instruction]) -> None:
    """In place of the filter it has. The kernel copies the program while the call lasts."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _load_vrid(six: bool) -> list[Instruction]:
    if six:
        return [(_LD_BYTE, 0, 0, 1)]
    return [(_LDX_IP_HEADER, 0, 0, 0), (_LD_BYTE_X, 0, 0, 1)]


def _of_vrid(
    vrid: int, peers: Iterable[Address], six: bool, heard: int, rest: int
) -> list[Instruction]:
    """heard: of those of `peers` (of all, if there are none); rest: of other sources."""
    program = [*_load_vrid(six), (_JUMP_IF, 1, 0, vrid), (_RETURN, 0, 0, _REFUSED)]
    peers = list(peers)
    for peer in peers:
        program += _from_peer(peer, heard)
    program.append((_RETURN, 0, 0, rest if peers else heard))
    return program


def _from_peer(peer: Address, answer: int) -> list[Instruction]:
    """Return `answer` if the source is `peer`, else go on behind."""
    words = struct.unpack(f"!{len(peer.packed) // 4}I", peer.packed)
    first = _NETWORK_HEADER + (12 if peer.version == 4 else _SOURCE6)
    program: list[Instruction] = []
    for number, word in enumerate(words):
        left = len(words) - number - 1
        program.append((_LD_WORD, 0, 0, first + 4 * number))
        program.append((_JUMP_IF, 0, 2 * left + 1, word))
    return [*program, (_RETURN, 0, 0, answer)]
