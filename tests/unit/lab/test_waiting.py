import pytest

from lbctl.lab.waiting import NeverHappened, eventually


def test_what_becomes_true_is_returned() -> None:
    answers = iter([None, "", "ready"])
    assert eventually(lambda: next(answers)) == "ready"


def test_a_failed_assertion_means_not_yet() -> None:
    answers = iter([1, 2, 3])

    def look() -> bool:
        assert next(answers) == 3
        return True

    assert eventually(look)


def test_the_last_failure_is_the_message() -> None:
    def look() -> bool:
        raise AssertionError("app1 is still up")

    with pytest.raises(NeverHappened, match=r"not within 0\.05 s: app1 is still up"):
        eventually(look, timeout=0.05)


def test_it_looks_once_even_without_time() -> None:
    assert eventually(lambda: 7, timeout=0) == 7


def test_other_errors_are_not_swallowed() -> None:
    def look() -> bool:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        eventually(look)
