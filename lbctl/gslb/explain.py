"""Why a client gets what it gets: the chain, step by step, from the same functions that
compile it; and what a whole database's networks get, now and if a site fails.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from zlib import crc32

import msgspec

from lbctl.errors import NotFound
from lbctl.gslb import rings
from lbctl.gslb.knowledge import Knowledge
from lbctl.gslb.layers import merge
from lbctl.gslb.model import Attribute, Match, Member, Name, Place, Policy, Sticky, Zone
from lbctl.gslb.networks import key_of_host
from lbctl.gslb.plan import tail_of
from lbctl.gslb.policy import Allocation, Region, Standing, Weather, allocate, balance_of
from lbctl.gslb.regions import RegionMap
from lbctl.gslb.wire import Type, name_to_text, name_to_wire
from lbctl.model import Address, Network


class StepView(msgspec.Struct, frozen=True):
    """A step: what it left, best first, and why."""

    step: str
    kept: list[list[str]]
    why: str


class Explanation(msgspec.Struct, frozen=True):
    """shares: of the sites that serve this network now. answer: what the sticky key, or the
    first turn, gets. scope: prefix length that an ECS answer names; 0 without ECS."""

    name: str
    client: str
    place: dict[str, str]
    policy: str
    steps: list[StepView]
    shares: dict[str, float]
    reasons: dict[str, str]
    answer: list[str]
    scope: int
    ttl: int


def find_name(zones: Iterable[Zone], text: str) -> Name:
    """The balanced name that answers `text`, wildcards included. Raises NotFound."""
    wire = name_to_wire(text)
    known = {one.wire: one for zone in zones for one in zone.names}
    if wire in known:
        return known[wire]
    rest = wire
    while len(rest) > 1:
        rest = rest[1 + rest[0] :]
        if b"\x01*" + rest in known:
            return known[b"\x01*" + rest]
    names = ", ".join(name_to_text(one) for one in known)
    raise NotFound(f"{text}: no balanced name", f"known: {names}")


def explain(
    known: Knowledge,
    maps: list[RegionMap],
    weather: Weather,
    text: str,
    client: Address,
    subnet: Network | None = None,
) -> Explanation:
    """What `client` (or the clients in `subnet`, by ECS) gets for the name `text`."""
    name = find_name(known.gslb.zones, text)
    policy = known.gslb.policies[name.policy]
    asked: Address = subnet.network_address if subnet is not None else client
    members, table = _pool(known, name)
    key = key_of_host(asked)
    sides = maps[table]
    number, scope = (sides.v4 if asked.version == 4 else sides.v6).find(key)
    region = known.tables[table].regions[number]
    allocation = allocate(policy, members, region, weather)
    first = _picked(policy, allocation, [m.site for m in members], key, asked.version)
    sticky = balance_of(policy)
    if isinstance(sticky, Sticky) and len(allocation.shares) > 1:
        scope = max(scope, sticky.prefix4 if asked.version == 4 else sticky.prefix6)
    place = _with_overrides(known.place(asked), policy, asked, region)
    return Explanation(
        name=name_to_text(name.wire),
        client=str(subnet or client),
        place=_show(place),
        policy=name.policy,
        steps=[StepView(s.step, [list(t) for t in s.tiers], s.why) for s in allocation.stages],
        shares={members[i].site: round(s, 4) for i, s in allocation.shares.items()},
        reasons={members[i].site: why for i, why in allocation.reasons.items()},
        answer=_texts(members[first]) if first is not None else [],
        scope=scope if subnet is not None and subnet.prefixlen else 0,
        ttl=name.ttl,
    )


def _pool(known: Knowledge, name: Name) -> tuple[tuple[Member, ...], int]:
    """The members that answer A (or AAAA where none does), and their table's number."""
    for kind in (Type.A, Type.AAAA):
        slot = known.plan.slots.get(name.wire + tail_of(kind))
        if slot is not None and slot.pool is not None:
            pool = list(known.plan.pools)[slot.pool]
            return pool.members, pool.table
    raise NotFound(f"{name_to_text(name.wire)}: no member has an address")


def _texts(member: Member) -> list[str]:
    if member.cname:
        return [f"CNAME {name_to_text(member.cname)}"]
    return [str(address) for address in member.addresses]


def _picked(
    policy: Policy, allocation: Allocation, sites: list[str], key: int, version: int
) -> int | None:
    if not allocation.shares:
        return None
    balance = balance_of(policy)
    if not isinstance(balance, Sticky):
        return rings.by_turn(allocation.shares)[0]
    ring = rings.sticky(allocation.shares, sites)
    bits, prefix = (32, balance.prefix4) if version == 4 else (64, balance.prefix6)
    return ring[crc32((key >> (bits - prefix)).to_bytes(8, "big")) % len(ring)]


def _with_overrides(place: Place, policy: Policy, address: Address, region: Region) -> Place:
    named = [
        network
        for step in policy.steps
        if isinstance(step, Match) and step.by is Attribute.CIDR
        for network in step.networks()
        if address in network
    ]
    longest = max(named, key=lambda network: network.prefixlen, default=None)
    return merge(place, replace(Place(cidr=longest), measured=region.measured))


def _show(place: Place) -> dict[str, str]:
    said = {
        "cidr": str(place.cidr or ""),
        "asn": f"AS{place.asn}" if place.asn else "",
        "city": place.city,
        "country": place.country,
        "continent": place.continent,
        "measured": str(place.measured or ""),
    }
    if place.location is not None:
        said["location"] = f"{place.location.latitude:g}, {place.location.longitude:g}"
    return {key: value for key, value in said.items() if value}


# --- simulate ---------------------------------------------------------------------------


class Simulation(msgspec.Struct, frozen=True):
    """Shares of the sampled networks, by site: in all, by country, by provider."""

    name: str
    failed: str
    networks: int
    total: dict[str, float]
    countries: dict[str, dict[str, float]]
    providers: dict[str, dict[str, float]]


def simulate(
    known: Knowledge, weather: Weather, text: str, failed: str = "", sample: int = 20000
) -> Simulation:
    """Which share of the databases' IPv4 networks each site of `text` serves; `failed`: as
    if that site were down. Every database network counts once, `sample` of them evenly."""
    name = find_name(known.gslb.zones, text)
    if failed and failed not in known.gslb.sites:
        raise NotFound(f"{failed}: no such site", f"known: {', '.join(known.gslb.sites)}")
    if failed:
        down = {**weather.standings, (failed, ""): Standing(up=False, why="simulated")}
        weather = Weather(down, weather.times)
    policy = known.gslb.policies[name.policy]
    members, table_number = _pool(known, name)
    table = known.tables[table_number]
    shares: dict[Region, Mapping[int, float]] = {}
    total: dict[str, float] = defaultdict(float)
    countries: dict[str, dict[str, float]] = {}
    providers: dict[str, dict[str, float]] = {}
    networks = 0
    for address in sample_of(known, sample):
        networks += 1
        region = table.regions[table.v4.find(key_of_host(address))]
        if region not in shares:
            shares[region] = allocate(policy, members, region, weather).shares
        place = known.place(address)
        by_country = countries.setdefault(place.country or "-", defaultdict(float))
        by_provider = providers.setdefault(
            f"AS{place.asn}" if place.asn else "-", defaultdict(float)
        )
        for i, share in shares[region].items():
            for counter in (total, by_country, by_provider):
                counter[members[i].site] += share
    return Simulation(
        name_to_text(name.wire), failed, networks, _parts(total),
        {key: _parts(one) for key, one in sorted(countries.items())},
        {key: _parts(one) for key, one in sorted(providers.items())},
    )  # fmt: skip


def sample_of(known: Knowledge, sample: int) -> Iterable[Address]:
    """First addresses of up to `sample` database networks, evenly spread."""
    starts = sorted({s for one in known.databases.values() for s in one.layer.v4.starts})
    step = max(1, len(starts) // sample)
    return [ip_address(start) for start in starts[::step]]


def _parts(counter: Mapping[str, float]) -> dict[str, float]:
    whole = sum(counter.values()) or 1.0
    return {site: round(count / whole, 4) for site, count in sorted(counter.items())}
