"""What a driver says of its interface: the file that knows ethtool's ioctls.

An interface that does not know a question answers None. Numbers and layouts are those of
linux/ethtool.h.
"""

import fcntl
import socket
import struct
from ctypes import addressof, create_string_buffer

SIOCETHTOOL = 0x8946
GDRVINFO, GFLAGS, GGRO, GCHANNELS = 0x03, 0x25, 0x2B, 0x3C
FLAG_RXVLAN, FLAG_LRO = 1 << 8, 1 << 15


def driver(name: str) -> str:
    """Its name; empty where nobody says."""
    answer = _ask(name, GDRVINFO, 196)
    return "" if answer is None else answer[4:36].partition(b"\0")[0].decode(errors="replace")


def lro(name: str) -> bool | None:
    return _flag(name, FLAG_LRO)


def vlan_stripping(name: str) -> bool | None:
    return _flag(name, FLAG_RXVLAN)


def gro(name: str) -> bool | None:
    answer = _ask(name, GGRO, 8)
    return None if answer is None else bool(struct.unpack_from("=I", answer, 4)[0])


def queues(name: str) -> tuple[int, int] | None:
    """(how many receive, how many could)."""
    answer = _ask(name, GCHANNELS, 36)
    if answer is None:
        return None
    most_rx, _, _, most, rx, _, _, combined = struct.unpack_from("=8I", answer, 4)
    return rx + combined, most_rx + most


def _flag(name: str, bit: int) -> bool | None:
    answer = _ask(name, GFLAGS, 8)
    return None if answer is None else bool(struct.unpack_from("=I", answer, 4)[0] & bit)


def _ask(name: str, command: int, size: int) -> bytes | None:
    """size: of the answer, with the command in front."""
    value = create_string_buffer(struct.pack("=I", command), size)
    request = struct.pack("=16sQ", name.encode(), addressof(value)).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control.fileno(), SIOCETHTOOL, request)
        except OSError:
            return None
    return value.raw
