"""Why a client gets what it gets: the chain, step by step, from the same functions that
compile it; and what a whole database's networks get, now and if a site fails.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from zlib import crc32

import msgspec

from lbctl.errors import NotFound
from lbctl.gslb.compiler import Compiler
from lbctl.gslb.knowledge import Knowledge
from lbctl.gslb.layers import merge
from lbctl.gslb.model import NOWHERE, AllDown, Attribute, Match, Name, Place, Policy, Sticky, Zone
from lbctl.gslb.networks import key_of_host
from lbctl.gslb.plan import Pool, tail_of
from lbctl.gslb.policy import Region, Standing, Weather, allocate, balance_of
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
    first turn, gets, A and AAAA. scope: prefix length that an ECS answer names; 0 without."""

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
    compiler: Compiler,
    maps: list[RegionMap],
    weather: Weather,
    text: str,
    client: Address,
    subnet: Network | None = None,
) -> Explanation:
    """What `client` (or the clients in `subnet`, by ECS) gets for the name `text`."""
    name = find_name(known.gslb.zones, text)
    policy = known.gslb.policies[name.policy]
    if subnet is not None and not subnet.prefixlen:
        subnet = None  # it asks to be taken for its resolver (RFC 7871 section 7.1.2)
    asked: Address = subnet.network_address if subnet is not None else client
    pools = _pools(known, name)
    pool = next(iter(pools.values()))
    members, table = pool.members, pool.table
    sides = maps[table]
    number, scope = (sides.v4 if asked.version == 4 else sides.v6).find(key_of_host(asked))
    region = known.tables[table].regions[number]
    allocation = allocate(policy, members, region, weather)
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
        answer=_answer(pools, compiler, maps, weather, asked),
        scope=scope if subnet is not None else 0,
        ttl=name.ttl,
    )


def _pools(known: Knowledge, name: Name) -> dict[Type, Pool]:
    """The pools that answer A and AAAA, of those types that have one. Raises NotFound."""
    found = {}
    pools = list(known.plan.pools)
    for kind in (Type.A, Type.AAAA):
        slot = known.plan.slots.get(name.wire + tail_of(kind))
        if slot is not None and slot.pool is not None:
            found[kind] = pools[slot.pool]
    if not found:
        raise NotFound(f"{name_to_text(name.wire)}: no member has an address")
    return found


def _answer(
    pools: Mapping[Type, Pool], compiler: Compiler, maps: list[RegionMap], weather: Weather,
    asked: Address,
) -> list[str]:  # fmt: skip
    """What is answered, from the rings that were compiled: A and AAAA, or an alias."""
    said: list[str] = []
    for kind, pool in pools.items():
        sides = maps[pool.table]
        key = key_of_host(asked)
        number, _ = (sides.v4 if asked.version == 4 else sides.v6).find(key)
        choices = compiler.ring(pool, number, weather).choices
        choice = choices[_turn(pool.policy, key, asked.version, len(choices))]
        members = [pool.members[i] for i in choice]
        if members and members[0].cname:
            return [f"CNAME {name_to_text(members[0].cname)}"]
        found = [address for member in members for address in member.addresses]
        if not members and pool.policy.all_down is AllDown.STATIC:
            found = list(pool.policy.static)
        version = 4 if kind is Type.A else 6
        said += [str(one) for one in dict.fromkeys(found) if one.version == version]
    return said


def _turn(policy: Policy, key: int, version: int, slots: int) -> int:
    """The slot of a ring that a client meets: by its sticky key, or the first."""
    balance = balance_of(policy)
    if not isinstance(balance, Sticky):
        return 0
    bits, prefix = (32, balance.prefix4) if version == 4 else (64, balance.prefix6)
    return crc32((key >> (bits - prefix)).to_bytes(8, "big")) % slots


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
    """Which share of the databases' networks each site of `text` serves; `failed`: as if
    that site were down. Every network that a database knows counts once, neighbours that it
    says the same of together; at most `sample` of them, evenly."""
    name = find_name(known.gslb.zones, text)
    if failed and failed not in known.gslb.sites:
        raise NotFound(f"{failed}: no such site", f"known: {', '.join(known.gslb.sites)}")
    if failed:
        down = {**weather.standings, (failed, ""): Standing(up=False, why="simulated")}
        weather = Weather(down, weather.times)
    policy = known.gslb.policies[name.policy]
    pool = next(iter(_pools(known, name).values()))
    members, table = pool.members, known.tables[pool.table]
    shares: dict[Region, Mapping[int, float]] = {}
    total: dict[str, float] = defaultdict(float)
    countries: dict[str, dict[str, float]] = {}
    providers: dict[str, dict[str, float]] = {}
    networks = 0
    for address in sample_of(known, sample):
        networks += 1
        side = table.v4 if address.version == 4 else table.v6
        region = table.regions[side.find(key_of_host(address))]
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


def sample_of(known: Knowledge, sample: int) -> list[Address]:
    """First addresses of up to `sample` networks of the databases, evenly spread."""
    starts: list[set[int]] = [set(), set()]
    for database in known.databases.values():
        layer = database.layer
        for found, side in zip(starts, (layer.v4, layer.v6), strict=True):
            found.update(start for start, place in zip(side.starts, side.values, strict=True)
                         if layer.places[place] != NOWHERE)  # fmt: skip
    v4, v6 = map(sorted, starts)
    step = max(1, -(-(len(v4) + len(v6)) // sample))
    every = [(4, start) for start in v4] + [(6, start) for start in v6]
    return [
        IPv4Address(start) if version == 4 else IPv6Address(start << 64)
        for version, start in every[::step]
    ]


def _parts(counter: Mapping[str, float]) -> dict[str, float]:
    whole = sum(counter.values()) or 1.0
    return {site: round(count / whole, 4) for site, count in sorted(counter.items())}
