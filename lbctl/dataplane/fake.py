"""A data path in memory, with the kernel's manners: what exists cannot be added, what is
missing cannot be changed, what goes takes along what it holds, and packets follow the
transition rule. Unit tests and `--dry-run` use it; the contract tests and random histories
hold it to what the real ones do."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import assert_never

from lbctl.dataplane.faketraffic import FakePacket, FakeTraffic
from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Flow,
    FlowChanges,
    Near,
    Op,
    Refusal,
    RemoveServer,
    RemoveService,
    RingCopy,
    SetServer,
    SetService,
    Stats,
)
from lbctl.errors import DataPlaneError
from lbctl.model import Address, Destination, Endpoint, Frontend, Table, VirtualService


@dataclass
class FakeKernel:
    """What outlives a plane that is closed. traffic: None where no packet will come, so
    that nobody computes rings for it."""

    services: dict[Frontend, VirtualService] = field(default_factory=dict)
    flows: dict[bytes, Flow] = field(default_factory=dict)
    traffic: FakeTraffic | None = None
    key: bytes = bytes(36)
    near: set[Near] = field(default_factory=set)


class FakePlane:
    """refuses: an operation it says yes to is refused, as a kernel without memory would.
    kernel: one that planes before this one have programmed."""

    name = "fake"

    def __init__(
        self,
        refuses: Callable[[Op], bool] = lambda op: False,
        kernel: FakeKernel | None = None,
    ) -> None:
        self.refuses = refuses
        self.log: list[Op] = []
        kernel = kernel or FakeKernel()
        self._kernel = kernel
        self._held: set[Frontend] = set()
        self._told: dict[bytes, Flow] = {}
        self._services = kernel.services
        self._flows = kernel.flows
        self._traffic = kernel.traffic

    def observe(self) -> Table:
        return Table(dict(self._services))

    def apply(self, ops: Sequence[Op]) -> list[Refusal]:
        refused = []
        for op in ops:
            try:
                if self.refuses(op):
                    raise DataPlaneError(f"{op}: Cannot allocate memory")
                self._do(op)
            except DataPlaneError as error:
                refused.append(Refusal(op, error))
            else:
                self.log.append(op)
        if self._traffic is not None:
            for frontend in {op.frontend for op in ops}:
                self._traffic.follow(frontend, self._services.get(frontend))
        return refused

    def packet(self, frontend: Frontend, packet: FakePacket) -> Endpoint | None:
        """The server that a client's packet reaches; None: it is dropped."""
        if self._traffic is None or frontend not in self._services:
            raise DataPlaneError(f"{frontend}: no packet comes here")
        return self._traffic.packet(frontend, packet)

    def stats(self) -> Stats:
        return Stats(writes={"operations": len(self.log)})

    def export_flows(self) -> Iterator[Flow]:
        yield from self._flows.values()

    def import_flows(self, flows: Iterable[Flow]) -> int:
        taken = 0
        for flow in flows:
            service = self._services.get(flow.frontend)
            if service is not None and flow.server in service.destinations:
                self._flows[flow.key] = flow
                taken += 1
        return taken

    def hash_key(self) -> bytes:
        return self._kernel.key

    def take_hash_key(self, key: bytes) -> None:
        if len(key) != len(self._kernel.key):
            raise DataPlaneError("the peer's flow cache has another size")
        self._kernel.key = key

    def export_ring(self, frontend: Frontend) -> RingCopy:
        self._need(frontend)
        return RingCopy() if self._traffic is None else self._traffic.copy(frontend)

    def import_ring(self, frontend: Frontend, copy: RingCopy) -> int:
        service = self._need(frontend)
        if missing := [str(one) for one in copy.servers if one not in service.destinations]:
            raise DataPlaneError(f"{frontend}: its ring names {', '.join(missing)}: not here yet")
        if self._traffic is None:
            return 0
        return self._traffic.take(frontend, copy)

    def own_rings(self, frontends: Iterable[Frontend]) -> None:
        if self._traffic is not None:
            self._traffic.replicas.difference_update(frontends)

    def hold_unknown(self, frontends: Iterable[Frontend], held: bool) -> None:
        (self._held.update if held else self._held.difference_update)(frontends)

    def flow_changes(self, whole: bool = False) -> FlowChanges:
        before = {} if whole else self._told
        self._told = {flow.place: flow for flow in self._flows.values()}
        fresh = [flow for place, flow in self._told.items() if before.get(place) != flow]
        return FlowChanges(fresh, [place for place in before if place not in self._told])

    def forget_flows(self, places: Iterable[bytes]) -> None:
        gone = set(places)
        self._forget(lambda flow: flow.place in gone)

    def near(self) -> Set[Near]:
        return self._kernel.near

    def meet(self, wanted: Iterable[Near]) -> None:
        self._kernel.near.update(wanted)

    def _need(self, frontend: Frontend) -> VirtualService:
        if (service := self._services.get(frontend)) is None:
            raise DataPlaneError(f"{frontend}: No such service")
        return service

    def fileno(self) -> int | None:
        return None

    def catch_up(self) -> bool:
        return False

    def tend(self) -> None:
        if self._traffic is not None:
            self._traffic.sweep()

    def close(self) -> None:
        return

    def _do(self, op: Op) -> None:
        service = self._services.get(op.frontend)
        if isinstance(op, AddService):
            if service is not None:
                raise DataPlaneError(f"{op}: File exists")
            self._services[op.frontend] = op.service.header()
            return
        if service is None:
            raise DataPlaneError(f"{op}: No such service")
        match op:
            case SetService(_, header):
                self._services[op.frontend] = replace(header, destinations=service.destinations)
            case RemoveService():
                del self._services[op.frontend]
                self._forget(lambda flow: flow.frontend == op.frontend)
            case AddServer(_, endpoint, destination):
                if endpoint in service.destinations:
                    raise DataPlaneError(f"{op}: File exists")
                self._put(op.frontend, service, endpoint, destination)
            case SetServer(_, endpoint, destination):
                if endpoint not in service.destinations:
                    raise DataPlaneError(f"{op}: No such destination")
                self._put(op.frontend, service, endpoint, destination)
            case RemoveServer(_, endpoint):
                if endpoint not in service.destinations:
                    raise DataPlaneError(f"{op}: No such destination")
                rest = {e: d for e, d in service.destinations.items() if e != endpoint}
                self._services[op.frontend] = replace(service, destinations=rest)
                self._forget(lambda f: (f.frontend, f.server) == (op.frontend, endpoint))
            case _:
                assert_never(op)

    def _put(
        self,
        frontend: Frontend,
        service: VirtualService,
        endpoint: Endpoint,
        destination: Destination,
    ) -> None:
        destinations = {**service.destinations, endpoint: destination}
        self._services[frontend] = replace(service, destinations=destinations)

    def _forget(self, gone: Callable[[Flow], bool]) -> None:
        for key in [key for key, flow in self._flows.items() if gone(flow)]:
            del self._flows[key]


class FakeVips:
    """Addresses of an interface in memory."""

    def __init__(self, foreign: Iterable[Address] = ()) -> None:
        self.foreign = set(foreign)
        self._held: set[Address] = set()

    def held(self) -> set[Address]:
        return set(self._held)

    def add(self, address: Address) -> None:
        if address in self.foreign | self._held:
            raise DataPlaneError(f"{address}: cannot add the VIP: File exists")
        self._held.add(address)

    def remove(self, address: Address) -> None:
        if address not in self._held:
            raise DataPlaneError(f"{address}: cannot remove the VIP: not ours")
        self._held.remove(address)
