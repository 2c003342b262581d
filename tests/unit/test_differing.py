"""Which entries differ: what two mappings say, whatever objects they share."""

from hypothesis import example, given
from hypothesis import strategies as st

from lbctl.differing import differing

NAMES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2))


@given(NAMES, NAMES)
@example({"a": 1, "b": 1}, {"b": 1, "a": 1})
@example({"a": 1}, {"a": 1, "b": 1})
def test_it_is_what_looking_at_each_name_says(old: dict[str, int], new: dict[str, int]) -> None:
    assert differing(old, new) == {n for n in old | new if old.get(n) != new.get(n)}


def test_what_is_shared_is_not_compared() -> None:
    def never(one: object, other: object) -> bool:
        raise AssertionError(f"{one} was compared with {other}")

    shared = {name: object() for name in "abc"}
    assert differing(shared, dict(shared), never) == set()
    assert differing(shared, shared | {"d": object()}, never) == {"d"}


def test_alike_is_what_the_caller_says() -> None:
    assert differing({"a": 1}, {"a": True}) == set()
    assert differing({"a": 1}, {"a": True}, lambda one, other: repr(one) == repr(other)) == {"a"}
