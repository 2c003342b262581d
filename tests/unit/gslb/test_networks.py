"""Laws of the tables, against the slow and obvious way."""

from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.gslb import blob, regions
from lbctl.gslb.networks import Prefix, Spans, flatten, join, key_of, pieces

BITS = 8


@st.composite
def prefixes(draw):
    length = draw(st.integers(0, BITS))
    key = draw(st.integers(0, (1 << length) - 1)) << (BITS - length)
    return Prefix(key, length, draw(st.integers(1, 3)))


lists = st.lists(prefixes(), max_size=8)


def longest(found: list[Prefix[int]], key: int) -> int:
    chosen = {(p.key, p.length): p.value for p in found}
    over = [
        (length, value)
        for (start, length), value in chosen.items()
        if start >> (BITS - length) == key >> (BITS - length)
    ]
    return max(over, default=(0, 0))[1]


@settings(deadline=None)
@given(lists)
def test_the_longest_prefix_speaks(found) -> None:
    spans = flatten(found, BITS, 0)
    assert [spans.find(key) for key in range(256)] == [longest(found, key) for key in range(256)]


@settings(deadline=None)
@given(lists)
def test_spans_are_as_few_as_can_be(found) -> None:
    spans = flatten(found, BITS, 0)
    assert spans.starts[0] == 0
    assert all(one != two for one, two in zip(spans.values, spans.values[1:], strict=False))


@settings(deadline=None)
@given(lists, lists)
def test_a_join_says_what_both_say(left, right) -> None:
    one, two = flatten(left, BITS, 0), flatten(right, BITS, 0)
    both = join(one, two, lambda a, b: (a, b))
    assert [both.find(k) for k in range(256)] == [(one.find(k), two.find(k)) for k in range(256)]


@settings(deadline=None)
@given(lists)
def test_pieces_are_aligned_cover_all_and_are_the_widest(found) -> None:
    spans = flatten(found, BITS, 0)
    at = 0
    for key, length, value in pieces(spans, BITS):
        size = 1 << (BITS - length)
        assert (key, key % size) == (at, 0)
        assert {spans.find(k) for k in range(key, key + size)} == {value}
        if length:  # the block twice as wide would hold something else
            wide = key >> (BITS - length + 1) << (BITS - length + 1)
            assert {spans.find(k) for k in range(wide, wide + 2 * size)} != {value}
        at += size
    assert at == 256


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(1, 9)), max_size=20
    ),
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
)
def test_the_blob_finds_what_the_spans_say(raw, asked) -> None:
    found = [Prefix(k >> (32 - n) << (32 - n) if n else 0, n, v) for k, n, v in raw]
    spans = flatten(found, 32, 0)
    (one,) = regions.read(memoryview(regions.write([(spans, Spans([0], [5]))])))
    edges = [k for p in found for k in (p.key, max(0, p.key - 1))]
    for key in [*asked, *edges, 0, 2**32 - 1]:
        region, length = one.v4.find(key)
        assert region == spans.find(key)
        first = key >> (32 - length) << (32 - length)
        assert spans.find(first) == spans.find(first + (1 << (32 - length)) - 1) == region
    assert one.v6.find(2**64 - 1) == (5, 0)


def test_networks_past_a_64_have_no_key() -> None:
    assert key_of(ip_network("2001:db8::/64")) == (0x20010DB8 << 32, 64)
    with pytest.raises(ValueError, match="longer than a /64"):
        key_of(ip_network("2001:db8::/65"))


def test_a_damaged_blob_is_refused() -> None:
    good = regions.write([(Spans([0], [1]), Spans([0], [1]))])
    for bad in (good[:-1], good[:10], b"x" + good[1:], good[:-1] + b"\xff"):
        with pytest.raises(blob.BadBlob):
            regions.read(memoryview(bad))
