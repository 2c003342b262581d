"""The control plane's side of an index: where a key goes so that the program finds it."""

from collections.abc import Iterator
from ctypes import Array

from lbctl.dataplane.xdp import abi
from lbctl.errors import DataPlaneError


class Index:
    """Buckets in a map, changed in place while packets look things up.

    A way's key is written last, and what it leads to is one word: a reader sees either
    nothing or all of it. What is removed leaves a mark, so that searches go on past it.
    """

    def __init__(self, buckets: Array[abi.Bucket]) -> None:
        self._buckets = buckets

    def get(self, key: int) -> abi.Way | None:
        return next((way for way in self._path(key) if way.key == key), None)

    def put(self, key: int, number: int, ring: int = 0, flags: int = 0) -> None:
        """Add or replace. Raises DataPlaneError when all places of the key are taken."""
        way = self.get(key) or next(
            (w for w in self._path(key) if w.key in (abi.KEY_EMPTY, abi.KEY_GONE)), None
        )
        if way is None:
            raise DataPlaneError(
                f"no place in the index that packets are looked up in: the "
                f"{abi.PROBES * abi.WAYS} for it are taken",
                "fewer listens or servers on this gateway",
            )
        way.found = number | ring << abi.WAY_RING_SHIFT | flags << abi.WAY_FLAGS_SHIFT
        way.key = key

    def remove(self, key: int) -> None:
        if (way := self.get(key)) is not None:
            way.key = abi.KEY_GONE

    def items(self) -> Iterator[tuple[int, int]]:
        for bucket in self._buckets:
            for way in bucket.way:
                if way.key not in (abi.KEY_EMPTY, abi.KEY_GONE):
                    yield way.key, way.number

    def _path(self, key: int) -> Iterator[abi.Way]:
        """All ways a key may lie in, in the order in which the program looks."""
        count = len(self._buckets)
        first = abi.index_hash(key, count)
        for probe in range(abi.PROBES):
            yield from self._buckets[(first + probe) & (count - 1)].way
