"""Operations of the port as IPVS requests, and whether a kernel shows them: pure."""

from collections.abc import Iterable, Sequence
from typing import assert_never

from lbctl.dataplane.ipvs.codec import (
    Command,
    destination_key,
    destination_request,
    service_key,
    service_request,
)
from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Op,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
)
from lbctl.model import Destination, Endpoint, Family, Frontend, Mode, Table

Request = tuple[Command, bytes]  # a command and its attributes


def request_of(op: Op) -> Request:
    """The message that asks the kernel for `op`. Raises ValueError."""
    match op:  # what there are thousands of comes first
        case AddServer(frontend, endpoint, destination):
            return Command.NEW_DEST, destination_request(frontend, endpoint, destination)
        case AddService(frontend, service):
            return Command.NEW_SERVICE, service_request(frontend, service)
        case SetService(frontend, service):
            return Command.SET_SERVICE, service_request(frontend, service)
        case RemoveService(frontend):
            return Command.DEL_SERVICE, service_key(frontend)
        case SetServer(frontend, endpoint, destination):
            return Command.SET_DEST, destination_request(frontend, endpoint, destination)
        case RemoveServer(frontend, endpoint):
            return Command.DEL_DEST, destination_key(frontend, endpoint)
        case _:
            assert_never(op)


def latest(done: Sequence[Op]) -> list[Op]:
    """The last operation on each object; of a service that went, only that it went."""
    if all(isinstance(op, AddServer | AddService) for op in done):
        return list(done)  # of two additions of one object the kernel takes one
    last = {_object(op): op for op in done}
    gone = {op.frontend for op in last.values() if isinstance(op, RemoveService)}
    if not gone:
        return list(last.values())
    return [op for op in last.values() if op.frontend not in gone or isinstance(op, RemoveService)]


def _object(op: Op) -> tuple[Frontend, Endpoint | None]:
    match op:
        case AddServer() | SetServer() | RemoveServer():
            return op.frontend, op.endpoint
        case _:
            return op.frontend, None


def in_force(op: Op, held: Table) -> bool:
    """Whether a kernel that holds `held` shows what `op` asked for."""
    found = held.get(op.frontend)
    match op:
        case RemoveService():
            return found is None
        case AddService(_, service) | SetService(_, service):
            return found is not None and found.header() == service.header()
        case AddServer(_, endpoint, destination) | SetServer(_, endpoint, destination):
            return found is not None and found.destinations.get(endpoint) == destination
        case RemoveServer(_, endpoint):
            return found is None or endpoint not in found.destinations
        case _:
            assert_never(op)


def routed(pairs: Iterable[tuple[Frontend, Destination]]) -> set[Family]:
    """Address families in which servers' answers come back through this gateway."""
    return {
        frontend.family
        for frontend, destination in pairs
        if destination.forwarding.mode in (Mode.NAT, Mode.FULLNAT)
    }
