"""Layers of knowledge about networks, joined into one network -> region table.

A layer covers all addresses with numbers of `Place`s: one layer per database, one of the
CIDR overrides, one of the measured networks. A table joins those layers that its steps look
at; each distinct combination is ranked once, and combinations that rank alike are one
region. That keeps 400,000 networks at a handful of operations each.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from lbctl.gslb.model import NOWHERE, Attribute, Match, Measured, Nearest, Place, Site, Step
from lbctl.gslb.networks import BITS, Prefix, Spans, flatten, join, key_of
from lbctl.gslb.plan import TableKey
from lbctl.gslb.policy import Region, region_of
from lbctl.model import Network


@dataclass(frozen=True, slots=True)
class Layer:
    """Spans of numbers into `places`, for IPv4 and for the upper half of IPv6."""

    v4: Spans[int]
    v6: Spans[int]
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Layers:
    """Everything known. geo: country, continent, city, location; asn: provider."""

    geo: Layer | None = None
    asn: Layer | None = None


Value = TypeVar("Value", bound=Hashable)


class Table(NamedTuple):
    """A network -> region table: spans of numbers into `regions`."""

    v4: Spans[int]
    v6: Spans[int]
    regions: Sequence[Region]


def overrides(networks: Iterable[Network], *, measured: bool = False) -> Layer:
    """A layer that says which of `networks` an address lies in (the longest)."""
    places = [NOWHERE]
    prefixes: dict[int, list[Prefix[int]]] = {4: [], 6: []}
    for network in networks:
        key, length = key_of(network)
        prefixes[network.version].append(Prefix(key, length, len(places)))
        places.append(Place(measured=network) if measured else Place(cidr=network))
    v4, v6 = (flatten(prefixes[version], BITS[version], 0) for version in (4, 6))
    return Layer(v4, v6, places)


def table(
    key: TableKey, sites: Mapping[str, Site], layers: Layers, measured: Iterable[Network]
) -> Table:
    """The table of `key`."""
    used = _used(key.steps, layers, measured)
    places = [layer.places for layer in used]
    regions: dict[Region, int] = {}
    known: dict[tuple[int, ...], int] = {}

    def number(combination: tuple[int, ...]) -> int:
        found = known.get(combination)
        if found is None:
            together = NOWHERE
            for one, layer_places in zip(combination, places, strict=True):
                together = merge(together, layer_places[one])
            region = region_of(key.steps, key.sites, sites, together)
            found = known[combination] = regions.setdefault(region, len(regions))
        return found

    v4 = _number([layer.v4 for layer in used], number)
    v6 = _number([layer.v6 for layer in used], number)
    return Table(v4, v6, list(regions))


def merge(one: Place, two: Place) -> Place:
    """What both say; they speak of different things."""
    if one is NOWHERE:
        return two
    said = {
        name: value
        for name in ("country", "continent", "city", "asn", "location", "cidr", "measured")
        if (value := getattr(two, name))
    }
    return replace(one, **said)


def _used(steps: Sequence[Step], layers: Layers, measured: Iterable[Network]) -> list[Layer]:
    used = []
    looked_at = {step.by for step in steps if isinstance(step, Match)}
    geo = {Attribute.CITY, Attribute.COUNTRY, Attribute.CONTINENT}
    if layers.geo and (looked_at & geo or any(isinstance(step, Nearest) for step in steps)):
        used.append(layers.geo)
    if layers.asn and Attribute.ASN in looked_at:
        used.append(layers.asn)
    if Attribute.CIDR in looked_at:
        used.append(overrides(_cidrs(steps)))
    if any(isinstance(step, Measured) for step in steps):
        used.append(overrides(measured, measured=True))
    return used


def _cidrs(steps: Sequence[Step]) -> list[Network]:
    """The networks that `cidr` maps name, as the model spells them."""
    return [
        network
        for step in steps
        if isinstance(step, Match) and step.by is Attribute.CIDR
        for network in step.networks()
    ]


def _number(layers: Sequence[Spans[int]], number: Callable[[tuple[int, ...]], int]) -> Spans[int]:
    """Joined spans, each combination replaced by its region's number."""
    if not layers:
        return Spans([0], [number(())])
    if len(layers) == 1:
        only = layers[0]
        return _renumber(only.starts, only.values, lambda value: number((value,)))
    joined: Spans[tuple[int, ...]] = join(layers[0], layers[1], lambda one, two: (one, two))
    for layer in layers[2:]:
        joined = join(joined, layer, lambda one, two: (*one, two))
    return _renumber(joined.starts, joined.values, number)


def _renumber(
    starts: Sequence[int], values: Sequence[Value], number: Callable[[Value], int]
) -> Spans[int]:
    """The loop that sees every network of a database: nothing in it that need not be."""
    numbers = {value: number(value) for value in dict.fromkeys(values)}
    kept_starts, kept_values, last = [], [], -1
    for start, value in zip(starts, values, strict=True):
        region = numbers[value]
        if region != last:
            kept_starts.append(start)
            kept_values.append(region)
            last = region
    return Spans(kept_starts, kept_values)
