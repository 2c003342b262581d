"""A data path in memory, with the kernel's manners: what exists cannot be added, what is
missing cannot be changed, what goes takes along what it holds, and packets follow the
transition rule. Unit tests and `--dry-run` use it; the contract tests and random histories
hold it to what the real ones do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from lbctl.dataplane.faketraffic import FakePacket, FakeTraffic
from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Flow,
    Op,
    Refusal,
    RemoveServer,
    RemoveService,
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
