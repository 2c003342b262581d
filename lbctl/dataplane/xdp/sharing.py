"""Rings and the hash key as two gateways share them: out of the maps, and into them.

Numbers are each gateway's own; between them a server is its endpoint.
"""

import struct
from collections.abc import Iterable

from lbctl.dataplane.port import RingCopy
from lbctl.dataplane.ring import Slot
from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.flows import Clock
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.registry import Registry
from lbctl.dataplane.xdp.rings import Rings
from lbctl.errors import DataPlaneError
from lbctl.model import Frontend, Listen


class Sharing:
    """replicas: listens whose rings a peer is the author of; nothing settles there."""

    def __init__(self, maps: Maps, registry: Registry, rings: Rings, clock: Clock) -> None:
        self._maps = maps
        self._registry = registry
        self._rings = rings
        self._clock = clock
        self.replicas: set[int] = set()

    def hash_key(self) -> bytes:
        return bytes(self._maps.gateway.key) + int(self._maps.gateway.flow_mask).to_bytes(4, "big")

    def take_hash_key(self, key: bytes) -> None:
        mine = self._maps.gateway
        sets, wanted = mine.flow_mask + 1, int.from_bytes(key[32:], "big") + 1
        if len(key) != 36 or sets != wanted:
            room = f"{wanted * abi.FLOW_WAYS} flows, ours for {sets * abi.FLOW_WAYS}"
            raise DataPlaneError(
                f"the peer's flow cache has room for {room}",
                "write the same `flow_cache` for both gateways",
            )
        mine.key[:] = [*struct.unpack("=4Q", key[:32])]

    def export_ring(self, frontend: Frontend, tick: int) -> RingCopy:
        number = self._registry.listens[self._listen(frontend)]
        members = self._registry.members[number]
        slots, olds, used = self._rings.read(number)
        named = {*slots, *olds}
        servers = sorted((e for e, n in members.items() if n in named), key=str)
        place = {members[e]: at for at, e in enumerate(servers, 1)}
        idle = {
            at: (tick - used[at] & 0xFFFF) * self._clock.tick for at, old in enumerate(olds) if old
        }
        return RingCopy(
            tuple(servers),
            tuple(place.get(one, 0) for one in slots),
            tuple(place.get(one, 0) for one in olds),
            idle,
        )

    def import_ring(self, frontend: Frontend, copy: RingCopy, tick: int) -> int:
        listen = self._listen(frontend)
        number = self._registry.listens[listen]
        members = self._registry.members[number]
        if missing := [str(one) for one in copy.servers if one not in members]:
            raise DataPlaneError(f"{frontend}: its ring names {', '.join(missing)}: not here yet")
        numbers = [0, *(members[one] for one in copy.servers)]
        slots = [
            Slot(numbers[one], numbers[old] if old else None)
            for one, old in zip(copy.slots, copy.old, strict=True)
        ]
        used = {at: tick - round(idle / self._clock.tick) for at, idle in copy.idle.items()}
        self.replicas.add(number)
        written = self._rings.replace(number, slots, used)
        self._registry.publish(listen)
        return written

    def own_rings(self, frontends: Iterable[Frontend]) -> None:
        for frontend in frontends:
            number = self._registry.listens.get(frontend) if isinstance(frontend, Listen) else None
            if number is not None and number in self.replicas:
                self.replicas.discard(number)
                self._rings.changing.add(number)

    def _listen(self, frontend: Frontend) -> Listen:
        if isinstance(frontend, Listen) and frontend in self._registry.listens:
            return frontend
        raise DataPlaneError(f"{frontend}: No such service")
