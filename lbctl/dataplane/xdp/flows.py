"""The flow cache seen from the control plane: ageing and counting by the sweep program,
export and import of ways for a peer that shares the hash key."""

import ctypes
import math
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lbctl.dataplane.port import Active
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.dataplane.xdp.maps import Maps

# Seconds without a packet after which a flow is forgotten. Established as in IPVS; a
# client that half-closed may still download.
TIMEOUTS = {
    FlowState.EMBRYONIC: 8,
    FlowState.ESTABLISHED: 900,
    FlowState.FIN_CLIENT: 120,
    FlowState.FIN_SERVER: 120,
    FlowState.CLOSED: 4,
    FlowState.UDP: 300,
    FlowState.RETURN: 900,
}
CLOCK_MONOTONIC_COARSE = 6  # of linux/time.h
TICK = 4.0  # seconds, about: the age field counts these


@dataclass(frozen=True, slots=True)
class Clock:
    """How the program's clock (jiffies) becomes ticks."""

    shift: int
    tick: float  # seconds

    @classmethod
    def of_this_kernel(cls) -> "Clock":
        """The coarse clock's resolution is one jiffy."""
        jiffy = time.clock_getres(CLOCK_MONOTONIC_COARSE)
        shift = round(math.log2(TICK / jiffy))
        return cls(shift, jiffy * 2**shift)

    def timeouts(self) -> list[int]:
        """In ticks, by state; at least one, so that a fresh way is not dead at once."""
        return [max(1, round(TIMEOUTS.get(state, 0) / self.tick)) for state in FlowState]


@dataclass(frozen=True, slots=True)
class Way:
    """A remembered flow as the program wrote it. set: its number."""

    set: int
    tag: int
    server: int
    state: FlowState
    age: int

    _LAYOUT = struct.Struct("<IQ")

    @property
    def key(self) -> bytes:
        return self._LAYOUT.pack(self.set, self.tag << abi.TAG_SHIFT)

    @classmethod
    def place(cls, key: bytes) -> tuple[int, int]:
        """(set, tag bits in place) of an exported key."""
        number, tag = cls._LAYOUT.unpack(key)
        return number, tag


class FlowCache:
    """Not thread-safe, like the plane that owns it."""

    def __init__(self, maps: Maps, sets: int) -> None:
        self._maps = maps
        self._sets = sets

    @cached_property
    def _ways(self) -> "memoryview[int]":
        """All ways, live: mapped only by who exports or imports."""
        return memoryview(self._maps.flow_memory(self._sets)).cast("B").cast("Q")

    def sweep(self, program: Descriptor) -> None:
        """Forget what is too old or names a dead server; count the rest."""
        counts = self._maps.flow_counts
        ctypes.memset(ctypes.addressof(counts), 0, ctypes.sizeof(counts))
        for first in range(0, self._sets, abi.SWEEP_SETS):
            bpf.run_program(program, struct.pack("=I60x", first))

    def tick(self, program: Descriptor) -> int:
        """The program's clock now: it answers one more than the tick."""
        return bpf.run_program(program, struct.pack("=I60x", self._sets)).action - 1

    def active(self, server: int) -> Active:
        """As the last sweep counted."""
        count = self._maps.flow_counts[server].in_state
        return Active(
            count[FlowState.ESTABLISHED] + count[FlowState.UDP],
            "records",
            count[FlowState.EMBRYONIC],
            count[FlowState.FIN_CLIENT] + count[FlowState.FIN_SERVER],
        )

    def __iter__(self) -> Iterator[Way]:
        for at, word in enumerate(self._ways[: self._sets * abi.FLOW_WAYS]):
            if word:
                yield Way(
                    at // abi.FLOW_WAYS,
                    word >> abi.TAG_SHIFT,
                    word >> abi.SERVER_SHIFT & abi.SERVER_MASK,
                    FlowState(word >> abi.STATE_SHIFT & 7),
                    word & (1 << abi.AGE_BITS) - 1,
                )

    def put(self, key: bytes, server: int, state: FlowState, tick: int) -> bool:
        """Write a flow that a peer remembered. Only while no packet meets the set: a
        gateway imports before it is Active."""
        number, tag = Way.place(key)
        start = (number & (self._sets - 1)) * abi.FLOW_WAYS
        word = tag | server << abi.SERVER_SHIFT | state << abi.STATE_SHIFT | tick
        for at in range(start, start + abi.FLOW_WAYS):
            if not self._ways[at] or self._ways[at] >> abi.TAG_SHIFT == tag >> abi.TAG_SHIFT:
                self._ways[at] = word
                return True
        return False
