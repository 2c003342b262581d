"""The plan, the regions and the weather, made into the `answers` blob.

Nothing here looks at networks: a change of health walks pools x regions, and pools that
see the same members in the same state share the work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lbctl.gslb import records, rings
from lbctl.gslb.answers import BY_TURN, STICKY, PoolRow, Ring, Writer
from lbctl.gslb.model import AllDown, Member, Policy, Sticky
from lbctl.gslb.plan import Plan, Pool, Slot
from lbctl.gslb.policy import (
    Allocation,
    Region,
    Standing,
    Weather,
    allocate,
    balance_of,
    count_of,
)
from lbctl.gslb.records import Answer
from lbctl.gslb.wire import Type
from lbctl.model import Address

NOBODY: tuple[int, ...] = ()  # the choice numbered 0


class _Seen(NamedTuple):
    """All that an allocation depends on."""

    policy: str
    members: tuple[tuple[str, int], ...]
    region: Region
    standings: tuple[Standing, ...]
    times: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A region's ring in terms of members: the members of each slot, and why."""

    choices: tuple[tuple[int, ...], ...]
    reasons: tuple[str, ...]


class Compiler:
    """Writes answers again and again for one plan. regions: per table, by number."""

    def __init__(self, made: Plan, regions: Sequence[Sequence[Region]]) -> None:
        self.plan = made
        self.regions = regions
        self._drawn: dict[_Seen, Drawn] = {}
        self._good: dict[tuple[int, int], Drawn] = {}  # (pool, region) -> last with a member
        self._named: list[frozenset[str]] = []  # by pool: the sites in its answers

    def adopt(self, older: "Compiler") -> None:
        """Remember the last good answers of `older`, where pool and region are the same."""
        numbers = {
            (pool, region): (pool_number, number)
            for pool, pool_number in self.plan.pools.items()
            for number, region in enumerate(self.regions[pool.table])
        }
        for pool, pool_number in older.plan.pools.items():
            for number, region in enumerate(older.regions[pool.table]):
                drawn = older._good.get((pool_number, number))
                if drawn is not None and (pool, region) in numbers:
                    self._good[numbers[pool, region]] = drawn

    def answers(self, weather: Weather) -> bytes:
        """The blob for `weather`."""
        writer = Writer()
        used, self._drawn = self._drawn, {}
        choices = [self._pool(writer, pool, n, weather, used)
                   for pool, n in self.plan.pools.items()]  # fmt: skip
        pools = list(self.plan.pools)
        for slot in self.plan.slots.values():
            if slot.pool is None:
                writer.slot(None, [(slot.answer, "")], slot.label)
            else:
                pool = pools[slot.pool]
                found = [_answer(slot, pool, choice) for choice in choices[slot.pool]]
                writer.slot(slot.pool, found, slot.label)
        blob = writer.blob()
        self._named = [
            frozenset(pool.members[i].site for choice in found for i in choice)
            for pool, found in zip(pools, choices, strict=True)
        ]
        return blob

    def ring(self, pool: Pool, region_number: int, weather: Weather) -> Drawn:
        """What `pool` answers for a region: who is named at each slot of its ring."""
        drawn = draw(pool.policy, pool.members, self.regions[pool.table][region_number], weather)
        return self._remember(pool.policy, (self.plan.pools[pool], region_number), drawn)

    @property
    def answered(self) -> frozenset[str]:
        """The sites that any of the last answers names."""
        return frozenset().union(*self._named)

    def names_with(self, site: str) -> list[str]:
        """The names whose last answers hold `site`."""
        named = {number for number, sites in enumerate(self._named) if site in sites}
        return sorted({one.label for one in self.plan.slots.values() if one.pool in named})

    def _pool(
        self, writer: Writer, pool: Pool, number: int, weather: Weather, used: dict[_Seen, Drawn]
    ) -> list[tuple[int, ...]]:
        """Write a pool; return its choices in the order of their numbers."""
        numbers: dict[tuple[int, ...], int] = {NOBODY: 0}
        found = []
        for region_number, region in enumerate(self.regions[pool.table]):
            drawn = self._draw(pool, region, weather, used)
            drawn = self._remember(pool.policy, (number, region_number), drawn)
            picks = tuple(numbers.setdefault(choice, len(numbers)) for choice in drawn.choices)
            found.append(Ring(picks, drawn.reasons))
        writer.pool(_row(pool), found)
        return list(numbers)

    def _draw(
        self, pool: Pool, region: Region, weather: Weather, used: dict[_Seen, Drawn]
    ) -> Drawn:
        seen = _Seen(
            pool.policy_name,
            tuple((member.site, member.weight) for member in pool.members),
            region,
            tuple(weather.of(member) for member in pool.members),
            tuple(sorted(weather.measured(region).items())),
        )
        drawn = self._drawn.get(seen) or used.get(seen)
        if drawn is None:
            drawn = draw(pool.policy, pool.members, region, weather)
        self._drawn[seen] = drawn
        return drawn

    def _remember(self, policy: Policy, where: tuple[int, int], drawn: Drawn) -> Drawn:
        if policy.all_down is not AllDown.LAST_GOOD:
            return drawn
        if drawn.choices != (NOBODY,):
            self._good[where] = drawn
            return drawn
        last = self._good.get(where)
        return drawn if last is None else Drawn(last.choices, ("all-down",) * len(last.choices))


def draw(policy: Policy, members: Sequence[Member], region: Region, weather: Weather) -> Drawn:
    """The ring of `region` now."""
    allocation = allocate(policy, members, region, weather)
    if not allocation.shares:
        return Drawn((NOBODY,), ("all-down",))
    if isinstance(balance_of(policy), Sticky):
        ring = rings.sticky(allocation.shares, [member.site for member in members])
    else:
        ring = rings.by_turn(allocation.shares)
    count = count_of(policy)
    choices = tuple(_choice(first, allocation, count) for first in ring)
    return Drawn(choices, tuple(allocation.reasons[first] for first in ring))


def _choice(first: int, allocation: Allocation, count: int) -> tuple[int, ...]:
    """`first`, then the best of the others: members that serve, in order."""
    rest = [i for i in allocation.order if i != first]
    return (first, *rest[: count - 1])


def _row(pool: Pool) -> PoolRow:
    balance = balance_of(pool.policy)
    if isinstance(balance, Sticky):
        return PoolRow(pool.table, STICKY, balance.prefix4, balance.prefix6, 0)
    return PoolRow(pool.table, BY_TURN, 0, 0, 0)


def _answer(slot: Slot, pool: Pool, choice: tuple[int, ...]) -> tuple[Answer, str]:
    """What `slot` says when `choice` is picked, and the sites it names."""
    members = [pool.members[i] for i in choice]
    if not members:
        return _when_all_down(slot, pool.policy), "-"
    if members[0].cname:
        return records.alias(slot.ttl, members[0].cname), members[0].site
    plain = [member for member in members if not member.cname]
    found = [address for member in plain for address in member.addresses]
    answer = _addresses(slot, found)
    return answer, "+".join(member.site for member in plain)


def _when_all_down(slot: Slot, policy: Policy) -> Answer:
    return _addresses(slot, policy.static if policy.all_down is AllDown.STATIC else ())


def _addresses(slot: Slot, found: Sequence[Address]) -> Answer:
    if slot.type not in (Type.A, Type.AAAA):
        return slot.answer
    answer = records.addresses(slot.type, slot.ttl, found)
    return answer if answer.answers else slot.answer
