"""The server's sockets, opened once by the parent and inherited by the workers.

UDP: one socket per worker and address, in one SO_REUSEPORT group. A classic BPF program
picks the socket by source *network* (/24 or /56), so that all queries a rate limit counts
together meet one process. The parent holds the sockets: a worker that dies leaves its
queries in the queue for its successor, and the group keeps its order.
"""

import ctypes
import socket
import struct
from collections.abc import Iterable, Sequence

from lbctl.errors import LbctlError
from lbctl.gslb.rrl import NETWORK_OCTETS
from lbctl.model import Endpoint

SO_ATTACH_REUSEPORT_CBPF = 51
RECEIVE_BUFFER = 4 << 20  # octets: 20 ms of a busy core's queries; the kernel may cap it
SKF_NET_OFF = 0xFFF00000  # loads from here are relative to the IP header (linux/filter.h)

LD_W_ABS, LD_IMM, ALU_AND, ALU_XOR_X, ALU_MUL, ALU_RSH, ALU_MOD, TAX, RET_A = (
    0x20, 0x00, 0x54, 0xAC, 0x24, 0x74, 0x94, 0x07, 0x16,
)  # fmt: skip


def open_group(endpoint: Endpoint, workers: int) -> list[socket.socket]:
    """`workers` UDP sockets on `endpoint`, in the order that the selection counts them."""
    group = []
    for _ in range(workers):
        sock = _open(endpoint, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        _bind(sock, endpoint, "udp")
        group.append(sock)
    if workers > 1:
        attach_selection(group[0], endpoint.address.version, workers)
    return group


def buffer_fault(group: Iterable[socket.socket]) -> str:
    """What is wrong where the kernel gave one of these less than was asked for, if it did.
    What does not fit is lost, and its resolver asks again after most of a second."""
    # The kernel tells twice what it was asked for (socket(7)).
    held = [one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 for one in group]
    if all(octets >= RECEIVE_BUFFER for octets in held):
        return ""
    mend = f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER}, then restart"
    return f"{min(held) >> 10} KiB, not {RECEIVE_BUFFER >> 10}: bursts of queries are lost ({mend})"


def open_stream(endpoint: Endpoint) -> socket.socket:
    """The TCP listener on `endpoint`."""
    sock = _open(endpoint, socket.SOCK_STREAM)
    _bind(sock, endpoint, "tcp")
    sock.listen(256)
    sock.setblocking(False)
    return sock


def _open(endpoint: Endpoint, kind: int) -> socket.socket:
    family = socket.AF_INET if endpoint.address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, kind)
    option = socket.SO_REUSEPORT if kind == socket.SOCK_DGRAM else socket.SO_REUSEADDR
    sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind(sock: socket.socket, endpoint: Endpoint, proto: str) -> None:
    try:
        sock.bind((str(endpoint.address), endpoint.port))
    except OSError as error:
        sock.close()
        hint = "add the address to an interface, or stop the server that has the port"
        raise LbctlError(f"gslb: cannot listen on {endpoint}/{proto}: {error.strerror}", hint) \
            from None  # fmt: skip


def attach_selection(sock: socket.socket, version: int, workers: int) -> None:
    """Choose the group's socket by the source's network."""
    code = b"".join(struct.pack("HBBI", *one) for one in selection(version, workers))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)


def selection(version: int, workers: int) -> Sequence[tuple[int, int, int, int]]:
    """Classic BPF: hash(source network) mod workers.

    The upper bits of a product with a large odd number are well mixed; the lower are not.
    """
    if version == 4:
        load = [(LD_W_ABS, 0, 0, SKF_NET_OFF + 12), (ALU_AND, 0, 0, _mask(NETWORK_OCTETS[4]))]
    else:
        low = _mask(NETWORK_OCTETS[16] - 4)
        load = [
            (LD_W_ABS, 0, 0, SKF_NET_OFF + 8), (TAX, 0, 0, 0),
            (LD_W_ABS, 0, 0, SKF_NET_OFF + 12), (ALU_AND, 0, 0, low), (ALU_XOR_X, 0, 0, 0),
        ]  # fmt: skip
    return [
        *load, (ALU_MUL, 0, 0, 0x9E3779B1), (ALU_RSH, 0, 0, 16),
        (ALU_MOD, 0, 0, workers), (RET_A, 0, 0, 0),
    ]  # fmt: skip


def _mask(octets: int) -> int:
    return (0xFFFFFFFF << 8 * (4 - octets)) & 0xFFFFFFFF
