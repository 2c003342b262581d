"""What people see: columns, spans, numbers, rates."""

import io
import sys

import click
import pytest

from lbctl.cli import output
from lbctl.cli.output import ago, fields, number, table
from lbctl.stats.rates import rates

ROWS = [("web/app1", "serving", 1), ("web/long-name", "down", None)]


def test_columns_stand_under_their_heads_and_numbers_on_the_right() -> None:
    assert click.unstyle(table(("NAME", "STATE", "WEIGHT"), ROWS, right=(2,))).splitlines() == [
        "NAME           STATE    WEIGHT",
        "web/app1       serving       1",
        "web/long-name  down          -",
    ]


def test_a_state_has_its_colour_and_nothing_else_does() -> None:
    head, serving, down = table(("NAME", "STATE"), [("downtown", "serving"), ("a", "down")]).split(
        "\n"
    )
    assert click.style("serving", fg="green") in serving
    assert click.style("down", fg="red") in down
    assert serving.startswith("downtown")
    assert head != click.unstyle(head)


def test_the_last_column_is_cut_where_the_terminal_ends(monkeypatch) -> None:
    monkeypatch.setattr(output, "_columns", lambda: 30)
    lines = click.unstyle(table(("NAME", "WHY"), [("a", "x" * 100)])).splitlines()
    assert max(map(len, lines)) <= 30
    assert len(lines[1]) >= 26


def test_a_pipe_gets_all_of_it(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert "x" * 500 in table(("A", "B"), [("a", "x" * 500)])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (59.9, "59s"), (200, "3m 20s"), (3661, "1h 1m"), (90000, "1d 1h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert ago(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (1.25, "1.2"),
        (1234, "1234"),
        (123.4, "123"),
        (45678, "45.7k"),
        (12345678, "12.3M"),
        (9e15, "9000.0T"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_fields_are_aligned_and_emptiness_is_shown() -> None:
    assert fields([("a", "x"), ("long", None), ("b", [1, 2])]) == "a     x\nlong  -\nb     1, 2"


def test_rates_are_per_second_and_a_restarted_counter_counts_from_zero() -> None:
    assert rates({"a": 10, "b": 50}, {"a": 30, "b": 4, "new": 6}, 2.0) == {
        "a": 10.0,
        "b": 2.0,
        "new": 3.0,
    }
    assert rates({}, {"a": 3}, 0.0) == {"a": 0.0}
