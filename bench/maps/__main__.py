"""python -m bench.maps: see bench/README.md.

Where flows are remembered: the kernel's LRU hash with one list or one a CPU, with a value a CPU,
and sets of ways of our own, shared or each CPU's. How rings are laid out: bytes a slot, slots a
ring, one ring or a thousand. How a ring is changed: in place, or by another in its stead.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path

from bcc import BPF

from bench.prog.cases import ACK_RR, FLOWS, to_listen
from bench.prog.stand import FIRST_OF_MANY, MANY
from bench.prog.wrapped import ENDLESS, NOTHING, Packets, Wrapped, map_of
from bench.report import Report, Summary
from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.bpf import Descriptor, MapSpec, MapType

LISTS = ("flow_lru", "flow_lru_lists", "flow_lru_percpu")
OWN = ("flow_sets", "flow_cpu_sets")
WIDTHS, BITS = ("u8", "u8_names", "u16", "u32"), (11, 14, 16)
RINGS = tuple(f"ring_{width}_{bits}" for width, bits in product(WIDTHS, BITS))
SWAPPED, HASH = "ring_swapped", "hash_only"
PARTS, PART = 32, 4096  # values of a map that is a ring of 2^16 slots of two bytes
RING_BYTES = PARTS * PART
SET_BYTES = 64
COUNT, NEW = 65536, 32768  # packets a run; so few new flows that sets stay half empty

PACKETS = {label: Packets(ACK_RR.frame, flows) for flows, label in FLOWS.items() if flows != 4096}
NEW_FLOW = Packets(ACK_RR.frame, ENDLESS)
RING_PACKETS = {
    "1 ring": Packets(ACK_RR.frame, 65536),
    "1,024 rings": Packets(to_listen(f"{FIRST_OF_MANY}:80/tcp"), 65536, services=MANY),
}


class Bench:
    """Samples by what was measured, in the order in which it first was."""

    def __init__(self, wrapped: Wrapped, module: BPF) -> None:
        self.wrapped = wrapped
        self.module = module
        self.samples: dict[tuple[str, str], list[float]] = defaultdict(list)

    def round(self, turn: int) -> None:
        """Everything once. turn: who goes first, as order matters to caches."""
        for label, packets in PACKETS.items():
            self._together(f"flow known, {label}", packets, (*LISTS, *OWN, HASH), turn)
        self._new_flows(turn)
        for label, packets in RING_PACKETS.items():
            programs = (*RINGS, SWAPPED) if label == "1 ring" else RINGS
            self._together(label, packets, programs, turn)
        self._writes()

    def _together(self, case: str, packets: Packets, programs: tuple[str, ...], turn: int) -> None:
        base = self.wrapped.run(NOTHING, packets, COUNT)
        first = turn % len(programs)
        for program in programs[first:] + programs[:first]:
            if program in OWN:
                self._forget(program)
            self.wrapped.run(program, packets, 2 * packets.flows)  # what was evicted comes back
            cost = self.wrapped.run(program, packets, COUNT)
            self.samples[case, program].append(cost - base)

    def _new_flows(self, turn: int) -> None:
        """The lists are full, of other flows; sets are emptied: who finds none is not kept."""
        base = self.wrapped.run(NOTHING, NEW_FLOW, NEW)
        programs = (*LISTS, *OWN)
        first = turn % len(programs)
        for program in programs[first:] + programs[:first]:
            if program in OWN:
                self._forget(program)
            cost = self.wrapped.run(program, NEW_FLOW, NEW)
            self.samples["new flow", program].append(cost - base)

    def _forget(self, program: str) -> None:
        table = self.module[program.removeprefix("flow_")]
        memory = bpf.map_memory(Descriptor(table.map_fd), SET_BYTES * len(table))
        memory[:] = bytes(len(memory))
        memory.close()

    def _writes(self) -> None:
        """Microseconds of a process: one slot, a whole ring, a ring in another's stead."""
        memory = bpf.map_memory(map_of(self.module, "written"), RING_BYTES)
        fresh = bytes(RING_BYTES)
        self._time("one slot, in place", lambda: memory.__setitem__(slice(6, 8), b"\0\0"))
        self._time("all slots, in place", lambda: memory.__setitem__(slice(0, RING_BYTES), fresh))
        self._time("all slots, swapped", lambda: swap(self.module, fresh))
        memory.close()

    def _time(self, case: str, act: Callable[[], object]) -> None:
        started = time.perf_counter_ns()
        act()
        self.samples["2^16 slots", case].append((time.perf_counter_ns() - started) / 1000)


def swap(module: BPF, content: bytes) -> None:
    """A new inner map, filled, takes the old one's place; returns when no packet reads that."""
    ring = bpf.create_map(MapSpec("ring", MapType.ARRAY, PART, PARTS))
    for number in range(PARTS):
        part = content[number * PART :][:PART]
        bpf.update(ring, number.to_bytes(4, "little"), part)
    bpf.update(map_of(module, "outer"), bytes(4), ring.fd.to_bytes(4, "little"))
    ring.close()


def fill(report: Report, bench: Bench) -> None:
    for (case, program), samples in bench.samples.items():
        unit = "us" if case == "2^16 slots" else "ns"
        report.case(f"{case}: {program}", samples, unit)

    def p20(case: str, program: str) -> float:
        return Summary.of(bench.samples[case, program]).p20

    for case in (*(f"flow known, {label}" for label in PACKETS), "new flow"):
        best = min(p20(case, program) for program in LISTS)
        report.target(f"{case}: own sets / the best LRU", p20(case, OWN[0]) / best, "x", "<=", 1)
    case = "2^16 slots"
    ratio = p20(case, "all slots, in place") / p20(case, "all slots, swapped")
    report.target("all of 2^16 slots: in place / swapped", ratio, "x", "<=", 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.maps", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="at least 15 to be quoted")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.maps: loading programs needs root: sudo make bench-maps", file=sys.stderr)
        return 5
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    module = BPF(text=Path(__file__).with_name("maps.c").read_text())
    wrapped = Wrapped()
    for program in (*LISTS, *OWN, HASH, *RINGS, SWAPPED):
        wrapped.add(program, module.load_func(program, BPF.XDP).fd)
    swap(module, bytes(RING_BYTES))
    bench = Bench(wrapped, module)
    for turn in range(arguments.rounds):
        bench.round(turn)
    report = Report("maps")
    fill(report, bench)
    wrapped.close()
    module.cleanup()
    return min(1, report.finish())


if __name__ == "__main__":
    sys.exit(main())
