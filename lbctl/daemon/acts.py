"""What a pass asks of the data path, and what the data path then holds: values.

An act is an operation of the port or a VIP that comes or goes. Each has one *subject*: the
thing that a refusal sticks to.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Op,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
)
from lbctl.model import (
    Address,
    Config,
    Destination,
    Endpoint,
    Frontend,
    Listen,
    Table,
    VipOwner,
    VirtualService,
)


@dataclass(frozen=True, slots=True)
class AddVip:
    address: Address

    def __str__(self) -> str:
        return f"{self.address}: add VIP"


@dataclass(frozen=True, slots=True)
class RemoveVip:
    address: Address

    def __str__(self) -> str:
        return f"{self.address}: remove VIP"


Act = AddVip | RemoveVip | Op


class Subject(NamedTuple):
    """A VIP, a listen, or a server behind one."""

    what: Address | Frontend
    server: Endpoint | None = None


class Refusal(NamedTuple):
    """An act that was not done, and why."""

    act: Act
    error: str


def subject_of(act: Act) -> Subject:
    match act:
        case AddVip(address) | RemoveVip(address):
            return Subject(address)
        case AddServer() | SetServer() | RemoveServer():
            return Subject(act.frontend, act.endpoint)
        case _:
            return Subject(act.frontend)


@dataclass(frozen=True, slots=True)
class Held:
    """What the data path is known to hold. at: when it was last read back."""

    table: Table
    vips: frozenset[Address]
    at: float

    def after(self, acts: Iterable[Act]) -> "Held":
        """What is held once `acts` are done."""
        services = dict(self.table.services)
        vips = set(self.vips)
        for act in acts:
            match act:
                case AddVip(address):
                    vips.add(address)
                case RemoveVip(address):
                    vips.discard(address)
                case _:
                    _carry_out(services, act)
        return Held(Table(services), frozenset(vips), self.at)

    def part(self, frontends: Iterable[Frontend]) -> Table:
        services = self.table.services
        return Table({f: services[f] for f in frontends if f in services})


def _carry_out(services: dict[Frontend, VirtualService], op: Op) -> None:
    match op:
        case AddService(frontend, service) | SetService(frontend, service):
            old = services.get(frontend)
            kept: Mapping[Endpoint, Destination] = old.destinations if old else {}
            services[frontend] = replace(service, destinations=kept)
        case RemoveService(frontend):
            services.pop(frontend, None)
        case AddServer(frontend, endpoint, destination) | SetServer(
            frontend, endpoint, destination
        ):
            service = services[frontend]
            whole = {**service.destinations, endpoint: destination}
            services[frontend] = replace(service, destinations=whole)
        case RemoveServer(frontend, endpoint):
            service = services[frontend]
            rest = {e: d for e, d in service.destinations.items() if e != endpoint}
            services[frontend] = replace(service, destinations=rest)


def roots(refusals: Iterable[Refusal]) -> list[Refusal]:
    """Those that are not just the consequence of another: a listen that was refused takes
    the servers behind it along."""
    refusals = list(refusals)
    without = {refusal.act.frontend for refusal in refusals if isinstance(refusal.act, AddService)}
    return [
        refusal
        for refusal in refusals
        if not (isinstance(refusal.act, AddServer) and refusal.act.frontend in without)
    ]


def managed_vips(config: Config) -> set[Address]:
    """The addresses that the daemon itself puts on the front interface: not those of
    virtual routers, which one gateway at a time has (`lbctl.vrrp`)."""
    routed = {address for router in config.routers.values() for address in router.addresses}
    return {
        listen.address
        for service in config.services.values()
        if service.vip is VipOwner.MANAGED
        for listen in service.listens
        if isinstance(listen, Listen) and listen.address not in routed
    }


def in_order(addresses: Iterable[Address]) -> list[Address]:
    return sorted(addresses, key=lambda address: (address.version, int(address)))
