"""Writes rings and turns: only what differs, in place, while packets read them."""

from collections.abc import Mapping
from ctypes import Array, c_uint16

from lbctl.dataplane import ring
from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.abi import SchedulerCode
from lbctl.dataplane.xdp.maps import Maps
from lbctl.errors import DataPlaneError
from lbctl.model import Endpoint

CROWD = 64  # more servers than this want the large ring


class Rings:
    """The small ring of a listen has the listen's number; large ones are lent."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        lent = {r.ring & ~abi.RING_LARGE for r in maps.listens if r.ring & abi.RING_LARGE}
        self._free = [n for n in reversed(range(abi.LARGE_RINGS)) if n not in lent]

    def wants_large(self, servers: int) -> bool:
        return servers > CROWD

    def write(self, listen: int, members: Mapping[Endpoint, int], weighted: bool) -> int:
        """Make a listen's ring and turns follow its members; return how many slots
        changed. The record is told of another ring once that is filled."""
        weights = self._weights(members, weighted)
        numbers = {str(endpoint): number for endpoint, number in members.items()}
        record = self._maps.listens[listen]
        where = self._place(listen, record.ring, len(weights))
        slots = self._slots(where)
        table = [numbers[name] for name in ring.maglev(weights, len(slots))]
        changed = _rewrite(slots, table or [0] * len(slots))
        if record.ring != where:
            self._give_back(record.ring)
            record.ring = where
        if record.scheduler in (SchedulerCode.RR, SchedulerCode.WRR):
            self._write_turns(listen, [numbers[n] for n in ring.turns(weights, abi.TURNS)])
        return changed

    def release(self, listen: int) -> None:
        """The listen is freed: so is a large ring it was lent."""
        self._give_back(self._maps.listens[listen].ring)

    def _weights(self, members: Mapping[Endpoint, int], weighted: bool) -> dict[str, int]:
        found = {str(e): int(self._maps.servers[n].weight) for e, n in members.items()}
        return {name: weight if weighted else 1 for name, weight in found.items() if weight}

    def _place(self, listen: int, present: int, servers: int) -> int:
        large = bool(present & abi.RING_LARGE)
        if large == self.wants_large(servers):
            return present if large else listen
        if large:
            return listen
        if not self._free:
            raise DataPlaneError(
                f"all {abi.LARGE_RINGS} large rings are in use",
                f"services of more than {CROWD} servers need one each",
            )
        return abi.RING_LARGE | self._free.pop()

    def _give_back(self, where: int) -> None:
        if where & abi.RING_LARGE:
            self._free.append(where & ~abi.RING_LARGE)

    def _slots(self, where: int) -> Array[c_uint16]:
        if where & abi.RING_LARGE:
            return self._maps.large_ring(where & ~abi.RING_LARGE).slot
        return self._maps.small_ring(where).slot

    def _write_turns(self, listen: int, order: list[int]) -> None:
        """Into the half that is not in use; one store then switches."""
        record, buffer = self._maps.listens[listen], self._maps.turns(listen)
        half = 0 if record.turns & abi.TURNS_HALF else 1
        present = buffer.server[1 - half][: record.turns & (abi.TURNS_HALF - 1)]
        if order != present:
            buffer.server[half][: len(order)] = [*order]
            record.turns = len(order) | (abi.TURNS_HALF if half else 0)


def _rewrite(slots: Array[c_uint16], table: list[int]) -> int:
    changed = 0
    for at, (old, new) in enumerate(zip(slots[:], table, strict=True)):
        if old != new:
            slots[at] = new
            changed += 1
    return changed
