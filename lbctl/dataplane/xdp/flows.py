"""The flow cache seen from the control plane: ageing and counting by the sweep program,
export and import of ways for a peer that shares the hash key."""

import ctypes
import math
import mmap
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from lbctl.dataplane.port import PLACE, Active
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.abi import FlowState, SweepKind
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
    FlowState.RETURN_NEW: 8,
    FlowState.FRAGMENT: 12,
    FlowState.CLIENT: 8000,  # each listen says how long: the sweep and the program ask it
}
OPEN = (
    FlowState.EMBRYONIC,
    FlowState.ESTABLISHED,
    FlowState.FIN_CLIENT,
    FlowState.FIN_SERVER,
    FlowState.UDP,
)
CLOCK_MONOTONIC_COARSE = 6  # of linux/time.h
TICK = 4.0  # seconds, about: the age field counts these

SET = ctypes.sizeof(abi.FlowSet)
PAGE = 64 * SET  # bytes that are compared at a time
STALE = 4  # a peer hears of a flow's age once in 2^4 ticks
_SET = struct.Struct(f"={abi.FLOW_WAYS}Q{abi.FLOW_WAYS}I4x")
# States that mean nothing to a peer.
_OWN = {FlowState.EMPTY, FlowState.CLOSED, FlowState.FRAGMENT, FlowState.RETURN_NEW}


def linear_count(busy: int, slots: int) -> int:
    """About how many flows met `busy` of `slots` slots; where all are, at least so many."""
    if not busy:
        return 0
    return round(slots * math.log(slots / max(1, slots - busy)))


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
        ticks = [max(1, round(TIMEOUTS.get(state, 0) / self.tick)) for state in FlowState]
        return [*ticks, *[0] * (abi.STATES - len(ticks))]


@dataclass(frozen=True, slots=True)
class Way:
    """A remembered flow as the program wrote it. set: its number."""

    set: int
    tag: int
    server: int
    state: FlowState
    age: int
    isn: int = 0

    LAYOUT = struct.Struct("<IQI")

    @property
    def key(self) -> bytes:
        return self.LAYOUT.pack(self.set, self.tag << abi.TAG_SHIFT, self.isn)

    @classmethod
    def place(cls, key: bytes) -> tuple[int, int, int]:
        """(set, tag bits in place, ISN) of an exported key."""
        number, tag, isn = cls.LAYOUT.unpack(key)
        return number, tag, isn


@dataclass(frozen=True, slots=True)
class Settled:
    """What a look at the slots of a ring found."""

    changing: int
    settled: int


class FlowCache:
    """Not thread-safe, like the plane that owns it."""

    def __init__(self, maps: Maps, sets: int) -> None:
        self._maps = maps
        self.sets = sets
        self._before = bytearray()

    @cached_property
    def _cells(self) -> "ctypes.Array[abi.FlowSet]":
        """All sets, live: mapped only by who exports or imports."""
        return (abi.FlowSet * self.sets).from_buffer(self._memory)

    @cached_property
    def _memory(self) -> mmap.mmap:
        return self._maps.flow_memory(self.sets)

    def sweep(self, program: Descriptor) -> None:
        """Forget what is too old or names a dead server; count the rest."""
        counts = self._maps.flow_counts
        ctypes.memset(ctypes.addressof(counts), 0, ctypes.sizeof(counts))
        for first in range(0, self.sets, abi.SWEEP_SETS):
            _ask(program, SweepKind.FLOWS, first)

    def drop(self, program: Descriptor) -> None:
        """Forget what names a dead server, and records of slots that do not change."""
        for first in range(0, self.sets, abi.SWEEP_SETS):
            _ask(program, SweepKind.DROP, first)

    def settle(self, program: Descriptor, slots: range, idle: int) -> Settled:
        """After a sweep: slots whose old server is finished, and that no record needs, stop
        changing. slots: counted from the first page on. idle: in ticks."""
        changing = settled = 0
        for first in slots[:: abi.SWEEP_SLOTS_AT_ONCE]:
            answer = _ask(program, SweepKind.SLOTS, first, idle)
            changing += answer & 0xFFFF
            settled += answer >> 16
        return Settled(changing, settled)

    def tick(self, program: Descriptor) -> int:
        """The program's clock now: 32 bits."""
        return _ask(program, SweepKind.TICK)

    def active(self, server: int) -> Active:
        """As the last sweep counted."""
        count = self._maps.flow_counts[server].in_state
        return Active(
            count[FlowState.ESTABLISHED] + count[FlowState.UDP],
            "records",
            count[FlowState.EMBRYONIC],
            count[FlowState.FIN_CLIENT] + count[FlowState.FIN_SERVER],
        )

    def open(self, server: int) -> int:
        """All but those that have ended, as the last sweep counted."""
        count = self._maps.flow_counts[server].in_state
        return sum(count[state] for state in OPEN)

    def estimate(self, server: int, tick: int, seconds: float) -> Active:
        """Of a server that drains and whose flows nobody remembers, as the last sweep found
        it: linear counting over its slots (Whang et al., 1990). Flows that do have records are
        counted. tick: now, each of so many seconds."""
        count = self._maps.flow_counts[server]
        recorded = count.in_state[FlowState.ESTABLISHED] + count.in_state[FlowState.UDP]
        unrecorded = linear_count(count.busy_slots, count.old_slots)
        silent = max(0, tick - count.last_old) * seconds if count.old_slots else None
        embryonic = count.in_state[FlowState.EMBRYONIC]
        return Active(recorded + unrecorded, "estimate", embryonic, silent=silent)

    def find(self, hash_: int, tick: int, timeouts: Sequence[int]) -> Way | None:
        """The way of a flow, as the program finds it (flows.h, lb_flow_find)."""
        number = hash_ & (self.sets - 1)
        cells = self._cells[number]
        for word, isn in zip(cells.way, cells.isn, strict=True):
            if not word or (word ^ hash_) >> abi.TAG_SHIFT:
                continue
            way = _way(number, word, isn)
            if (tick - way.age) & (1 << abi.AGE_BITS) - 1 <= timeouts[way.state]:
                return way
        return None

    def __iter__(self) -> Iterator[Way]:
        for number, cells in enumerate(_SET.iter_unpack(memoryview(self._cells))):
            if not any(cells[: abi.FLOW_WAYS]):
                continue
            for word, isn in zip(cells[: abi.FLOW_WAYS], cells[abi.FLOW_WAYS :], strict=True):
                if word:
                    yield _way(number, word, isn)

    def changes(self, whole: bool) -> tuple[list[Way], list[bytes]]:
        """Ways that came or changed since this was last asked, and places of those that are
        gone. Of one that only got older, once in `STALE` ticks. Compared a page at a time: in
        most nothing has changed."""
        memory, size = self._memory, self.sets * SET
        if whole or len(self._before) != size:
            self._before = bytearray(size)
        fresh: list[Way] = []
        gone: list[bytes] = []
        for page in range(0, size, PAGE):
            now, then = memory[page : page + PAGE], bytes(self._before[page : page + PAGE])
            if now == then:
                continue
            self._before[page : page + PAGE] = now
            for at in range(0, len(now), SET):
                if now[at : at + SET] != then[at : at + SET]:
                    number = (page + at) // SET
                    _compare(number, then[at : at + SET], now[at : at + SET], fresh, gone)
        return fresh, gone

    def forget(self, place: bytes) -> None:
        """The flow that lies there, if it is still there."""
        number, tag, _ = Way.place(place.ljust(16, b"\0"))
        cells = self._cells[number & (self.sets - 1)]
        for at, word in enumerate(cells.way):
            if word and word >> abi.TAG_SHIFT == tag >> abi.TAG_SHIFT:
                cells.way[at] = 0

    def put(self, key: bytes, server: int, state: FlowState, tick: int) -> bool:
        """Write a flow that a peer remembered. A gateway imports before it is Active; where
        it is Active for other listens, a way that their packet claims in the same moment is
        lost."""
        number, tag, isn = Way.place(key)
        cells = self._cells[number & (self.sets - 1)]
        age = tick & (1 << abi.AGE_BITS) - 1
        word = tag | server << abi.SERVER_SHIFT | state << abi.STATE_SHIFT | age
        for at, present in enumerate(cells.way):
            if not present or present >> abi.TAG_SHIFT == tag >> abi.TAG_SHIFT:
                cells.isn[at] = isn
                cells.way[at] = word
                return True
        return False


def _compare(number: int, then: bytes, now: bytes, fresh: list[Way], gone: list[bytes]) -> None:
    """What became of the ways of one set."""
    words, isns = _SET.unpack(now)[: abi.FLOW_WAYS], _SET.unpack(now)[abi.FLOW_WAYS :]
    known = {
        word >> abi.TAG_SHIFT: word >> STALE
        for word in _SET.unpack(then)[: abi.FLOW_WAYS]
        if word >> abi.STATE_SHIFT & abi.STATE_MASK not in _OWN
    }
    for word, isn in zip(words, isns, strict=True):
        if word >> abi.STATE_SHIFT & abi.STATE_MASK in _OWN:
            continue
        if known.pop(word >> abi.TAG_SHIFT, None) != word >> STALE:
            fresh.append(_way(number, word, isn))
    gone += [Way.LAYOUT.pack(number, tag << abi.TAG_SHIFT, 0)[:PLACE] for tag in known]


def _way(number: int, word: int, isn: int) -> Way:
    state = FlowState(word >> abi.STATE_SHIFT & abi.STATE_MASK)
    return Way(
        number,
        word >> abi.TAG_SHIFT,
        word >> abi.SERVER_SHIFT & abi.SERVER_MASK,
        state,
        word & (1 << abi.AGE_BITS) - 1,
        isn if state is FlowState.EMBRYONIC else 0,
    )


def _ask(program: Descriptor, kind: SweepKind, first: int = 0, idle: int = 0) -> int:
    """Run the sweep program once."""
    job = bytes(abi.SweepJob(kind, first, idle))
    return bpf.run_program(program, job.ljust(64, b"\0")).action
