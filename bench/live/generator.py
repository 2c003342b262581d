"""Live frames into a link, and a count of those that arrive at another's end."""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bcc import BPF

from lbctl.dataplane.madeup import MadeUp, build
from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.dataplane.xdp.maps import possible_cpus
from lbctl.model import Endpoint, Listen
from tests.bpf.gateway import inside

TEMPLATE = struct.Struct("=64sIIII")
LIVE_FRAMES = 2  # BPF_F_TEST_XDP_LIVE_FRAMES
BATCH = 64
CLIENT = "198.18.0.0:0"  # flows differ in its low half and its port
ENDLESS = 1 << 32  # flows: none comes twice


class Generator:
    """space: a descriptor of the network namespace that it sends in."""

    def __init__(self, space: int) -> None:
        self.space = space
        self._module = BPF(text=(Path(__file__).parent / "generator.c").read_text())
        self._program = self._module.load_func("generate", BPF.XDP).fd
        self._sink = self._module.load_func("sink", BPF.XDP).fd
        self._links: list[Descriptor] = []
        self._next = 0

    def count_at(self, space: int, name: str) -> None:
        """Frames that arrive at this interface are counted, and go nowhere."""
        with inside(space):
            index = socket.if_nametoindex(name)
            self._links.append(bpf.attach_xdp(Descriptor(self._sink), index, bpf.XDP_NATIVE))

    @property
    def arrived(self) -> int:
        value = bpf.lookup(
            Descriptor(self._module["arrived"].map_fd), bytes(4), 8 * possible_cpus()
        )
        return sum(struct.unpack(f"={possible_cpus()}Q", value))

    def aim(self, name: str, to: str, mac: bytes, flows: int) -> None:
        """What `send` sends from now on. name: the interface here; mac: at its other end."""
        listen = Listen.parse(to)
        size = 22 if listen.proto == "udp" else 0  # 60 bytes and the FCS
        made = MadeUp(Endpoint.parse(CLIENT, lowest=0), listen, size=size)
        frame = build(made, mac, bytes.fromhex("020000000064"))[:64].ljust(64, b"\0")
        check = 40 if listen.proto == "udp" else 50
        with inside(self.space):
            self._index = socket.if_nametoindex(name)
        value = TEMPLATE.pack(frame, 0, (flows - 1) & 0xFFFFFFFF, self._index, check)
        templates = Descriptor(self._module["templates"].map_fd)
        bpf.update(templates, bytes(4), value)

    def send(self, count: int, batch: int = BATCH) -> None:
        """In the calling thread; returns once all were handed on."""
        data = ctypes.create_string_buffer(64)
        context = ctypes.create_string_buffer(struct.pack("=IIIIII", 0, 64, 0, self._index, 0, 0))
        attr = struct.pack(
            "=IIIIQQIIIIQQIII",
            self._program,
            0,
            len(data),
            0,
            ctypes.addressof(data),
            0,
            count,
            0,
            24,
            0,
            ctypes.addressof(context),
            0,
            LIVE_FRAMES,
            0,
            batch,
        )
        with inside(self.space):
            bpf._bpf(bpf.Command.PROG_TEST_RUN, ctypes.create_string_buffer(attr, 128))

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._module.cleanup()


@contextmanager
def generator(space: int) -> Iterator[Generator]:
    made = Generator(space)
    try:
        yield made
    finally:
        made.close()


def namespace(name: str) -> int:
    """A descriptor of a named network namespace."""
    return os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
