"""Programs behind one wrapper (wrapper.c), which varies the packet that they are run on."""

import struct
import time
from dataclasses import dataclass
from pathlib import Path

from bcc import BPF

from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.bpf import Descriptor

NOTHING = "nothing"  # the program that does nothing: what the wrapper itself costs
ENDLESS = 1 << 32  # flows: none comes twice
TEMPLATE = struct.Struct("=80sIIIIII")


@dataclass(frozen=True, slots=True)
class Packets:
    """What a wrapper makes. frame: 64 bytes (80 of IPv6 and ICMP), its client 198.18.0.0 (or
    ::) with port 0. flows: a power of two, or ENDLESS. reply: the client is the destination.
    services: how many addresses from the frame's on are destinations."""

    frame: bytes
    flows: int = 1
    reply: bool = False
    services: int = 1

    @property
    def proto(self) -> int:
        return self.frame[23]

    @property
    def wrapper(self) -> str:
        if len(self.frame) == 80:
            return "wrapper6"
        return "wrapper" if self.services == 1 else "wrapper_spread"


class Wrapped:
    """Programs by name in `candidates`; `run()` sends packets through one of them. ifindex:
    the interface that they seem to come in on; 0: none."""

    def __init__(self, ifindex: int = 0) -> None:
        self._wrapper = BPF(text=Path(__file__).with_name("wrapper.c").read_text())
        self._mains = {
            name: self._wrapper.load_func(name, BPF.XDP).fd
            for name in ("wrapper", "wrapper6", "wrapper_spread")
        }
        self._templates = map_of(self._wrapper, "templates")
        self._slots = map_of(self._wrapper, "candidates")
        self._ifindex = ifindex
        self._fresh = 0  # number of the next flow that no packet has had yet
        self.candidates: dict[str, int] = {}
        self.add(NOTHING, self._wrapper.load_func(NOTHING, BPF.XDP).fd)

    def add(self, name: str, fd: int) -> None:
        number = self.candidates[name] = len(self.candidates)
        bpf.update(self._slots, number.to_bytes(4, "little"), fd.to_bytes(4, "little"))

    def run(self, candidate: str, packets: Packets, count: int) -> float:
        """CPU nanoseconds per packet, wrapper included. The flows' order starts anew, but
        for packets that never repeat. Raises AssertionError if the last was not sent."""
        start = 0
        if packets.flows == ENDLESS:
            start, self._fresh = self._fresh, (self._fresh + count) % ENDLESS
        self._write_template(candidate, packets, start)
        started = time.thread_time_ns()
        main = Descriptor(self._mains[packets.wrapper])
        done = bpf.run_program(main, packets.frame, repeat=count, ifindex=self._ifindex)
        spent = time.thread_time_ns() - started
        assert done.action == 3, f"{candidate}: action {done.action}, not XDP_TX"
        return spent / count

    def one(self, candidate: str, packets: Packets, flow: int) -> bytes:
        """The frame that comes out for packet number `flow`."""
        self._write_template(candidate, packets, flow)
        main = Descriptor(self._mains[packets.wrapper])
        return bpf.run_program(main, packets.frame, ifindex=self._ifindex).data

    def _write_template(self, candidate: str, packets: Packets, start: int) -> None:
        check = 50 if packets.proto == 6 else 40
        number = self.candidates[candidate]
        mask = packets.flows - 1
        frame, spread = packets.frame.ljust(80, b"\0"), packets.services - 1
        value = TEMPLATE.pack(frame, start, mask, number, packets.reply, check, spread)
        bpf.update(self._templates, bytes(4), value)

    def close(self) -> None:
        self._wrapper.cleanup()


def map_of(module: BPF, name: str) -> Descriptor:
    return Descriptor(module[name].map_fd)
