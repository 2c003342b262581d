"""What an agent's answer says, and what it takes back."""

import json

import pytest

from lbctl.health.agentwords import read_json, read_line
from lbctl.health.report import Report


def answer(words: str) -> Report:
    return read_json(json.dumps({"nonce": "n", "words": words}).encode(), "n")


@pytest.mark.parametrize("first", ["drain", "maint#disk", "down#broken", "0%", "50%"])
@pytest.mark.parametrize("gone", ["", " "], ids=["removed", "emptied"])
def test_a_word_that_was_taken_back_holds_no_longer(first: str, gone: str) -> None:
    now = answer(gone).after(answer(first))
    assert (now.admin, now.state, now.percent, now.reason) == ("ready", "up", 100, "")


def test_a_word_that_was_changed_takes_the_first_one_along() -> None:
    now = answer("50%#half").after(answer("drain#new kernel"))
    assert (now.admin, now.state, now.percent, now.reason) == ("ready", "up", 50, "half")


def test_words_of_haproxys_line_hold_until_others_are_said() -> None:
    first, second = read_line(b"drain\n"), read_line(b"50%\n")
    assert first is not None
    assert second is not None
    assert second.after(first).admin == "drain"


def test_a_reason_cannot_speak_to_the_terminal() -> None:
    assert answer("down#\x1b[2J" + "x" * 300).reason == "\\x1b[2J" + "x" * 193
