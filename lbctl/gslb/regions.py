"""Network -> region tables, as arrays: the blob `networks`.

Per map and family three arrays:

    first   u32[65537]   by a key's upper 16 bits: pieces that start at or before their zero
    starts  u32[n] (v4) or u64[n] (v6: upper half of the address), sorted, starts[0] = 0
    values  u32[n]       region << 8 | length of the piece

A look-up is a binary search between two neighbours in `first`: a handful of steps, all in
one place, and bounded (as an XDP verifier wants it).
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lbctl.gslb import blob
from lbctl.gslb.networks import BITS, Spans, pieces

MAGIC = b"lbGSLBn1"
MOST_REGIONS = 1 << 24
WIDTH = 6  # arrays per map: first, starts, values of IPv4, then of IPv6


class Family(NamedTuple):
    """One family's arrays, in place. shift: from a key to its upper 16 bits."""

    first: Sequence[int]
    starts: Sequence[int]
    values: Sequence[int]
    shift: int

    def find(self, key: int) -> tuple[int, int]:
        """(region, length of the piece that decided), for a key (`networks.key_of`)."""
        upper = key >> self.shift
        first = self.first
        value = self.values[bisect_right(self.starts, key, first[upper], first[upper + 1]) - 1]
        return value >> 8, value & 0xFF


class RegionMap(NamedTuple):
    """One network -> region table."""

    v4: Family
    v6: Family


def write(maps: Sequence[tuple[Spans[int], Spans[int]]]) -> bytes:
    """The blob of several maps, each as its IPv4 and IPv6 spans of region numbers."""
    sections: list[bytes] = []
    for spans4, spans6 in maps:
        sections += _arrays(pieces(spans4, BITS[4]), "I", BITS[4])
        sections += _arrays(pieces(spans6, BITS[6]), "Q", BITS[6])
    return blob.pack(MAGIC, sections)


def _arrays(found: Iterable[tuple[int, int, int]], kind: str, bits: int) -> list[bytes]:
    starts, values, below = array(kind), array("I"), array("I", bytes(4 * 65537))
    shift, up = bits - 16, (1 << (bits - 16)) - 1
    add_start, add_value = starts.append, values.append
    for start, length, region in found:
        add_start(start)
        add_value(region << 8 | length)
        below[(start + up) >> shift] += 1
    total = 0
    for upper, count in enumerate(below):
        total += count
        below[upper] = total
    return [below.tobytes(), starts.tobytes(), values.tobytes()]


def read(data: memoryview) -> list[RegionMap]:
    """The maps of a blob, in place. Raises blob.BadBlob."""
    sections = blob.unpack(MAGIC, data)
    maps = []
    for at in range(0, len(sections), WIDTH):
        first4, starts4, values4, first6, starts6, values6 = sections[at : at + WIDTH]
        v4 = Family(first4.cast("I"), starts4.cast("I"), values4.cast("I"), 16)
        v6 = Family(first6.cast("I"), starts6.cast("Q"), values6.cast("I"), 48)
        maps.append(RegionMap(v4, v6))
    return maps
