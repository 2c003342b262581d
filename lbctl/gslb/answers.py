"""Name x region -> ready bytes: the blobs `names` and `answers`.

`names` changes with the configuration only: an open-addressed hash table.

    table    u32[2^k]   octet of a record in `records`, plus 1; 0: free
    records  { slot u32, length u16, key } each; key = question in lower case

`answers` changes with health, load, weights. Numbers index into the next array:

    slots    { pool u32 (or NONE), choice u32 }         by slot number
    pools    { map, mode, prefix4, prefix6, cell } u32  by pool number
    cells    { ring u32, length u32 }                   pool's `cell` + region
    rings    u32: reason << 16 | choice                 length is a power of two
    choices  u32: octet in `bytes`                      slot's `choice` + ring's choice
    bytes    { flags, answers, authorities, additionals, length, 0 } u16, label u32, body;
             each begins on a multiple of 4
    labels   lines `name TAB site`, in the order that `label` counts them

A choice's number means the same members in every slot of a pool.
"""

import struct
import zlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from lbctl.gslb import blob
from lbctl.gslb.records import Answer

NAMES_MAGIC = b"lbGSLBq1"
ANSWERS_MAGIC = b"lbGSLBa1"
NONE = 0xFFFFFFFF
BY_TURN, STICKY = 0, 1
RECORD = struct.Struct("<IH")
ANSWER = struct.Struct("<5HxxI")
REASONS = (
    "static", "only", "all-down", "spill", "unhealthy", "cidr", "asn", "city", "country",
    "continent", "nearest", "measured", "failover", "weighted", "round-robin", "sticky",
)  # fmt: skip


class PoolRow(NamedTuple):
    """A pool as the answers blob has it. cell: of its region 0."""

    map: int
    mode: int
    prefix4: int
    prefix6: int
    cell: int


class Ring(NamedTuple):
    """Choices of one pool in one region, with the reason for each."""

    choices: tuple[int, ...]
    reasons: tuple[str, ...]


# --- names ------------------------------------------------------------------------------


def write_names(keys: Sequence[bytes]) -> bytes:
    """The blob `names`: key -> its place in `keys`."""
    size = 1 << max(3, (2 * len(keys)).bit_length())
    table, records = array("I", bytes(4 * size)), bytearray()
    for slot, key in enumerate(keys):
        at = zlib.crc32(key) % size
        while table[at]:
            at = (at + 1) % size
        table[at] = len(records) + 1
        records += RECORD.pack(slot, len(key)) + key
    return blob.pack(NAMES_MAGIC, [table.tobytes(), bytes(records)])


def read_names(data: memoryview) -> dict[bytes, int]:
    """key -> slot. Raises blob.BadBlob."""
    _, records = blob.unpack(NAMES_MAGIC, data)
    names, at = {}, 0
    while at < len(records):
        slot, length = RECORD.unpack_from(records, at)
        at += RECORD.size
        names[bytes(records[at : at + length])] = slot
        at += length
    return names


# --- answers ----------------------------------------------------------------------------


class Writer:
    """Collects the arrays of one `answers` blob."""

    def __init__(self) -> None:
        self.slots, self.pools = array("I"), array("I")
        self.cells, self.rings, self.choices = array("I"), array("I"), array("I")
        self.bytes = bytearray()
        self._rings: dict[Ring, int] = {}
        self._answers: dict[tuple[Answer, str], int] = {}
        self._labels: dict[str, int] = {}

    def pool(self, row: PoolRow, rings: Sequence[Ring]) -> None:
        """The next pool; `row.cell` is filled in here."""
        self.pools.extend(row._replace(cell=len(self.cells) // 2))
        for ring in rings:
            if (at := self._rings.get(ring)) is None:
                at = self._rings[ring] = len(self.rings)
                numbers = (REASONS.index(reason) for reason in ring.reasons)
                self.rings.extend(
                    reason << 16 | choice
                    for reason, choice in zip(numbers, ring.choices, strict=True)
                )
            self.cells.extend((at, len(ring.choices)))

    def slot(self, pool: int | None, found: Sequence[tuple[Answer, str]], name: str) -> None:
        """The next slot: its pool, and (answer, site label) for each choice."""
        self.slots.extend((NONE if pool is None else pool, len(self.choices)))
        self.choices.extend(self._answer(answer, f"{name}\t{site}") for answer, site in found)

    def _answer(self, answer: Answer, label: str) -> int:
        if (at := self._answers.get((answer, label))) is None:
            self.bytes += bytes(-len(self.bytes) % 4)
            at = self._answers[answer, label] = len(self.bytes)
            number = self._labels.setdefault(label, len(self._labels))
            *counts, body = answer
            self.bytes += ANSWER.pack(*counts, len(body), number) + body
        return at

    def blob(self) -> bytes:
        arrays = [self.slots, self.pools, self.cells, self.rings, self.choices]
        labels = "\n".join(self._labels).encode()
        return blob.pack(ANSWERS_MAGIC, [*(a.tobytes() for a in arrays), bytes(self.bytes), labels])


class Answers:
    """An `answers` blob, read in place."""

    def __init__(self, data: memoryview) -> None:
        *arrays, self.bytes, labels = blob.unpack(ANSWERS_MAGIC, data)
        self.slots, pools, self.cells, self.rings, self.choices = (a.cast("I") for a in arrays)
        width = len(PoolRow._fields)
        self.pools = [PoolRow(*pools[at : at + width]) for at in range(0, len(pools), width)]
        self.labels = bytes(labels).decode().split("\n")

    def pool_of(self, slot: int) -> PoolRow | None:
        number = self.slots[2 * slot]
        return None if number == NONE else self.pools[number]

    def ring(self, pool: PoolRow, region: int) -> Sequence[int]:
        at = 2 * (pool.cell + region)
        start, length = self.cells[at], self.cells[at + 1]
        return self.rings[start : start + length]

    def answer(self, slot: int, choice: int = 0) -> tuple[Answer, str]:
        """What slot's choice says, and its label `name TAB site`."""
        at = self.choices[self.slots[2 * slot + 1] + choice]
        flags, an, ns, ar, length, label = ANSWER.unpack_from(self.bytes, at)
        at += ANSWER.size
        body = bytes(self.bytes[at : at + length])
        return Answer(flags, an, ns, ar, body), self.labels[label]

    def label(self, index: int) -> str:
        """The label `name TAB site` of the choice at `index` of `choices`."""
        label: int = ANSWER.unpack_from(self.bytes, self.choices[index])[-1]
        return self.labels[label]


def reason_of(entry: int) -> str:
    return REASONS[entry >> 16]
