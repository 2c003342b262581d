"""What a pair's gateways tell each other beside rings and flows: orders of people, live changes
of services, and what checks see.

Of a service the author speaks: the gateway that is Active for its listens. What it says holds
here too, so that nothing that people did is undone when the role changes. What it no longer
says is taken back here only while it is still the author: a gateway that gives a listen away
forgets, and that takes nothing back.

Where the listens of a service lie on both, both are author of a part. Each says what was
ordered there, and not what it heard; of two orders for one server, or changes of one thing,
the later one counts. What a gateway heard becomes its own once it is the author alone.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

import msgspec

from lbctl.daemon.control import Control
from lbctl.daemon.overrides import SLACK, Override, Path
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

    def adopt(self, own: Set[Frontend], theirs: Set[Frontend]) -> None:
        """What was ordered at the other gateway for services that are ours alone is ours."""
        orders = self.control.world.orders
        for name, order in orders.items():
            if order.there and _is_alone(self._listens(name.service, own, theirs), own, theirs):
                orders[name] = replace(order, there=False)
        heard = [one.path for one in self.control.intent.overrides if one.there]
        self.control.adopt(
            path for path in heard if _is_alone(self._listens(path[1], own, theirs), own, theirs)
        )

    def orders(
        self, services: Iterable[str], own: Set[Frontend], theirs: Set[Frontend]
    ) -> Iterable[tuple[bytes, bytes]]:
        """Orders for the servers of services whose author we are."""
        world = self.control.world
        for service in services:
            shared = _is_shared(self._listens(service, own, theirs), own, theirs)
            for key in world.config.services[service].servers:
                name = ServerName(service, key)
                order = world.orders.get(name)
                if order is not None and not (shared and order.there):
                    yield items.order_item(str(name), order)

    def changes(self, own: Set[Frontend], theirs: Set[Frontend]) -> Iterable[tuple[bytes, bytes]]:
        """Live changes of services whose author we are, and of those that are gone by them."""
        for one in self.control.intent.overrides:
            if one.path[0] != "services" or len(one.path) < 2:
                continue
            listens = self._listens(one.path[1], own, theirs)
            shared = _is_shared(listens, own, theirs)
            if not _is_author(listens, own) or (shared and one.there):
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
            listens, held = set(service.listens), world.orders.get(name)
            ours = held is not None and not held.there and _is_author(listens, own)
            if _is_alone(listens, own, theirs):
                continue
            if order is not None:
                new = _moved(order, offset)
                if held is not None and ours and self._precedes(held.since, new.since):
                    continue
                world.orders[name] = new
            elif not theirs.isdisjoint(listens) and not ours:
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
        puts, gone = list[Override](), set[Path]()
        for path, change in changes.items():
            listens = self._listens(path[1], own, theirs)
            if _is_alone(listens, own, theirs):
                continue
            ours = self._ours(path) if _is_author(listens, own) else []
            if change is not None:
                new = _override(change, offset)
                if not any(self._precedes(one.since, new.since) for one in ours):
                    puts.append(new)
            elif not theirs.isdisjoint(listens) and not any(one.path == path for one in ours):
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
        found = dict[Path, None]()
        for one in self.control.intent.overrides:
            if held is None or not one.there:
                continue
            if theirs.isdisjoint(self._listens(one.path[1], set(), theirs)):
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
            if service is None or server is None:
                continue
            if _is_alone(set(service.listens), own, theirs):
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

    # --- whose it is ----------------------------------------------------------------------

    def _listens(self, service: str, own: Set[Frontend], theirs: Set[Frontend]) -> Set[Frontend]:
        """Of a service; one that is not there may have, or get, any."""
        found = self.control.world.config.services.get(service)
        return set(found.listens) if found is not None else own | theirs

    def _ours(self, path: Path) -> list[Override]:
        """Live changes made here that one of `path` takes the place of."""
        overrides = self.control.intent.overrides
        return [one for one in overrides if not one.there and one.path[: len(path)] == path]

    def _precedes(self, ours: float, theirs: float) -> bool:
        """Whether what was ordered here counts and not what was ordered there: the later one
        does and, of two at once, that of the gateway with the smaller address."""
        if abs(ours - theirs) < SLACK:
            replication = self.control.world.config.gateway.replication
            return replication is None or not replication.calls
        return ours > theirs


def _is_author(listens: Set[Frontend], own: Set[Frontend]) -> bool:
    return not own.isdisjoint(listens)


def _is_shared(listens: Set[Frontend], own: Set[Frontend], theirs: Set[Frontend]) -> bool:
    """Whether both gateways are author of some of these."""
    theirs_alone = any(one in theirs and one not in own for one in listens)
    return theirs_alone and _is_author(listens, own)


def _is_alone(listens: Set[Frontend], own: Set[Frontend], theirs: Set[Frontend]) -> bool:
    """Whether we are the only author of these: what the peer says of them does not count."""
    return _is_author(listens, own) and not _is_shared(listens, own, theirs)


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
