"""What the virtual routers of a `Node` have in the kernel, and how their effects are done.

The order of effects is kept: a router can answer before it says that it does, and has the
clock read for its lease before the advert leaves.
"""

import selectors
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from lbctl.ha.fence import Fence, Guarded
from lbctl.messages import Role
from lbctl.model import Address, Family, Router, Tracker, TrackerKind
from lbctl.vrrp import places
from lbctl.vrrp.addresses import Addresses, sweep
from lbctl.vrrp.effects import Announce, Change, Drop, Effect, Notice, Send, Take, Tell
from lbctl.vrrp.errand import Errands
from lbctl.vrrp.netlink import Link, Netlink, News
from lbctl.vrrp.node import Effects, Node
from lbctl.vrrp.receive import Count, Dropped
from lbctl.vrrp.router import VirtualRouter
from lbctl.vrrp.sysctl import Sysctls
from lbctl.vrrp.wire import Wire

PACKETS = 32  # read per wake-up and router: adverts leave on time also under a flood
BACKLOG = 256  # read before a takeover: the Active's advert may be among them
NEWS = 32
EARLY = 0.0005  # seconds; a sleeping processor takes a third of that to wake up
LAST_LOOK = 0.00005  # seconds before a takeover
RETRY = 10.0  # seconds until something that was in the way is tried again

Telling = Callable[[str, Change | Tell | Dropped], None]


@dataclass
class Gear:
    """What one virtual router has in the kernel. unsent: why its last advert did not leave,
    or not for every peer."""

    router: VirtualRouter
    parent: Link
    addresses: Addresses
    wire: Wire
    unsent: str = ""

    def belongs(self, router: VirtualRouter, parent: Link | None) -> bool:
        """False: there is nothing to keep; the device went, or it is another router."""
        return self.router is router and parent is not None and parent.index == self.parent.index

    def fits(self, router: VirtualRouter, parent: Link) -> bool:
        wire = self.wire
        same = wire.own == router.own and wire.router is router.settings
        return same and parent.mac == self.parent.mac


class Host:
    """tell: hears what operators may hear. fence: renewed before each advert leaves, for as
    long as the peers will wait for the next; None: there is none (yet). moved: interfaces
    that are new since somebody looked."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        clock: Callable[[], float],
        record: Path,
        tell: Telling,
        real_time: bool,
    ) -> None:
        self.node = Node(real_time)
        self.moved: set[str] = set()
        self._selector, self._clock, self._tell = selector, clock, tell
        self._fence: Fence | None = None
        self._refence = False
        self._kernel, self._news = Netlink(), News()
        self._errands = Errands()
        self._gear: dict[str, Gear] = {}
        self._parents: dict[str, Link] = {}
        self._blocked: dict[str, str] = {}  # what the kernel would not give, until a retry
        self._retry_at: float | None = None
        self._carried: set[str] = set()  # routers with effects that are still to be done
        self._pacing = False
        self.swept = sweep(self._kernel, self._kernel.picture())
        # What it puts back makes the interface answer for what it holds: the sweep was first.
        self._sysctls = Sysctls(record)
        self._picture = self._kernel.picture()
        selector.register(self._news, selectors.EVENT_READ, self._take_news)

    @property
    def deadline(self) -> float | None:
        takeover = self.node.takeover
        early = None if takeover is None else takeover - EARLY
        moments = [m for m in (self.node.deadline, early, self._retry_at) if m is not None]
        return min(moments, default=None)

    def tick(self) -> None:
        """Do what is due."""
        now = self._clock()
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
            self._retry(now)
        takeover = self.node.takeover
        if takeover is not None and takeover - now <= EARLY:
            self._await(takeover)
        now = self._clock()
        deadline = self.node.deadline
        if deadline is not None and deadline <= now:
            self.carry(self.node.tick(now))

    def _await(self, takeover: float) -> None:
        """Be awake when it is time, and hear first what has come meanwhile: a gateway that
        stalled has the Active's adverts in its socket, and no reason to take over."""
        names = [n for n in self.node.waiting_until(takeover) if n in self._gear]
        rising = set(self.node.rising(takeover))
        for name in rising & self._gear.keys():
            self._gear[name].addresses.prepare()
            self._keep_pace()
        while self._clock() < takeover - LAST_LOOK:
            pass
        for name in names:
            if name in self._gear:
                self._receive(name, BACKLOG)
        heard = set(names) - set(self.node.waiting_until(takeover))
        for name in (rising - set(self.node.rising(takeover))) & self._gear.keys():
            self._gear[name].addresses.relax()
        while not heard and self._clock() < takeover:
            pass

    def configure(self, routers: Mapping[str, Router]) -> None:
        """Run these and no others; `look` follows."""
        now = self._clock()
        for router in routers.values():
            self._locate(router.interface, router.family, self._owned(routers), now)
        there = {n: one for n, one in routers.items() if n in self.node.routers}
        self.carry(self.node.configure(there, now))
        for name in [name for name in routers if name not in there]:
            self.carry(self.node.add(name, routers[name], self._clock()))
            self._keep_pace()

    def indexes(self, interfaces: Iterable[str]) -> dict[str, int]:
        """Those of `interfaces` that there are."""
        links = {name: self._picture.link(name) for name in interfaces}
        return {name: link.index for name, link in links.items() if link is not None}

    def put_up(self, fence: Fence) -> None:
        """From now on what is not ours is fenced, and what is renews its lease."""
        self._fence, self._refence = fence, True
        self.carry([])

    def passed_by(self, name: str) -> dict[Count, int]:
        """VRRP packets on the interface that are not this router's, by what is wrong."""
        gear = self._gear.get(name)
        return gear.wire.passed_by() if gear else {}

    def unsent(self, name: str) -> tuple[str, ...]:
        """Why the router's adverts do not leave, or not for every peer; empty: they do."""
        gear = self._gear.get(name)
        return (_cannot_send(gear.unsent),) if gear is not None and gear.unsent else ()

    def close(self) -> None:
        """Leave nothing in the kernel."""
        for name in list(self._gear):
            self._strip(name)
        if self._fence is not None:
            self._fence.close()
        self._errands.close()
        self._sysctls.restore()
        self._selector.unregister(self._news)
        self._news.close()
        self._kernel.close()

    # --- effects ------------------------------------------------------------------------

    def carry(self, effects: Effects) -> None:
        """Do what the routers want, in order."""
        before = self._blocked.keys()
        self._blocked = dict(self._blocked)
        outer, self._carried = self._carried, self._carried | {name for name, _ in effects}
        if not self._pacing:
            self._equip()
        for number, (name, effect) in enumerate(effects, 1):
            gear = self._gear.get(name)
            if name in self._blocked and _is_void(effect):
                continue
            match effect:
                case Take():
                    if gear is not None and (trouble := gear.addresses.take()) is not None:
                        self._blocked[name] = trouble
                case Drop():
                    if gear is not None:
                        gear.addresses.drop()
                    if self._fence is not None:
                        self._fence.end(name)
                case Send():
                    self._send(name, gear, effect)
                case Announce():
                    self._announce(gear)
                case Change() | Tell():
                    self._tell(name, effect)
                case _:
                    assert_never(effect)
            if isinstance(effect, Take | Drop):
                self._carried = outer | {name for name, _ in effects[number:]}
                self._keep_pace()
        self._carried = outer
        for name in self._blocked.keys() - before:
            now = self._clock()
            self._retry_at = now + RETRY
            reason = self._blocked[name]
            self.carry(self.node.hinder(name, "kernel", reason, now, at_once=True))

    def _keep_pace(self) -> None:
        """Between things that take their time: let nobody's advert wait for all of them."""
        if self._pacing:
            return
        self._pacing = True
        try:
            self.carry(self.node.advertise(self._clock(), self._carried))
        finally:
            self._pacing = False

    def _send(self, name: str, gear: Gear | None, send: Send) -> None:
        router = self.node.routers.get(name)
        at: float | None = self._clock()
        try:
            if self._fence is not None:  # without a lease no advert: the peers act on silence
                self._fence.renew(name, send.lease)
            if gear is None:
                raise OSError("no socket")
            unsent = gear.wire.send(send.advert, send.form)
        except OSError as error:
            at, unsent = None, error.strerror or str(error)
        if router is not None:
            router.sent(at)
        if gear is not None and gear.unsent != unsent:
            gear.unsent = unsent
            if unsent:
                self._tell(name, Tell(Notice.UNSENT, _cannot_send(unsent)))

    def _announce(self, gear: Gear | None) -> None:
        if gear is None:
            return
        try:
            gear.wire.announce()
        except OSError:
            gear.router.counts[Count.SEND_ERRORS] += 1

    def _retry(self, now: float) -> None:
        """What is seen to be in the way still stays a fault: no role changes for each look."""
        blocked, self._blocked = self._blocked, {}
        for name in blocked.keys() & self._gear.keys():
            if (trouble := self._gear[name].addresses.in_the_way(self._picture)) is not None:
                self._blocked[name], self._retry_at = trouble, now + RETRY
        self._refence = True  # there may be room now
        for name in blocked.keys() & self.node.routers.keys() - self._blocked.keys():
            self.carry(self.node.hinder(name, "kernel", None, now))

    # --- packets ------------------------------------------------------------------------

    def _receive(self, name: str, limit: int = PACKETS) -> None:
        """Take what is there, but not for longer than the next advert can wait."""
        gear = self._gear[name]
        now = self._clock()
        try:
            for heard in gear.wire.receive(limit):
                try:
                    effects = self.node.receive(name, heard, now - heard.age)
                except Dropped as dropped:
                    self._tell(name, dropped)
                    continue
                if effects:
                    self.carry(effects)
                    if self._gear.get(name) is not gear:
                        return
        except OSError:
            self.look()  # the interface went: the picture says more

    # --- interfaces ---------------------------------------------------------------------

    def _take_news(self) -> None:
        if not self._news.read(self._picture, NEWS):
            self._picture = self._kernel.picture()
        self.look()

    def look(self) -> None:
        """What the picture means for the routers that run now, and for their trackers."""
        now = self._clock()
        settings = {name: router.settings for name, router in self.node.routers.items()}
        owned = self._owned(settings)
        for interface, family in {(one.interface, one.family) for one in settings.values()}:
            self._locate(interface, family, owned, now)
        for tracker in {t for one in settings.values() for t in one.trackers}:
            self._follow(tracker, now)

    def _follow(self, tracker: Tracker, now: float) -> None:
        if tracker.kind is TrackerKind.INTERFACE:
            fact = places.state(self._picture, tracker.subject)
            if fact != self.node.fact(tracker):
                self.carry(self.node.learn(tracker.key, fact, now))

    def _locate(
        self, interface: str, family: Family, owned: frozenset[Address], now: float
    ) -> None:
        link = self._picture.link(interface)
        before = self._parents.pop(interface, None)
        if link is not None:
            self._parents[interface] = link
            if before is None or before.index != link.index:
                self.moved.add(interface)
        place = places.place(self._picture, interface, family, owned)
        if place != self.node.place(interface, family):
            self.carry(self.node.locate(interface, family, place, now))

    @staticmethod
    def _owned(routers: Mapping[str, Router]) -> frozenset[Address]:
        owners = (router for router in routers.values() if router.owner)
        return frozenset(address for router in owners for address in router.addresses)

    # --- gear ---------------------------------------------------------------------------

    def _equip(self) -> None:
        """Give each router the sockets and devices that fit its settings and place."""
        for name in self._gear.keys() - self.node.routers.keys():
            self._strip(name)
            self._keep_pace()
        for name, router in list(self.node.routers.items()):
            parent, gear = self._parents.get(router.settings.interface), self._gear.get(name)
            if gear is not None and not gear.belongs(router, parent):
                self._strip(name)
                gear = None
            if parent is None or router.own is None or name in self._blocked:
                continue
            if gear is None or not gear.fits(router, parent):
                self._outfit(name, router, parent, gear)
                self._keep_pace()
        self._introduce()
        self._guard()

    def _introduce(self) -> None:
        """Have each wire know the VRIDs beside it: these are no strangers."""
        vrids: dict[tuple[str, Family], set[int]] = {}
        for gear in self._gear.values():
            one = gear.router.settings
            vrids.setdefault((one.interface, one.family), set()).add(one.vrid)
        for gear in self._gear.values():
            one = gear.router.settings
            gear.wire.beside(frozenset(vrids[one.interface, one.family]))

    def _guard(self) -> None:
        """Have the fence know every router and where it is; one that it has no room for is
        at fault."""
        if self._fence is None or not self._refence:
            return
        self._refence = False
        self._blocked |= self._fence.guard(
            {n: Guarded(gear.router.settings, gear.parent.index) for n, gear in self._gear.items()}
        )

    def _outfit(self, name: str, router: VirtualRouter, parent: Link, old: Gear | None) -> None:
        """Addresses stay where they are; only the sockets are made anew."""
        assert router.own is not None
        settings = router.settings
        try:
            if old is None:
                addresses = Addresses(self._kernel, self._errands, self._sysctls, settings, parent)
            else:
                addresses = old.addresses
                addresses.router, addresses.parent = settings, parent
            wire = Wire(settings, parent.index, router.own, addresses.mac)
        except OSError as error:
            self._blocked[name] = f"{settings.interface}: {error.strerror or error}"
            return
        if old is not None:
            self._unwire(old)
        self._gear[name] = Gear(router, parent, addresses, wire)
        self._refence = True
        self._selector.register(wire, selectors.EVENT_READ, partial(self._receive, name))

    def _strip(self, name: str) -> None:
        gear = self._gear.pop(name)
        self._blocked.pop(name, None)  # what was in its way may not be in the next one's
        self._refence = True
        self._unwire(gear)
        gear.addresses.close()

    def _unwire(self, gear: Gear) -> None:
        self._selector.unregister(gear.wire)
        self._errands.do(gear.wire.close, gear.parent.name)


def _is_void(effect: Effect) -> bool:
    """What a router does not do that the kernel has refused something, nor says it did."""
    if isinstance(effect, Change):
        return effect.role is Role.ACTIVE
    return isinstance(effect, Take | Send | Announce)


def _cannot_send(why: str) -> str:
    return f"adverts cannot be sent: {why} (nft list ruleset: IP protocol 112; ip route get)"
