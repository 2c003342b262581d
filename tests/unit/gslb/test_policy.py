"""The chain, told by what each place gets and why."""

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.gslb import rings
from lbctl.gslb.model import (
    Attribute,
    Failover,
    Healthy,
    Location,
    Match,
    Measured,
    Nearest,
    Place,
    Policy,
    RoundRobin,
    Spill,
    Weighted,
)
from lbctl.gslb.policy import (
    Allocation,
    Region,
    Standing,
    Weather,
    allocate,
    distance,
    kept_share,
    region_of,
    static_steps,
)
from tests.unit.gslb.scene import DTAG, GEO, KT, NTT, SITES, SKB, THREE

NAMES = [member.site for member in THREE]


def allocation(policy: Policy, place: Place, weather: Weather | None = None) -> Allocation:
    region = region_of(static_steps(policy), NAMES, SITES, place)
    return allocate(policy, THREE, region, weather or Weather())


def shares(found: Allocation) -> dict[str, float]:
    return {NAMES[i]: round(share, 3) for i, share in found.shares.items()}


def reasons(found: Allocation) -> dict[str, str]:
    return {NAMES[i]: why for i, why in found.reasons.items()}


@pytest.mark.parametrize(
    ("place", "site", "why"),
    [
        (KT, "seoul", "asn"),
        (SKB, "tokyo", "asn"),
        (Place("KR", "AS", "Busan"), "tokyo", "city"),
        (Place("KR", "AS", "Daegu"), "seoul", "country"),
        (NTT, "tokyo", "country"),
        (DTAG, "frankfurt", "continent"),
        (Place(location=Location(51, 0)), "frankfurt", "nearest"),
        (Place(location=Location(36, 139)), "tokyo", "nearest"),
        (Place(), "seoul", "failover"),
        (Place("JP", cidr=ip_network("198.18.3.0/24")), "frankfurt", "cidr"),
    ],
)
def test_the_first_step_that_knows_the_place_decides(place, site, why) -> None:
    found = allocation(Policy(GEO), place)
    assert (shares(found), reasons(found)) == ({site: 1.0}, {site: why})


def test_every_step_says_what_it_left() -> None:
    stages = allocation(Policy(GEO), NTT, down("seoul")).stages
    assert [(s.step, s.tiers, s.why) for s in stages[:5]] == [
        ("healthy", (("tokyo", "frankfurt"),), "seoul down (test)"),
        ("cidr", (("tokyo", "frankfurt"),), "does not know this place"),
        ("asn", (("tokyo", "frankfurt"),), "does not know this place"),
        ("city", (("tokyo", "frankfurt"),), "does not know this place"),
        ("country", (("tokyo",), ("frankfurt",)), ""),
    ]


def down(*sites: str) -> Weather:
    return Weather({(site, ""): Standing(up=False, why="test") for site in sites})


def test_a_dead_site_hands_over_to_the_next_best() -> None:
    found = allocation(Policy(GEO), NTT, down("tokyo"))
    assert (shares(found), reasons(found)) == ({"seoul": 1.0}, {"seoul": "unhealthy"})


def test_a_draining_site_is_not_answered() -> None:
    weather = Weather({("tokyo", ""): Standing(draining=True)})
    assert shares(allocation(Policy(GEO), NTT, weather)) == {"seoul": 1.0}


@pytest.mark.parametrize(
    ("load", "kept"), [(0.0, 1.0), (0.5, 1.0), (0.7, 0.5), (0.9, 0.0), (2.0, 0.0), (0.52, 1.0)]
)
def test_spill_falls_along_a_line_in_eighths(load, kept) -> None:
    assert kept_share(load, Spill(0.5, 0.9)) == pytest.approx(kept)


def test_load_spills_to_the_next_and_comes_home_when_all_are_full() -> None:
    policy = Policy((Healthy(), Failover(), Spill(0.5, 0.9)))
    half = Weather({("seoul", ""): Standing(load=0.7)})
    found = allocation(policy, KT, half)
    assert shares(found) == {"seoul": 0.5, "tokyo": 0.5}
    assert reasons(found) == {"seoul": "failover", "tokyo": "spill"}
    full = Weather({(site, ""): Standing(load=1.0) for site in NAMES})
    assert shares(allocation(policy, KT, full)) == {"seoul": 1.0}


def test_measured_times_decide_in_bands() -> None:
    policy = Policy((Healthy(), Measured(0.010), Failover()))
    network = ip_network("198.18.0.0/18")
    region = Region((), network)
    times = {network: {"seoul": 0.031, "tokyo": 0.029, "frankfurt": 0.250}}
    found = allocate(policy, THREE, region, Weather({}, times))
    assert shares(found) == {"seoul": 0.5, "tokyo": 0.5}  # the rows of Failover are not there
    times = {network: {"seoul": 0.050, "tokyo": 0.029}}
    found = allocate(policy, THREE, region, Weather({}, times))
    assert (shares(found), reasons(found)) == ({"tokyo": 1.0}, {"tokyo": "measured"})


def test_weights_share_the_front_tier_only() -> None:
    policy = Policy((Healthy(), Match(Attribute.COUNTRY, {"DE": ("frankfurt",)}), Weighted()))
    assert shares(allocation(policy, NTT)) == {"seoul": 0.5, "tokyo": 0.3, "frankfurt": 0.2}
    assert shares(allocation(policy, DTAG)) == {"frankfurt": 1.0}


def test_distance_is_the_great_circle() -> None:
    assert distance(Location(37.57, 126.98), Location(50.11, 8.68)) == pytest.approx(8560, rel=0.01)
    assert distance(Location(0, 179), Location(0, -179)) == pytest.approx(222, rel=0.01)


ups = st.tuples(*[st.booleans()] * 3)
loads = st.tuples(*[st.floats(0, 2)] * 3)


@settings(deadline=None)
@given(
    st.permutations(
        [Healthy(), Match(Attribute.COUNTRY, {"JP": ("tokyo",)}), Nearest(), Spill(0.5, 0.9)]
    ),
    ups,
    loads,
    st.sampled_from([KT, NTT, DTAG, Place()]),
)
def test_shares_sum_to_one_and_go_to_the_living(steps, up, load, place) -> None:
    policy = Policy((*steps, Weighted()))
    weather = Weather(
        {(s, ""): Standing(up=u, load=x) for s, u, x in zip(NAMES, up, load, strict=True)}
    )
    found = allocation(policy, place, weather)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    if any(up):
        assert all(up[i] for i, share in found.shares.items() if share)
    assert found.shares.keys() == found.reasons.keys()


@settings(deadline=None)
@given(ups, st.sampled_from([KT, SKB, NTT, DTAG]))
def test_where_the_filter_stands_does_not_matter(up, place) -> None:
    weather = down(*(site for site, one in zip(NAMES, up, strict=True) if not one))
    first = Policy((Healthy(), *GEO[1:], RoundRobin()))
    last = Policy((*GEO[1:], Healthy(), RoundRobin()))
    assert shares(allocation(first, place, weather)) == shares(allocation(last, place, weather))


# --- rings ------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 9), st.floats(0.01, 1), min_size=2, max_size=8))
def test_turns_follow_shares_and_leave_nobody_out(weights) -> None:
    total = sum(weights.values())
    ring = rings.by_turn({member: weight / total for member, weight in weights.items()})
    assert len(ring) == rings.TURNS
    for member, weight in weights.items():
        assert ring.count(member) >= 1
        assert ring.count(member) / 64 == pytest.approx(weight / total, abs=0.08)


def test_one_member_needs_no_ring() -> None:
    assert rings.by_turn({7: 1.0}) == rings.sticky({7: 1.0}, ["x"] * 8) == (7,)


def test_a_member_that_leaves_moves_only_its_own_slots() -> None:
    names = ["a", "b", "c", "d"]
    before = rings.sticky(dict.fromkeys(range(4), 0.25), names)
    after = rings.sticky(dict.fromkeys((0, 1, 3), 1 / 3), names)
    assert all(b == a for b, a in zip(before, after, strict=True) if b != 2)
    assert 40 < before.count(2) < 90
