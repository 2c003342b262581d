"""What the program counts: a block for each CPU, read where it lies in memory.

The blocks are large and the kernel maps every page of a mapping at once, so they are mapped
a piece at a time, when a number in it is first asked for.
"""

import mmap
from collections.abc import Iterator
from ctypes import addressof, c_uint64, memset, sizeof

from lbctl.dataplane.port import Counters
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.bpf import Descriptor

PIECE = 65536  # bytes: no record lies across a boundary


class CpuCounters:
    """cpus: how many blocks there are."""

    def __init__(self, blocks: Descriptor, cpus: int) -> None:
        self._blocks = blocks
        self._cpus = cpus
        self._pieces: dict[int, mmap.mmap] = {}

    def verdicts(self) -> dict[str, int]:
        """Packets since the map was made, by the verdict they ended in."""
        return {
            name: sum(c_uint64.from_buffer(*at).value for at in self._places(number * 8))
            for number, name in enumerate(abi.VERDICTS)
        }

    def of_server(self, number: int) -> Counters:
        return sum((counters_of(cell) for cell in self._cells(number)), Counters())

    def clear(self, number: int) -> None:
        """A server starts from zero; no packet meets it yet."""
        for cell in self._cells(number):
            memset(addressof(cell), 0, sizeof(cell))

    def _cells(self, number: int) -> Iterator[abi.ServerStats]:
        offset = abi.VERDICT_ROOM * sizeof(c_uint64) + number * sizeof(abi.ServerStats)
        return (abi.ServerStats.from_buffer(*at) for at in self._places(offset))

    def _places(self, offset: int) -> Iterator[tuple[mmap.mmap, int]]:
        """Where a place of the block is in memory, for each CPU."""
        for cpu in range(self._cpus):
            piece, rest = divmod(cpu * sizeof(abi.CpuBlock) + offset, PIECE)
            yield self._piece(piece), rest

    def _piece(self, number: int) -> mmap.mmap:
        if number not in self._pieces:
            size = min(PIECE, self._cpus * sizeof(abi.CpuBlock) - number * PIECE)
            self._pieces[number] = bpf.map_memory(self._blocks, size, offset=number * PIECE)
        return self._pieces[number]


def counters_of(cell: abi.ServerStats) -> Counters:
    return Counters(
        cell.connections,
        cell.packets_in,
        cell.packets_out,
        cell.bytes_in,
        cell.bytes_out,
        cell.refused,
    )
