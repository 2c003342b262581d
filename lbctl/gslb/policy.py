"""The policy chain: from a place, and the state of the sites, to who serves it and why.

The chain is cut in two, so that a health change need not look at a single network:

    place  --static steps-->  Region      what networks share; computed per database
    Region --all the rest-->  Allocation  who serves it now; computed per change of state

`Region` holds one row of ranks per ordering step. Ranks compare step by step (an earlier
step outweighs the later ones), members with equal ranks form a *tier*, and the first tier
with healthy members serves; spill-over hands shares on to the next. Filters and rankings
commute, which is what makes the cut right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import asin, cos, radians, sin, sqrt
from typing import NamedTuple, assert_never

from lbctl.gslb.model import (
    AllDown,
    Attribute,
    Failover,
    First,
    Healthy,
    Location,
    Match,
    Measured,
    Member,
    Nearest,
    Place,
    Policy,
    RoundRobin,
    Site,
    Spill,
    Step,
    Sticky,
    Weighted,
)
from lbctl.model import Network

EARTH = 6371.0  # km
SILENT: tuple[int, ...] = ()  # a step that says nothing of a place

Ranks = tuple[int, ...]  # one per member; lower is better
Balance = Weighted | RoundRobin | Sticky


class Region(NamedTuple):
    """What a policy's static steps say of some networks: a row of ranks per ordering step
    (SILENT: nothing), and the measured network they lie in."""

    rows: tuple[Ranks, ...] = ()
    measured: Network | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A member now. load: share of its site's capacity."""

    up: bool = True
    draining: bool = False
    load: float = 0.0
    why: str = ""

    @property
    def serves(self) -> bool:
        return self.up and not self.draining


WELL = Standing()


@dataclass(frozen=True, slots=True)
class Weather:
    """What changes from minute to minute: members' standings by (site, service), and the
    round-trip times in seconds from sites to measured networks."""

    standings: Mapping[tuple[str, str], Standing] = field(default_factory=dict)
    times: Mapping[Network, Mapping[str, float]] = field(default_factory=dict)

    def of(self, member: Member) -> Standing:
        """A site's standing beats that of its service: a site that drains drains whole."""
        site = self.standings.get((member.site, ""), WELL)
        if not site.serves or not member.service:
            return site
        return self.standings.get((member.site, member.service), site)

    def measured(self, region: Region) -> Mapping[str, float]:
        """Round-trip times to the region, by site."""
        return self.times.get(region.measured, {}) if region.measured else {}


class Stage(NamedTuple):
    """One step of the chain: what it left, best first, equals together; and why."""

    step: str
    tiers: tuple[tuple[str, ...], ...]
    why: str


@dataclass(frozen=True, slots=True)
class Allocation:
    """Who serves. shares: by member, summing to 1 (empty: nobody). order: all that may
    serve, best first. reasons: for each member with a share, the step that chose it."""

    shares: Mapping[int, float] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    reasons: Mapping[int, str] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    all_down: bool = False


def ordering(step: Step) -> bool:
    return isinstance(step, Match | Nearest | Measured | Failover)


def static_steps(policy: Policy) -> tuple[Step, ...]:
    """The ordering steps: two policies that agree in them share a network table."""
    return tuple(step for step in policy.steps if ordering(step))


def title(step: Step) -> str:
    """A step's name as the file spells it."""
    match step:
        case Match():
            return str(step.by)
        case Nearest():
            return "nearest"
        case Measured():
            return "measured"
        case Failover():
            return "failover"
        case Healthy():
            return "healthy"
        case Spill():
            return "spill"
        case Weighted():
            return "weighted"
        case RoundRobin():
            return "round-robin"
        case Sticky():
            return "sticky"
        case First():
            return "first"
        case _:
            assert_never(step)


# --- place -> Region --------------------------------------------------------------------


def region_of(
    steps: Sequence[Step], places: Sequence[str], sites: Mapping[str, Site], place: Place
) -> Region:
    """The region of `place` for members at the sites `places`, by the ordering `steps`."""
    rows, measured = [], None
    for step in steps:
        if isinstance(step, Measured):
            measured = place.measured
            rows.append(SILENT)
        else:
            rows.append(rank(step, places, sites, place))
    return Region(tuple(rows), measured)


def rank(step: Step, places: Sequence[str], sites: Mapping[str, Site], place: Place) -> Ranks:
    """What one static step says of `place`."""
    match step:
        case Match():
            listed = step.sites.get(key_for(step.by, place))
            if not listed or not any(site in listed for site in places):
                return SILENT
            return tuple(_position(listed, site) for site in places)
        case Nearest():
            if place.location is None:
                return SILENT
            here = place.location
            return _dense([_band(here, sites[site].location, step.band) for site in places])
        case Failover():
            return tuple(range(len(places)))
        case _:
            return SILENT


def key_for(by: Attribute, place: Place) -> str:
    """How a `Match` step's map spells this attribute of `place`."""
    match by:
        case Attribute.CIDR:
            return str(place.cidr) if place.cidr else ""
        case Attribute.ASN:
            return str(place.asn) if place.asn else ""
        case Attribute.CITY:
            return f"{place.country}/{place.city}" if place.city else ""
        case Attribute.COUNTRY:
            return place.country
        case Attribute.CONTINENT:
            return place.continent
        case _:
            assert_never(by)


def _position(listed: tuple[str, ...], site: str) -> int:
    return listed.index(site) if site in listed else len(listed)


def _band(here: Location, there: Location | None, band: float) -> int:
    if there is None:  # a site without a place (a CDN is everywhere) comes after all others
        return 1 << 30
    return int(distance(here, there) / band)


def _dense(values: Sequence[int]) -> Ranks:
    """Only the order counts: places that order sites alike are one region."""
    rank_of = {value: rank for rank, value in enumerate(sorted(set(values)))}
    return tuple(rank_of[value] for value in values)


def distance(one: Location, two: Location) -> float:
    """Great-circle distance in km (haversine)."""
    lat1, lat2 = radians(one.latitude), radians(two.latitude)
    half_lat = sin((lat2 - lat1) / 2)
    half_lon = sin(radians(two.longitude - one.longitude) / 2)
    h = half_lat * half_lat + cos(lat1) * cos(lat2) * half_lon * half_lon
    return 2 * EARTH * asin(sqrt(min(1.0, h)))


# --- Region -> Allocation ---------------------------------------------------------------


def allocate(
    policy: Policy, members: Sequence[Member], region: Region, weather: Weather
) -> Allocation:
    """Who serves the networks of `region` now, with the whole chain for `explain`."""
    standings = [weather.of(member) for member in members]
    chain = _Chain(members, standings)
    rows = iter(region.rows)
    for step in policy.steps:
        if isinstance(step, Measured):
            next(rows, None)
            chain.order(step, _times(step, members, weather.measured(region)))
        elif ordering(step):
            chain.order(step, next(rows, SILENT))
        elif isinstance(step, Healthy):
            chain.keep_healthy(policy.all_down)
        elif isinstance(step, Spill):
            chain.spill(step)
        else:
            chain.note(step)
    return chain.result(balance_of(policy))


def balance_of(policy: Policy) -> Balance:
    """How members of the front tier share; evenly if the policy does not say."""
    for step in policy.steps:
        if isinstance(step, Weighted | RoundRobin | Sticky):
            return step
    return RoundRobin()


def count_of(policy: Policy) -> int:
    """How many members an answer names."""
    return next((step.count for step in policy.steps if isinstance(step, First)), 1)


def _times(step: Measured, members: Sequence[Member], times: Mapping[str, float]) -> Ranks:
    if not any(member.site in times for member in members):
        return SILENT
    best = min(times[member.site] for member in members if member.site in times)
    return tuple(
        int((times[member.site] - best) / step.band) if member.site in times else 1 << 30
        for member in members
    )


class _Chain:
    """The chain half-way: who is still in, their ranks so far, and what was said."""

    def __init__(self, members: Sequence[Member], standings: Sequence[Standing]) -> None:
        self.members = members
        self.standings = standings
        self.alive = list(range(len(members)))
        self.keys: list[Ranks] = [() for _ in members]
        self.steps: list[Step] = []  # those that ranked, in order: the columns of `keys`
        self.keep = [1.0] * len(members)  # the share of its clients that each keeps
        self.all_down = False
        self.stages: list[Stage] = []

    def order(self, step: Step, ranks: Ranks) -> None:
        if not ranks:
            self.note(step, "does not know this place")
            return
        before = self.tiers()
        self.steps.append(step)
        self.keys = [(*key, ranks[i]) for i, key in enumerate(self.keys)]
        self.note(step, "" if self.tiers() != before else "tells no two of them apart")

    def keep_healthy(self, all_down: AllDown) -> None:
        well = [i for i in self.alive if self.standings[i].serves]
        gone = [f"{self.members[i].site} {_ill(self.standings[i])}" for i in self.alive
                if i not in well]  # fmt: skip
        if well:
            self.alive = well
        else:
            self.all_down = True
            if all_down is not AllDown.ANY:
                self.alive = []
            gone.append(f"all down: {all_down}")
        self.note(Healthy(), ", ".join(gone))

    def spill(self, step: Spill) -> None:
        said = []
        for i in self.alive:
            load = self.standings[i].load
            self.keep[i] = kept_share(load, step)
            if self.keep[i] < 1:
                said.append(f"{self.members[i].site} at {load:.0%} keeps {self.keep[i]:.0%}")
        self.note(step, ", ".join(said))

    def note(self, step: Step, why: str = "") -> None:
        names = tuple(tuple(self.members[i].site for i in tier) for tier in self.tiers())
        self.stages.append(Stage(title(step), names, why))

    def tiers(self) -> list[list[int]]:
        tiers: list[list[int]] = []
        ordered = sorted(self.alive, key=lambda i: self.keys[i])
        for i in ordered:
            if tiers and self.keys[tiers[-1][0]] == self.keys[i]:
                tiers[-1].append(i)
            else:
                tiers.append([i])
        return tiers

    def result(self, balance: Balance) -> Allocation:
        tiers = self.tiers()
        shares = _share_out(tiers, self._weights(balance), self.keep)
        best = min(self.keys, default=())
        reasons = {
            i: self._reason(i, best, tiers[0], balance) for i, share in shares.items() if share
        }
        order = tuple(i for tier in tiers for i in tier)
        return Allocation(shares, order, reasons, tuple(self.stages), self.all_down)

    def _weights(self, balance: Balance) -> list[float]:
        if isinstance(balance, RoundRobin):
            return [1.0] * len(self.members)
        return [float(member.weight) for member in self.members]

    def _reason(self, i: int, best: Ranks, front: list[int], balance: Balance) -> str:
        if self.all_down:
            return "all-down"
        if i not in front:
            return "spill"
        if self.keys[i] != best:
            return "unhealthy"  # a better one is down or drains
        others = [j for j in range(len(self.members)) if j != i]
        for column, step in enumerate(self.steps):
            if any(self.keys[j][column] > self.keys[i][column] for j in others):
                return title(step)
        return title(balance) if others else "only"


def _ill(standing: Standing) -> str:
    state = "down" if not standing.up else "draining"
    return f"{state} ({standing.why})" if standing.why else state


def kept_share(load: float, step: Spill) -> float:
    """Of a site's clients, the share it keeps: 1 up to `low`, 0 from `high`, in eighths,
    so that a load that trembles does not rewrite answers."""
    if load <= step.low:
        return 1.0
    if load >= step.high:
        return 0.0
    return 1.0 - round(8 * (load - step.low) / (step.high - step.low)) / 8


def _share_out(tiers: list[list[int]], weights: list[float], keep: list[float]) -> dict[int, float]:
    """Shares tier by tier: what a tier does not keep goes to the next; what nobody keeps
    stays with the first, because a loaded site is better than none."""
    shares: dict[int, float] = {}
    left = 1.0
    for tier in tiers:
        total = sum(weights[i] for i in tier) or 1.0
        for i in tier:
            shares[i] = left * weights[i] / total * keep[i]
        left -= sum(shares[i] for i in tier)
        if left < 1e-9:
            return {i: share for i, share in shares.items() if share}
    if tiers:
        total = sum(weights[i] for i in tiers[0])
        for i in tiers[0]:
            shares[i] += left * (weights[i] / total if total else 1 / len(tiers[0]))
    return {i: share for i, share in shares.items() if share}
