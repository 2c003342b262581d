"""What this gateway tells its peer, and what it takes over from it.

It is the author of the listens whose virtual router is Active here, and holds a replica of
those for which the peer says the same: their servers, rings and remembered flows are
installed as they come, so that they are in place when the role changes. Then our own view of
health is a change like any other.
"""

import asyncio
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from hashlib import blake2b

from lbctl.daemon.acts import Held
from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.hearsay import Hearsay
from lbctl.daemon.journal import Journal
from lbctl.daemon.loop import ReconcileLoop
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.routers import RouterLink
from lbctl.dataplane.port import (
    NEAR,
    DataPlane,
    Flow,
    FlowChanges,
    Near,
    Replicates,
    RingCopy,
)
from lbctl.errors import DataPlaneError, LbctlError
from lbctl.events import Trouble
from lbctl.ha import items
from lbctl.ha.author import Author
from lbctl.ha.replica import Replica
from lbctl.ha.words import Fault
from lbctl.messages import Role
from lbctl.model import Endpoint, Frontend, Listen, ServerName
from lbctl.world import owners

RINGS_EVERY = 2.0  # seconds; what changed here is told at once
SUBJECT = "replication"
FACTS = b"ahlv"  # kinds of items that are all looked at together
FACTS_PAUSE = 20.0  # times as long as it took until they are looked at again
NEARBY = b"n"
MOST_RINGS = 2048  # as many as the packet program has listens


@dataclass
class Collected:
    """What the data path holds of our listens. rings, near: None where nobody looked."""

    key: bytes | None = None
    rings: dict[Frontend, RingCopy] | None = None
    near: Set[Near] | None = None
    flows: FlowChanges = field(default_factory=FlowChanges)


@dataclass
class Share:
    """own: listens whose author we are. theirs: those that the peer claims."""

    control: Control
    plane: PlaneThread
    loop: ReconcileLoop
    routers: RouterLink
    journal: Journal
    clock: Clock
    author: Author
    replica: Replica = field(default_factory=Replica)
    own: set[Frontend] = field(default_factory=set)
    theirs: set[Frontend] = field(default_factory=set)
    trouble: str = ""
    offset: float = 0.0  # our clock less the peer's
    _roles: dict[str, Role] = field(default_factory=dict)
    _weights: dict[Frontend, dict[Endpoint, int]] = field(default_factory=dict)
    _rings: dict[Frontend, RingCopy] = field(default_factory=dict)
    _where: dict[bytes, Frontend] = field(default_factory=dict)
    _ring_due: set[Frontend] = field(default_factory=set)
    _flows_due: dict[bytes, Flow | None] = field(default_factory=dict)
    _near: set[Near] = field(default_factory=set)
    _heard: bool = False  # what the peer owns, since we started
    _whole_due: bool = True
    _marked: bool = True
    _facts_due: float = 0.0
    _operations: int = -1
    _rings_at: float = 0.0
    _digested: tuple[Held | None, str] = (None, "")
    _releases: dict[Frontend, asyncio.TimerHandle] = field(default_factory=dict)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.hearsay = Hearsay(self.control, self.loop.touched, self.complain)

    @property
    def installed(self) -> bool:
        """Whether all that was heard is in place."""
        return not (self._ring_due or self._flows_due)

    # --- ours, to the peer ----------------------------------------------------------------

    async def collect(self, whole: bool = False) -> None:
        """Look at what is ours, and leave what changed with the author."""
        async with self._one:
            now, whole = self.clock.now(), whole or self._whole_due
            rings = whole or self.loop.operations != self._operations or now >= self._rings_at
            self._marked |= rings
            facts = whole or (self._marked and now >= self._facts_due)
            self._whole_due, self._operations = False, self.loop.operations
            self._marked &= not facts
            own = set(self.own)
            found = await self.plane.ask(lambda plane: _collect(plane, own, rings, whole))
            now = self.clock.now()
            if facts and self._heard:
                self.hearsay.adopt(own, self.theirs)
            puts = dict(self._facts(own)) if facts else {}
            if facts:
                took = self.clock.now() - now
                self._facts_due = now + took * FACTS_PAUSE
            if found.key is not None:
                puts[items.KEY] = found.key
            if found.rings is not None:
                self._rings_at = now + RINGS_EVERY
                rings_ = ((f, ring) for f, ring in found.rings.items() if ring.slots)
                puts |= dict(items.ring_item(f, ring, now) for f, ring in rings_)
            if found.near is not None:
                puts |= dict(map(items.near_item, found.near))
            mine = (flow for flow in found.flows.fresh if flow.frontend in own)
            puts |= dict(items.flow_item(flow, now) for flow in mine)
            gone = [b"f" + place for place in found.flows.gone]
            if whole:
                gone += [key for key in self.author.state if key not in puts]
            else:
                kinds = (FACTS if facts else b"") + (NEARBY if rings else b"")
                gone += [k for k in self.author.state if k[:1] in kinds and k not in puts]
            self.author.change(puts, gone, now)

    def mark(self, services: Set[str]) -> None:
        """What people or checks say of these is other than before."""
        self._marked |= bool(services)

    def _facts(self, own: set[Frontend]) -> Iterable[tuple[bytes, bytes]]:
        """What is known here of the services whose author we are."""
        world, held = self.control.world, self.loop.reconciler.held
        served = owners(world.config.services)
        yield items.own_item(own)
        for frontend in own:
            if held is not None and (service := held.table.get(frontend)) is not None:
                yield items.listen_item(frontend, service)
        yield from self.hearsay.changes(own, self.theirs)
        names = {served[f] for f in own if f in served}
        yield from self.hearsay.orders(names, own, self.theirs)
        for name in names:
            service_ = world.config.services[name]
            for key, server in service_.servers.items():
                if (seen := world.seen(service_, server)) is not None:
                    yield items.health_item(str(ServerName(name, key)), str(seen.health))

    # --- the peer's, to us ----------------------------------------------------------------

    async def take(self, changed: dict[bytes, bytes | None]) -> None:
        """Install what the peer says. Raises Fault where it means nothing."""
        news = items.read(changed, self.clock.now() - self.offset)
        async with self._one:
            if news.own is not None:
                self.theirs, self._heard = news.own, True
            if news.key is not None:
                await self._agree(news.key)
            for frontend, weights in news.weights.items():
                if weights is not None:
                    self._weights[frontend] = weights
                elif frontend in self.theirs:
                    self._weights.pop(frontend, None)
            for frontend, ring in news.rings.items():
                if ring is None:
                    if frontend in self.theirs:
                        self._rings.pop(frontend, None)
                elif frontend in self._rings or len(self._rings) < MOST_RINGS:
                    self._rings[frontend] = ring
                    self._ring_due.add(frontend)
            self._note_flows(news)
            held = self.replica.state.keys() if self.replica.whole else None
            missed = self.hearsay.orders_left_over(self.theirs, held)
            orders = {**missed, **news.orders}
            self.hearsay.take_orders(orders, self.theirs, self.own, self.offset)
            changes = {**self.hearsay.left_over(self.theirs, held), **news.changes}
            await self.hearsay.take_changes(changes, self.theirs, self.own, self.offset)
            self.hearsay.take_verdicts(news.verdicts, self.theirs, self.own)
            await self._install()
            if news.near:
                self._near -= {one for one, there in news.near.items() if not there}
                fresh = [one for one, there in news.near.items() if there]
                self._near |= set(fresh[: NEAR - len(self._near)])
                await self._meet()

    async def retry(self) -> None:
        """What could not be installed may be possible now: a neighbour answered, or one was
        forgotten."""
        async with self._one:
            if not self.installed:
                await self._install()
            await self._meet()

    async def _meet(self) -> None:
        """Know whom the Active knows, before their packets come here."""
        if near := set(self._near):
            await self.plane.ask(lambda plane: _meet(plane, near))

    def _note_flows(self, news: items.News) -> None:
        for flow in news.flows:
            self._where[flow.place] = flow.frontend
            self._flows_due[flow.place] = flow
        for place in news.gone:
            # The peer that gives a listen away forgets its flows: we do not.
            if self._where.pop(place, None) in self.theirs - self.own:
                self._flows_due[place] = None

    async def _agree(self, key: bytes) -> None:
        """One hash key for both: that of who serves, or the smaller one."""
        mine = await self.plane.ask(lambda plane: _key(plane))
        serves, other = bool(self.own), bool(self.theirs)
        if mine is None or key == mine or (serves and not other):
            return
        if serves == other and mine < key:
            return
        try:
            await self.plane.ask(lambda plane: _take_key(plane, key))
        except DataPlaneError as error:
            self.complain(str(error))

    async def _install(self) -> None:
        """Servers, then rings, then flows; what cannot be installed yet stays due."""
        if touched := self._follow():
            self.loop.touched(touched)
            await self.loop.settle()
        rings = {f: self._rings[f] for f in self._ring_due if f in self.theirs - self.own}
        self._ring_due &= set(rings)
        flows = [one for one in self._flows_due.values() if one is not None]
        flows = [flow for flow in flows if flow.frontend not in self.own]
        gone = [place for place, one in self._flows_due.items() if one is None]
        held = self.theirs - self.own if self._hold() else set[Frontend]()
        missing = await self.plane.ask(lambda plane: _install(plane, rings, flows, gone, held))
        self._flows_due = {flow.place: flow for flow in flows if flow.frontend in missing}
        self._ring_due = set(missing)
        for reason in missing.values():
            self.complain(reason)

    def _follow(self) -> set[str]:
        """Serve as the peer does where it is the author; the services that this changes."""
        world = self.control.world
        served = owners(world.config.services)
        fresh = {
            f: weights
            for f, weights in self._weights.items()
            if f in self.theirs - self.own and f in self._passive() and f in served
        }
        before, world.replicas = world.replicas, fresh
        differ = {f for f in {*before, *fresh} if before.get(f) != fresh.get(f)}
        return {served[f] for f in differ if f in served}

    # --- roles ----------------------------------------------------------------------------

    async def roles_changed(self) -> None:
        """What is installed is ours from here on where we are Active now; what was ours is
        the peer's where we are not."""
        async with self._one:
            passive = self._passive()  # a daemon that starts where it is Active is not promoted
            self._roles |= self.routers.roles
            mine = self._of(lambda role: role is Role.ACTIVE)
            gained, lost = mine - self.own, self.own - mine
            if not gained and not lost:
                self.loop.touched(self._follow())
                return
            if gained and self._ring_due:
                await self._install()
            hold = self._hold()
            promoted = gained & passive if hold else set[Frontend]()
            await self.plane.ask(lambda plane: _own(plane, gained, promoted))
            self.own = mine
            self._whole_due = True
            for frontend in gained | lost:  # what one promotion ends, the next begins anew
                if (timer := self._releases.pop(frontend, None)) is not None:
                    timer.cancel()
            after = asyncio.get_running_loop().call_later
            self._releases |= {f: after(hold, self._release, f) for f in promoted}
            self._ring_due |= {f for f in lost if f in self._rings}
            self.loop.touched(self._follow())
        if lost:
            await self.take(dict(self.replica.state))

    def doubt(self, error: Exception) -> None:
        """Something could not be done that nobody thought of: say it, and have what the peer
        says told anew, for that may be why."""
        if not isinstance(error, LbctlError):
            self.replica.distrust("nonsense")
        self.complain(str(error) if isinstance(error, LbctlError | Fault) else repr(error))

    def _hold(self) -> float:
        """Seconds after a promotion for which TCP of flows that nobody remembers is dropped. It
        is so while we are Backup already: the role comes here later than the first packets."""
        replication = self.control.world.config.gateway.replication
        return replication.hold if replication is not None else 0.0

    def _release(self, frontend: Frontend) -> None:
        """What nobody remembers by now nobody ever will: servers may say so."""
        del self._releases[frontend]
        task = asyncio.create_task(self.plane.ask(lambda plane: _release(plane, frontend)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _passive(self) -> set[Frontend]:
        return self._of(lambda role: role is not Role.ACTIVE)

    def _of(self, wanted: Callable[[Role], bool]) -> set[Frontend]:
        """The listens on addresses of virtual routers with such a role."""
        config = self.control.world.config
        addresses = {
            address
            for name, role in self._roles.items()
            if wanted(role) and name in config.routers
            for address in config.routers[name].addresses
        }
        every = owners(config.services)
        return {f for f in every if isinstance(f, Listen) and f.address in addresses}

    def table_digest(self) -> str:
        held = self.loop.reconciler.held
        if held is not None and held is self._digested[0]:
            return self._digested[1]
        lines = sorted(
            f"{frontend} {endpoint} {one.weight}"
            for frontend, service in (held.table.services.items() if held else ())
            for endpoint, one in service.destinations.items()
        )
        found = blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
        self._digested = held, found
        return found

    def complain(self, text: str) -> None:
        """Once for each trouble."""
        if text != self.trouble:
            self.trouble = text
            self.journal.tell(Trouble(SUBJECT, text))


def _collect(plane: DataPlane, own: set[Frontend], rings: bool, whole: bool) -> Collected:
    if not isinstance(plane, Replicates):
        return Collected()
    served = plane.observe().services if rings else {}
    found = {f: plane.export_ring(f) for f in own if f in served} if rings else None
    near = (plane.near() if own else set[Near]()) if rings else None
    flows = plane.flow_changes(whole) if own else FlowChanges()
    return Collected(plane.hash_key(), found, near, flows)


def _install(
    plane: DataPlane,
    rings: dict[Frontend, RingCopy],
    flows: list[Flow],
    gone: list[bytes],
    held: set[Frontend],
) -> dict[Frontend, str]:
    """Returns the rings that could not be installed, with the reason."""
    if not isinstance(plane, Replicates):
        return {}
    missing = {}
    for frontend, ring in rings.items():
        try:
            plane.import_ring(frontend, ring)
        except DataPlaneError as error:
            missing[frontend] = str(error)
    plane.hold_unknown(held, True)
    plane.forget_flows(gone)
    plane.import_flows(flows)
    return missing


def _meet(plane: DataPlane, near: set[Near]) -> None:
    if isinstance(plane, Replicates):
        plane.meet(near)


def _own(plane: DataPlane, frontends: set[Frontend], promoted: set[Frontend]) -> None:
    if isinstance(plane, Replicates):
        plane.hold_unknown(frontends - promoted, False)
        plane.hold_unknown(promoted, True)
        plane.own_rings(frontends)


def _release(plane: DataPlane, frontend: Frontend) -> None:
    if isinstance(plane, Replicates):
        plane.hold_unknown({frontend}, False)


def _key(plane: DataPlane) -> bytes | None:
    return plane.hash_key() if isinstance(plane, Replicates) else None


def _take_key(plane: DataPlane, key: bytes) -> None:
    assert isinstance(plane, Replicates)
    plane.take_hash_key(key)
