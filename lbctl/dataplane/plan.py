"""From two tables to the operations between them: pure."""

from collections.abc import Iterator

from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Op,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
)
from lbctl.model import Destination, Frontend, Table, VirtualService


def plan(desired: Table, observed: Table) -> list[Op]:
    """Operations that turn `observed` into `desired`.

    Make before break: what takes traffic comes first (services and servers that are new,
    weights that rise), then what gives it up, then what goes. A service that has a server
    at both ends has one at every step between.
    """
    ops: list[Op] = []
    for frontend, wanted in desired.services.items():
        found = observed.get(frontend)
        if found is None:
            ops.append(AddService(frontend, wanted.header()))
        elif found.header() != wanted.header():
            ops.append(SetService(frontend, wanted.header()))
        ops += _servers(frontend, wanted, found)
    ops += [RemoveService(f) for f in observed if desired.get(f) is None]
    return sorted(ops, key=_step)


def _servers(
    frontend: Frontend, wanted: VirtualService, found: VirtualService | None
) -> Iterator[Op]:
    if found is None:
        yield from (AddServer(frontend, *one) for one in wanted.destinations.items())
        return
    old = found.destinations
    for endpoint, destination in wanted.destinations.items():
        if endpoint not in old:
            yield AddServer(frontend, endpoint, destination)
        elif old[endpoint] != destination:
            yield SetServer(frontend, endpoint, destination)
    for endpoint in old:
        if endpoint not in wanted.destinations:
            yield RemoveServer(frontend, endpoint)


def _step(op: Op) -> int:
    match op:
        case AddService():
            return 0
        case SetService():
            return 1
        case AddServer():
            return 2
        case SetServer():
            return 3 if _takes_traffic(op.destination) else 4
        case RemoveServer():
            return 5
        case RemoveService():
            return 6


def _takes_traffic(destination: Destination) -> bool:
    return destination.weight > 0
