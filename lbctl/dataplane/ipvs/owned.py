"""Which services and servers of a kernel's table are ours: pure.

IPVS keeps no note of who made an entry, so lbctl keeps one: an *intent*, written before
the kernel is asked and taken back after a removal. A process that dies between the two
finds an intent without an entry, which is harmless; never an entry without an intent.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, assert_never

from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Op,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
)
from lbctl.model import Destination, Endpoint, Frontend, Mode, Table, VirtualService, parse_frontend


@dataclass(frozen=True)
class Owned:
    """Our services with our servers in them; `fullnat`: those whose source address is
    translated as well. sync: interface and id that the kernel's sync daemon was started
    with; None: it was not."""

    services: Mapping[Frontend, frozenset[Endpoint]] = field(default_factory=dict)
    fullnat: frozenset[Frontend] = frozenset()
    sync: tuple[str, int] | None = None

    def has(self, frontend: Frontend, endpoint: Endpoint | None = None) -> bool:
        if endpoint is None:
            return frontend in self.services
        return endpoint in self.services.get(frontend, ())


def after(owned: Owned, ops: Iterable[Op]) -> Owned:
    """What is ours once `ops` are done. Costs what `ops` touch, however much is ours."""
    services = dict(owned.services)
    touched: dict[Frontend, set[Endpoint]] = {}  # in place of what `services` has
    fullnat = set(owned.fullnat)
    for op in ops:
        match op:  # what there are thousands of comes first
            case AddServer(frontend, endpoint, destination):
                if (endpoints := touched.get(frontend)) is None:
                    endpoints = touched[frontend] = set(services.get(frontend, ()))
                endpoints.add(endpoint)
                _note(fullnat, frontend, destination)
            case SetServer(frontend, _, destination):
                _note(fullnat, frontend, destination)
            case AddService(frontend):
                services.setdefault(frontend, frozenset())
            case RemoveServer(frontend, endpoint):
                if frontend in services or frontend in touched:
                    touched.setdefault(frontend, set(services.get(frontend, ()))).discard(endpoint)
            case RemoveService(frontend):
                services.pop(frontend, None)
                touched.pop(frontend, None)
                fullnat.discard(frontend)
            case SetService():
                pass
            case _:
                assert_never(op)
    services |= {frontend: frozenset(endpoints) for frontend, endpoints in touched.items()}
    return replace(owned, services=services, fullnat=frozenset(fullnat))


def _note(fullnat: set[Frontend], frontend: Frontend, destination: Destination) -> None:
    if destination.forwarding.mode is Mode.FULLNAT:
        fullnat.add(frontend)
    elif fullnat:
        fullnat.discard(frontend)


def claimed(owned: Owned, ops: Iterable[Op]) -> Owned:
    """`owned` with all that `ops` add, and nothing less: what is written before they run."""
    return after(owned, [op for op in ops if not isinstance(op, RemoveServer | RemoveService)])


def split(held: Table, owned: Owned) -> tuple[Table, Table]:
    """A kernel's table as ours and as foreign.

    A foreign server in a service of ours is foreign: its service stands in both tables.
    """
    ours: dict[Frontend, VirtualService] = {}
    foreign: dict[Frontend, VirtualService] = {}
    for frontend, service in held.services.items():
        mine = owned.services.get(frontend)
        if mine is None:
            foreign[frontend] = service
            continue
        if service.destinations.keys() <= mine:
            ours[frontend] = service
            continue
        servers = service.destinations.items()
        ours[frontend] = replace(service, destinations={e: d for e, d in servers if e in mine})
        others = {e: d for e, d in servers if e not in mine}
        foreign[frontend] = replace(service, destinations=others)
    return Table(ours), Table(foreign)


# --- as text ----------------------------------------------------------------------------


def render(owned: Owned, place: Sequence[str]) -> str:
    """place: the boot and network namespace that it is true in."""
    document = {
        "place": list(place),
        "services": {
            str(frontend): [f"{one.address} {one.port}" for one in endpoints]
            for frontend, endpoints in owned.services.items()
        },
        "fullnat": [str(frontend) for frontend in owned.fullnat],
        "sync": owned.sync,
    }
    return json.dumps(document, separators=(",", ":"))


def parse(text: str, place: Sequence[str]) -> Owned:
    """What `render` wrote; nothing at all if it was written in another place, where the
    kernel's table was another one. Raises ValueError."""
    document: Any = json.loads(text)
    try:
        if document["place"] != list(place):
            return Owned()
        services = {
            parse_frontend(frontend): frozenset(_endpoint(one) for one in endpoints)
            for frontend, endpoints in document["services"].items()
        }
        fullnat = frozenset(parse_frontend(one) for one in document["fullnat"])
        return Owned(services, fullnat, _sync(document.get("sync")))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a list of what is ours: {error!r}") from None


def _sync(value: Any) -> tuple[str, int] | None:
    """Absent in a file that an older version wrote."""
    if value is None:
        return None
    interface, number = value
    return str(interface), int(number)


def _endpoint(text: str) -> Endpoint:
    """Not `Endpoint.parse`: a server behind a firewall mark has port 0."""
    address, _, port = text.partition(" ")
    return Endpoint(ip_address(address), int(port))
