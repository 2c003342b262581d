"""Maglev's promises, and the turns of rr and wrr."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lbctl.dataplane.ring import maglev, turns

SLOTS = 8192
names = st.integers(0, 2**32).map(lambda n: f"198.51.100.{n % 256}:{n % 60000 + 1}")
pools = st.dictionaries(names, st.integers(0, 50), max_size=12)


def even(count: int, network: int = 0) -> dict[str, int]:
    return {f"198.51.{network}.{n}:80": 1 for n in range(count)}


@given(st.integers(1, 40), st.integers(0, 255))
def test_equal_servers_have_equal_shares_within_two_percent(count: int, network: int) -> None:
    shares = Counter(maglev(even(count, network), SLOTS))
    assert all(abs(slots * count / SLOTS - 1) <= 0.02 for slots in shares.values())


@given(st.integers(0, 255), st.integers(0, 9))
def test_one_of_ten_that_leaves_moves_little_more_than_its_own_slots(
    network: int, gone: int
) -> None:
    before = even(10, network)
    name = sorted(before)[gone]
    after = {server: weight for server, weight in before.items() if server != name}
    old, new = maglev(before, SLOTS), maglev(after, SLOTS)
    moved = sum(a != b for a, b in zip(old, new, strict=True))
    assert moved <= 1.2 * old.count(name)


@given(pools)
def test_a_table_is_whole_and_names_only_servers_that_weigh(weights: dict[str, int]) -> None:
    table = maglev(weights, 1024)
    scheduled = {name for name, weight in weights.items() if weight}
    assert set(table) <= scheduled
    assert len(table) == (1024 if scheduled else 0)


@given(pools)
def test_a_table_does_not_depend_on_the_order_of_servers(weights: dict[str, int]) -> None:
    backwards = dict(reversed(weights.items()))
    assert maglev(weights, 256) == maglev(backwards, 256)


def test_shares_follow_weights() -> None:
    shares = Counter(maglev({"a:1": 300, "b:1": 100, "c:1": 100}, SLOTS))
    assert [round(shares[name] / SLOTS, 2) for name in ("a:1", "b:1", "c:1")] == [0.6, 0.2, 0.2]


@given(pools)
def test_whoever_weighs_has_a_slot(weights: dict[str, int]) -> None:
    table = maglev(weights, 1024)
    assert set(table) == {name for name, weight in weights.items() if weight}


def test_turns_come_round_and_heavy_servers_are_not_served_in_bursts() -> None:
    assert turns({"a": 1, "b": 1, "c": 1}, 16) == ["a", "b", "c"]
    assert turns({"a": 5, "b": 1, "c": 1}, 16) == ["a", "a", "b", "a", "c", "a", "a"]
    assert turns({"a": 0}, 16) == []


@given(pools, st.integers(16, 1024))
def test_nobody_loses_all_turns_to_the_limit(weights: dict[str, int], most: int) -> None:
    order = turns(weights, most)
    assert len(order) <= most
    assert set(order) == {name for name, weight in weights.items() if weight}
