"""The virtual routers of one gateway: what they share, which is sync groups and trackers.

A sync group has one fate. It is Active only when every member's Active is silent, so that
one lost segment does not tear the others along and back again; one member's fault is every
member's; a member that gives way takes the others with it.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from lbctl.messages import Role
from lbctl.model import Address, Family, Router, Tracker, TrackerKind
from lbctl.vrrp.effects import Effect
from lbctl.vrrp.receive import Count, Dropped, Packet, examine
from lbctl.vrrp.router import GROUP, VirtualRouter
from lbctl.vrrp.settings import FAST


class Fact(NamedTuple):
    """What is known of a tracked thing. evidence: why it does not hold."""

    holds: bool
    evidence: str = ""


class Place(NamedTuple):
    """The address that adverts of one family leave an interface from; if there is none,
    why the interface cannot be used."""

    own: Address | None
    reason: str = ""


Effects = list[tuple[str, Effect]]
TrackerKey = tuple[TrackerKind, str, int]  # `Tracker.key`
ABSENT = Place(None, "not looked at yet")
TOO_FAST = "adverts faster than 100 ms need SCHED_FIFO, which is not granted"


class Node:
    """All virtual routers of this gateway, by name. real_time: whether adverts may be fast.
    standing_by: router -> reason, also of those that do not run (yet). changes: how often
    the routers that run, or their settings, were others."""

    def __init__(self, real_time: bool = True) -> None:
        self.routers: dict[str, VirtualRouter] = {}
        self.standing_by: dict[str, str] = {}
        self.changes = 0
        self._real_time = real_time
        self._facts: dict[TrackerKey, Fact] = {}
        self._places: dict[tuple[str, Family], Place] = {}
        self._waiting: dict[str, Router] = {}  # until the router they replace is done

    @property
    def deadline(self) -> float | None:
        moments = (router.deadline for router in self.routers.values())
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def takeover(self) -> float | None:
        """When the next Backup will have heard nothing for long enough."""
        return min((at for _, at in self._takeovers()), default=None)

    def waiting_until(self, moment: float) -> list[str]:
        """The Backups whose Active has until `moment`, or less."""
        return [name for name, at in self._takeovers() if at <= moment]

    def rising(self, moment: float) -> list[str]:
        """The Backups that will be Active at `moment`, if nobody is heard until then: of a
        sync group all or none."""
        due = {n for n, router in self.routers.items() if router.expired}
        due.update(self.waiting_until(moment))
        active = {n for n, router in self.routers.items() if router.role is Role.ACTIVE}
        return [name for name in due if due | active >= set(self.companions(name))]

    @property
    def done(self) -> bool:
        return not self._waiting and all(router.done for router in self.routers.values())

    # --- inputs -------------------------------------------------------------------------

    def configure(self, wanted: Mapping[str, Router], now: float) -> Effects:
        """Run these and no others; what is not named, or is another virtual router under
        an old name, ends gracefully."""
        effects: Effects = []
        self._waiting = {}
        self.changes += 1
        for name, router in list(self.routers.items()):
            settings = wanted.get(name)
            if settings is None or router.stopped or not _same(settings, router.settings):
                if not router.stopped:
                    effects += _of(name, router.stop("removed from the configuration", now))
                if settings is not None:
                    self._waiting[name] = settings
            else:
                effects += _of(name, router.adjust(settings, now))
                effects += self._weigh(name, now)
                effects += self._pace(name, now)
        for name, settings in wanted.items():
            if name not in self.routers:
                effects += self._add(name, settings, now)
        return effects + self._after(now)

    def add(self, name: str, settings: Router, now: float) -> Effects:
        """One more."""
        return self._add(name, settings, now) + self._after(now)

    def advertise(self, now: float, but: Container[str]) -> Effects:
        """What is due of those that are active and stay so, `but` some. No Backup's time runs
        out here, and no router comes or goes: `tick` follows."""
        effects: Effects = []
        for name, router in self.routers.items():
            stays = router.role is Role.ACTIVE and router.leaving is None and name not in but
            if stays and router.deadline is not None and router.deadline <= now:
                effects += _of(name, router.tick(now))
        return effects

    def tick(self, now: float) -> Effects:
        effects: Effects = []
        for name, router in self.routers.items():
            if router.deadline is not None and router.deadline <= now:
                effects += _of(name, router.tick(now))
        return effects + self._after(now)

    def receive(self, name: str, packet: Packet, now: float) -> Effects:
        """A packet on the socket of router `name`. Raises Dropped, counted."""
        router = self.routers[name]
        router.counts[Count.RECEIVED] += 1
        try:
            heard = examine(packet, router.settings, router.own)
        except Dropped as dropped:
            router.counts[dropped.count] += 1
            raise
        return _of(name, router.receive(heard, now)) + self._after(now)

    def locate(self, interface: str, family: Family, place: Place, now: float) -> Effects:
        """The state of an interface, for the routers of one family on it."""
        self._places[interface, family] = place
        effects: Effects = []
        for name, router in self.routers.items():
            if router.settings.interface == interface and router.settings.family is family:
                effects += _of(name, router.locate(place.own, place.reason, now))
        return effects + self._after(now)

    def learn(self, key: TrackerKey, fact: Fact, now: float) -> Effects:
        """What a tracker found."""
        self._facts[key] = fact
        effects: Effects = []
        for name, router in self.routers.items():
            if any(tracker.key == key for tracker in router.settings.trackers):
                effects += self._weigh(name, now)
        return effects + self._after(now)

    def hinder(
        self, name: str, key: str, reason: str | None, now: float, *, at_once: bool = False
    ) -> Effects:
        """Something of this gateway itself keeps router `name` out; None: no longer."""
        effects = self.routers[name].hinder(key, reason, now, at_once=at_once)
        return _of(name, effects) + self._after(now)

    def fail_over(self, name: str, reason: str, now: float) -> Effects:
        return self._order(name, lambda router: router.fail_over(reason, now), now)

    def stand_by(self, name: str, reason: str, now: float) -> Effects:
        self.standing_by |= dict.fromkeys(self.companions(name), reason)
        return self._order(name, lambda router: router.stand_by(reason, now), now)

    def resume(self, name: str, now: float) -> Effects:
        for companion in self.companions(name):
            self.standing_by.pop(companion, None)
        return self._order(name, lambda router: router.resume(now), now)

    def sync(self, name: str, holds: bool) -> None:
        self.routers[name].sync(holds)

    def stop(self, reason: str, now: float, *, at_once: bool = False) -> Effects:
        """All end, gracefully unless `at_once`; over when `done`."""
        self._waiting = {}
        effects: Effects = []
        for name, router in self.routers.items():
            effects += _of(name, router.stop(reason, now, at_once=at_once))
        return effects

    # --- reading ------------------------------------------------------------------------

    def place(self, interface: str, family: Family) -> Place | None:
        return self._places.get((interface, family))

    def fact(self, tracker: Tracker) -> Fact | None:
        return self._facts.get(tracker.key)

    def companions(self, name: str) -> list[str]:
        """`name` and all others of its sync group."""
        group = self.routers[name].settings.group
        if not group:
            return [name]
        return [n for n, router in self.routers.items() if router.settings.group == group]

    # --- inside -------------------------------------------------------------------------

    def _takeovers(self) -> Iterator[tuple[str, float]]:
        for name, router in self.routers.items():
            if router.role is Role.BACKUP and router.deadline is not None:
                yield name, router.deadline

    def _add(self, name: str, settings: Router, now: float) -> Effects:
        """All that is known is told to it before it starts: an owner is Active at once."""
        place = self._places.get((settings.interface, settings.family), ABSENT)
        self.changes += 1
        router = self.routers[name] = VirtualRouter(settings, place.own)
        router.locate(place.own, place.reason, now)
        self._weigh(name, now)
        self._pace(name, now)
        if (reason := self.standing_by.get(name)) is not None:
            router.stand_by(reason, now)
        return _of(name, router.start(now))

    def _pace(self, name: str, now: float) -> Effects:
        router = self.routers[name]
        late = router.settings.interval < FAST and not self._real_time
        return _of(name, router.hinder("scheduler", TOO_FAST if late else None, now))

    def _weigh(self, name: str, now: float) -> Effects:
        router = self.routers[name]
        effects = router.weigh(effective_priority(router.settings, self._facts))
        failing = [
            f"{tracker}: {fact.evidence or 'failed'}"
            for tracker in router.settings.trackers
            if tracker.weight is None and (fact := self.fact(tracker)) and not fact.holds
        ]
        return _of(name, effects + router.hinder("trackers", "; ".join(failing) or None, now))

    def _order(self, name: str, do: Callable[[VirtualRouter], list[Effect]], now: float) -> Effects:
        """An order to one is an order to its group."""
        effects: Effects = []
        for companion in self.companions(name):
            effects += _of(companion, do(self.routers[companion]))
        return effects + self._after(now)

    def _after(self, now: float) -> Effects:
        """What follows for the groups, and for those that waited."""
        effects: Effects = []
        for group in {r.settings.group for r in self.routers.values()} - {""}:
            members = {n: r for n, r in self.routers.items() if r.settings.group == group}
            effects += _confer(group, members, now)
        for name in [name for name, router in self.routers.items() if router.done]:
            del self.routers[name]
            self.changes += 1
            if (settings := self._waiting.pop(name, None)) is not None:
                effects += self._add(name, settings, now)
        return effects


def effective_priority(settings: Router, facts: Mapping[TrackerKey, Fact]) -> int:
    """What the weights of the trackers leave of the priority: 1 to 254. The owner's is 255
    whatever happens (RFC 9568, 5.2.4); what nobody has looked at yet counts as holding."""
    if settings.owner:
        return settings.priority
    priority = settings.priority
    for tracker in settings.trackers:
        fact = facts.get(tracker.key, Fact(True))
        if tracker.weight is not None and fact.holds == (tracker.weight > 0):
            priority += tracker.weight
    return min(254, max(1, priority))


def _confer(group: str, members: Mapping[str, VirtualRouter], now: float) -> Effects:
    """Give the members of a sync group one fate."""
    effects: Effects = []
    for name, router in members.items():
        others = ((n, r) for n, r in members.items() if n != name)
        failing = next((f"{n}: {why}" for n, r in others if (why := r.own_fault)), None)
        reason = f"sync group {group}: {failing}" if failing else None
        effects += _of(name, router.hinder(GROUP, reason, now))
    if any(router.follows(now) for router in members.values()):
        reason = f"sync group {group} gives way"
        for name, router in members.items():
            effects += _of(name, router.give_way(reason, now))
    elif all(router.expired or router.role is Role.ACTIVE for router in members.values()):
        for name, router in members.items():
            if router.expired:
                effects += _of(name, router.take_over(now))
    return effects


def _same(new: Router, old: Router) -> bool:
    """Whether a router can go on under these settings without leaving the network."""
    keys = ("interface", "vrid", "version", "family", "mac", "group", "owner")
    return all(getattr(new, key) == getattr(old, key) for key in keys)


def _of(name: str, effects: Iterable[Effect]) -> Effects:
    return [(name, effect) for effect in effects]
