"""Which slot names which server: Maglev's table, the turns of rr and wrr, and how slots
change. Pure.

A table is a function of servers and weights alone, so two gateways that agree on these
agree on every slot.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import cycle
from math import gcd, isqrt


@lru_cache
def _order(slots: int) -> tuple[list[int], list[int]]:
    """The slots, shuffled: the same wherever it is computed. And the place of each in it."""
    order = sorted(range(slots), key=lambda slot: blake2b(slot.to_bytes(4, "big")).digest())
    return order, sorted(range(slots), key=lambda place: order[place])


@lru_cache(maxsize=65536)
def _permutation(name: str, slots: int) -> tuple[int, int, int]:
    """Where a server starts in the shuffled order, how far it steps, and what turns the
    slots it meets into its own. slots is a power of two, so any odd step visits all.

    Maglev (3.4) has offset and skip alone; then two servers whose steps have much in common
    meet in the same slots all along, and one that leaves moves up to 1.4 times its own.
    """
    digest = blake2b(name.encode(), digest_size=24).digest()
    start, step, twist = (int.from_bytes(digest[i : i + 8], "big") % slots for i in (0, 8, 16))
    return start, step | 1, twist


def maglev(weights: Mapping[str, int], slots: int) -> list[str]:
    """A name per slot, each name in proportion to its weight (Eisenbud et al., NSDI 2016).

    Servers take turns claiming the next free slot of their own permutation; one with half
    the largest weight has half the turns. One that weighs less than a slot has one. Empty
    without servers. slots: a power of two.
    """
    names = sorted(name for name, weight in weights.items() if weight > 0)
    if not names:
        return []
    (order, _), mask, few = _order(slots), slots - 1, isqrt(slots) // 2
    walks = [_permutation(name, slots) for name in names]
    starts, steps, twists = map(list, zip(*walks, strict=True))
    table, free, left = [-1] * slots, slots, list[int]()
    for one in _claims([weights[name] for name in names], slots):
        at, step, twist = starts[one], steps[one], twists[one]
        if free > few:
            while table[number := order[at] ^ twist] >= 0:
                at = (at + step) & mask
        else:  # the last few cost the most steps
            left = left or [number for number, owner in enumerate(table) if owner < 0]
            at, number = _next(left, (at, step, twist), slots)
            left.remove(number)
        table[number] = one
        starts[one] = (at + step) & mask
        free -= 1
        if not free:
            break
    return [names[owner] for owner in table]


def _claims(weights: Sequence[int], slots: int) -> Iterator[int]:
    """Whose turn it is to claim a slot, for ever."""
    largest, slot = max(weights), sum(weights) / slots
    if min(weights) == largest:
        yield from cycle(range(len(weights)))
    shares = [weight / largest for weight in weights]
    credit = [1.0 if weight < slot else 0.0 for weight in weights]
    while True:
        for one, share in enumerate(shares):
            credit[one] += share
            if credit[one] >= 1:
                credit[one] -= 1
                yield one


def _next(left: Collection[int], walk: tuple[int, int, int], slots: int) -> tuple[int, int]:
    """The place in the order at which a walk meets the first of these, and which it is."""
    (_, places), (at, step, twist) = _order(slots), walk
    back = pow(step, -1, slots)
    steps, number = min(((places[one ^ twist] - at) * back & slots - 1, one) for one in left)
    return (at + steps * step) & slots - 1, number


def turns(weights: Mapping[str, int], most: int) -> list[str]:
    """The order in which new flows go round: smooth weighted round robin, so that heavy
    servers do not get their share in bursts. Weights whose sum is above `most` are scaled
    down, the smallest to no less than one turn."""
    scaled = _scaled({name: w for name, w in weights.items() if w > 0}, most)
    total = sum(scaled.values())
    current = dict.fromkeys(sorted(scaled), 0)
    order = []
    for _ in range(total):
        for name in current:
            current[name] += scaled[name]
        best = max(current, key=lambda name: current[name])
        current[best] -= total
        order.append(best)
    return order


def _scaled(weights: Mapping[str, int], most: int) -> dict[str, int]:
    if not weights:
        return {}
    divisor = gcd(*weights.values())
    reduced = {name: weight // divisor for name, weight in weights.items()}
    total = sum(reduced.values())
    if total <= most:
        return reduced
    room = most - len(reduced)  # each has one turn in any case
    return {name: 1 + weight * room // total for name, weight in reduced.items()}


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot's server and, while it changes, the old one that keeps unrecorded flows.
    Servers are numbers; 0 is nobody."""

    server: int
    old: int | None = None


def change(slot: Slot, server: int, alive: Collection[int]) -> Slot:
    """What a slot becomes when its server is to be `server`: the transition rule's part.

    A server that lives keeps its unrecorded flows while another takes the new ones; a dead
    one is replaced at once. A second change keeps the old server and replaces the new. A
    slot stops changing only when it is settled.
    """
    old = slot.server if slot.old is None else slot.old
    if old not in alive:
        old = server
    if slot.old is None and old == server:
        return Slot(server)
    return Slot(server, old)
