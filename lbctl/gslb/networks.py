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

from lbctl.model import Network

BITS = {4: 32, 6: 64}  # of a key, by IP version

Value = TypeVar("Value", bound=Hashable)
Other = TypeVar("Other", bound=Hashable)


class Prefix(NamedTuple, Generic[Value]):
    """A network and what is said of it. length: in bits of the key."""

    key: int
    length: int
    value: Value


class Span(NamedTuple, Generic[Value]):
    """Keys from `start` to the next span's start. Not always a CIDR block."""

    start: int
    value: Value


def key_of(network: Network) -> tuple[int, int]:
    """(key, length) of an IPv4 network or an IPv6 network up to /64. Raises ValueError."""
    if network.version == 4:
        return int(network.network_address), network.prefixlen
    if network.prefixlen > 64:
        raise ValueError(f"{network} is longer than a /64")
    return int(network.network_address) >> 64, network.prefixlen


def flatten(prefixes: Iterable[Prefix[Value]], bits: int, default: Value) -> list[Span[Value]]:
    """Spans over all keys; of prefixes that overlap, the longest speaks.

    Equal prefixes: the last one given. Adjacent spans of one value are joined.
    """
    chosen = {(p.key, p.length): p.value for p in prefixes}
    spans: list[Span[Value]] = []
    open_: list[tuple[int, Value]] = [(1 << bits, default)]  # (end, value), innermost last

    def speak(start: int, value: Value) -> None:
        if spans and spans[-1].start == start:
            spans.pop()
        if not spans or spans[-1].value != value:
            spans.append(Span(start, value))

    def close(until: int) -> None:
        while open_[-1][0] <= until and len(open_) > 1:
            end, _ = open_.pop()
            speak(end, open_[-1][1])

    speak(0, default)
    for (key, length), value in sorted(chosen.items(), key=lambda item: item[0]):
        close(key)
        open_.append((key + (1 << (bits - length)), value))
        speak(key, value)
    close(1 << bits)
    if spans[-1].start == 1 << bits:  # nothing lies past the last key
        spans.pop()
    return spans


def join(
    left: Sequence[Span[Value]],
    right: Sequence[Span[Other]],
    merge: Callable[[Value, Other], Hashable],
) -> list[Span[Hashable]]:
    """Both tables as one, by `merge` of their values; neighbours that agree are joined."""
    joined: list[Span[Hashable]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i].start, right[j].start)
        value = merge(left[i].value, right[j].value)
        if not joined or joined[-1].value != value:
            joined.append(Span(start, value))
        next_left = left[i + 1].start if i + 1 < len(left) else None
        next_right = right[j + 1].start if j + 1 < len(right) else None
        if next_right is None or (next_left is not None and next_left <= next_right):
            i += 1
            j += next_left is not None and next_left == next_right
        else:
            j += 1
    return joined


def pieces(spans: Sequence[Span[Value]], bits: int) -> Iterator[Prefix[Value]]:
    """Each span cut into the fewest CIDR blocks."""
    for number, (start, value) in enumerate(spans):
        end = spans[number + 1].start if number + 1 < len(spans) else 1 << bits
        while start < end:
            align = (start & -start).bit_length() - 1 if start else bits
            step = min(align, (end - start).bit_length() - 1)
            yield Prefix(start, bits - step, value)
            start += 1 << step


def find(spans: Sequence[Span[Value]], key: int) -> Value:
    """What is said of `key`."""
    return spans[bisect_right(spans, key, key=lambda span: span.start) - 1].value
