"""What a pair's gateways tell each other beside rings and flows: orders of people, live changes
of services, and what checks see.

Of a service the author speaks: the gateway that is Active for its listens. What it says holds
here too, so that nothing that people did is undone when the role changes. What it no longer
says is taken back here only while it is still the author: a gateway that gives a listen away
forgets, and that takes nothing back.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

import msgspec

from lbctl.daemon.control import Control
from lbctl.daemon.overrides import Override, Path
from lbctl.errors import InvalidConfig
from lbctl.ha import items
from lbctl.health.judge import Health
from lbctl.model import Frontend, ServerName
from lbctl.world import Order, target_of

LARGEST = 256 << 10  # bytes of one live change; a message of the line has an end
SEEN_THERE = "as the other gateway sees it"


@dataclass
class Hearsay:
    """verdicts: of the peer's checks, by server."""

    control: Control
    touched: Callable[[set[str]], None]
    complain: Callable[[str], None]
    verdicts: dict[str, str] = field(default_factory=dict)

    # --- ours, to the peer ----------------------------------------------------------------

    def changes(self, own: Set[Frontend]) -> Iterable[tuple[bytes, bytes]]:
        """Live changes of services whose author we are, and of those that are gone by them."""
        services = self.control.world.config.services
        for one in self.control.intent.overrides:
            if one.path[0] != "services" or len(one.path) < 2 or not own:
                continue
            service = services.get(one.path[1])
            if service is not None and own.isdisjoint(service.listens):
                continue
            key, value = items.change_item(
                items.Change(one.id, one.path, one.value, one.reason, one.by, one.since, one.until)
            )
            if len(value) > LARGEST:
                self.complain(f"override {one.id}: too large for the peer ({len(value)} bytes)")
            else:
                yield key, value

    # --- the peer's, to us ----------------------------------------------------------------

    def take_orders(
        self,
        orders: Mapping[str, Order | None],
        theirs: Set[Frontend],
        own: Set[Frontend],
        offset: float,
    ) -> None:
        """offset: of our clock to the peer's."""
        world = self.control.world
        for text, order in orders.items():
            name = ServerName.parse(text)
            service = world.config.services.get(name.service)
            if service is None or name.server not in service.servers:
                continue
            if not own.isdisjoint(service.listens):
                continue
            if order is not None:
                world.orders[name] = _moved(order, offset)
            elif not theirs.isdisjoint(service.listens):
                world.orders.pop(name, None)
            self.touched({name.service})

    async def take_changes(
        self,
        changes: Mapping[Path, items.Change | None],
        theirs: Set[Frontend],
        own: Set[Frontend],
        offset: float,
    ) -> None:
        """All of them or, where they do not fit the file here, none."""
        services = self.control.world.config.services
        puts, gone = list[Override](), set[Path]()
        for path, change in changes.items():
            service = services.get(path[1])
            listens = set(service.listens) if service is not None else set[Frontend]()
            if not own.isdisjoint(listens):
                continue
            if change is not None:
                puts.append(_override(change, offset))
            elif service is None or not theirs.isdisjoint(listens):
                gone.add(path)
        if not (puts or gone):
            return
        try:
            await self.control.follow(sorted(puts, key=lambda one: one.id), gone)
        except InvalidConfig as error:
            self.complain(f"live changes of the peer do not fit the file here: {error.faults[0]}")

    def orders_left_over(
        self, theirs: Set[Frontend], held: Set[bytes] | None
    ) -> dict[str, Order | None]:
        """As with live changes, below."""
        world = self.control.world
        found = dict[str, Order | None]()
        for name, order in world.orders.items():
            service = world.config.services.get(name.service) if order.there else None
            if held is None or service is None or theirs.isdisjoint(service.listens):
                continue
            if items.order_key(str(name)) not in held:
                found[str(name)] = None
        return found

    def left_over(self, theirs: Set[Frontend], held: Set[bytes] | None) -> dict[Path, None]:
        """Live changes that were made there, and that a whole copy does not have any more:
        they were taken back while there was no line. held: what it has; None: none is whole."""
        services = self.control.world.config.services
        found = dict[Path, None]()
        for one in self.control.intent.overrides:
            service = services.get(one.path[1]) if one.there else None
            if held is None or service is None or theirs.isdisjoint(service.listens):
                continue
            if items.change_key(one.path) not in held:
                found[one.path] = None
        return found

    def take_verdicts(
        self, verdicts: Mapping[str, str | None], theirs: Set[Frontend], own: Set[Frontend]
    ) -> None:
        """A server that no check here has seen yet is taken to be as the author sees it: a
        gateway that takes over right after its start has no view of its own."""
        world = self.control.world
        for text, verdict in verdicts.items():
            if verdict is None:
                self.verdicts.pop(text, None)
                continue
            self.verdicts[text] = verdict
            name = ServerName.parse(text)
            service = world.config.services.get(name.service)
            server = service.servers.get(name.server) if service is not None else None
            if service is None or server is None or not own.isdisjoint(service.listens):
                continue
            seen, target = world.seen(service, server), target_of(service, server)
            if target is not None and (seen is None or seen.health is Health.UNKNOWN):
                self.control.see(target, Health(verdict), SEEN_THERE)

    def differing_verdicts(self) -> Iterable[str]:
        """Servers whose checks see them otherwise at the peer."""
        world = self.control.world
        for text, there in self.verdicts.items():
            name = ServerName.parse(text)
            service = world.config.services.get(name.service)
            if service is not None and (server := service.servers.get(name.server)) is not None:
                seen = world.seen(service, server)
                if seen is not None and str(seen.health) != there:
                    yield f"{text}: {there} there, {seen.health} here"


def _moved(order: Order, offset: float) -> Order:
    until = None if order.until is None else order.until + offset
    since, deadline = order.since + offset, order.deadline + offset
    return replace(order, since=since, deadline=deadline, until=until, there=True)


def _override(change: items.Change, offset: float) -> Override:
    """With the author's number, by which they are ordered."""
    until = None if change.until is None else change.until + offset
    return Override(
        change.number,
        change.path,
        msgspec.to_builtins(change.value),
        change.reason,
        change.by,
        change.since + offset,
        until,
        there=True,
    )
