"""Disjoint networks: from overlapping prefixes to one sorted list of pieces.

Overlapping prefixes (a database, then overrides on top) become *pieces*: CIDR blocks that
do not overlap, cover all addresses, and carry the value of the longest prefix over them.
Neighbours of one value are joined where the pair is a CIDR block. A piece is what the scope
of an ECS answer names: the answer holds for it, and for nothing wider (RFC 7871, 7.2.1).

An address is a *key* here: the 32 bits of IPv4, the upper 64 of IPv6. Networks longer than
a /64 do not exist in this table; who reads them decides what they mean.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from lbctl.model import Address, Network

BITS = {4: 32, 6: 64}  # of a key, by IP version

Value = TypeVar("Value", bound=Hashable)
Other = TypeVar("Other", bound=Hashable)
Joined = TypeVar("Joined", bound=Hashable)


class Prefix(NamedTuple, Generic[Value]):
    """A network and what is said of it. length: in bits of the key."""

    key: int
    length: int
    value: Value


class Spans(NamedTuple, Generic[Value]):
    """What is said of all keys: `values[i]` from `starts[i]` to the next start.

    starts[0] is 0; neighbours differ. A span is not always a CIDR block. Two lists, since
    a database has a million of them.
    """

    starts: Sequence[int]
    values: Sequence[Value]

    def find(self, key: int) -> Value:
        """What is said of `key`."""
        return self.values[bisect_right(self.starts, key) - 1]


def key_of(network: Network) -> tuple[int, int]:
    """(key, length) of an IPv4 network or an IPv6 network up to /64. Raises ValueError."""
    if network.version == 4:
        return int(network.network_address), network.prefixlen
    if network.prefixlen > 64:
        raise ValueError(f"{network} is longer than a /64")
    return int(network.network_address) >> 64, network.prefixlen


def key_of_host(address: Address) -> int:
    """The key of one address."""
    return int(address) if address.version == 4 else int(address) >> 64


class Building(Generic[Value]):
    """Spans on their way, from the lowest key up."""

    def __init__(self, default: Value) -> None:
        self.starts: list[int] = [0]
        self.values: list[Value] = [default]

    def say(self, start: int, value: Value) -> None:
        """From `start` (not below the last one) on, `value`."""
        if self.starts[-1] == start:
            self.starts.pop()
            self.values.pop()
        if not self.values or self.values[-1] != value:
            self.starts.append(start)
            self.values.append(value)

    def spans(self) -> Spans[Value]:
        return Spans(self.starts, self.values)


def flatten(prefixes: Iterable[Prefix[Value]], bits: int, default: Value) -> Spans[Value]:
    """Spans over all keys; of prefixes that overlap, the longest speaks.

    Equal prefixes: the last one given.
    """
    chosen = {(p.key, p.length): p.value for p in prefixes}
    made = Building(default)
    last = 1 << bits
    around: list[tuple[int, Value]] = [(last, default)]  # (end, value), innermost at the end

    def leave(until: int) -> None:
        while around[-1][0] <= until and len(around) > 1:
            end, _ = around.pop()
            if end < last:
                made.say(end, around[-1][1])

    for (key, length), value in sorted(chosen.items(), key=lambda item: item[0]):
        leave(key)
        around.append((key + (1 << (bits - length)), value))
        made.say(key, value)
    leave(last)
    return made.spans()


def join(
    left: Spans[Value], right: Spans[Other], merge: Callable[[Value, Other], Joined]
) -> Spans[Joined]:
    """Both tables as one, by `merge` of their values."""
    made = Building(merge(left.values[0], right.values[0]))
    i = j = 0
    never = 1 << 128
    while True:
        next_left = left.starts[i + 1] if i + 1 < len(left.starts) else never
        next_right = right.starts[j + 1] if j + 1 < len(right.starts) else never
        start = min(next_left, next_right)
        if start == never:
            return made.spans()
        i += next_left == start
        j += next_right == start
        made.say(start, merge(left.values[i], right.values[j]))


def pieces(spans: Spans[Value], bits: int) -> Iterator[tuple[int, int, Value]]:
    """Each span cut into the fewest CIDR blocks: (key, length, value), in order."""
    ends = [*spans.starts[1:], 1 << bits]
    for start, end, value in zip(spans.starts, ends, spans.values, strict=True):
        while start < end:
            # The largest block that begins here, is aligned, and fits.
            size = min(start & -start or 1 << bits, 1 << ((end - start).bit_length() - 1))
            yield start, bits - size.bit_length() + 1, value
            start += size
