"""What a drill calls lost, what it refuses, and what it says."""

import pytest

from lbctl.cli import drill
from lbctl.errors import LbctlError
from lbctl.ha.drill import (
    CLOSED,
    MARGIN,
    PATIENCE,
    UNHEARD,
    Beat,
    Drill,
    Passage,
    Tally,
    longest_gap,
    obstacle,
    tell,
)
from lbctl.messages import Role

TWO_OPEN = ((5, ""), (5, ""))
LINE = {"configured": True, "connected": True, "copied": True, "peer": "10.0.0.2:7400",
        "node": "gw2"}  # fmt: skip


def handed_over(*beats: tuple[float, Beat], held: tuple[tuple[int, str], ...] = TWO_OPEN) -> Tally:
    """Ordered at 10.0, done at 10.1."""
    tally = Tally(10.0, held)
    tally.done = 10.1
    for at, beat in beats:
        tally.take(beat, at)
    return tally


def test_a_probe_is_lost_whatever_was_said_of_it() -> None:
    probes = ((1.0, ""), (1.01, "no answer within 0.5 s"), (1.02, "Connection refused"), (1.05, ""))
    found = handed_over((11.0, Beat(probes, TWO_OPEN))).passage()
    assert (found.probes, found.lost) == (4, 2)
    assert found.reasons == {"no answer within 0.5 s": 1, "Connection refused": 1}
    assert found.gap == pytest.approx(0.04)  # from the first lost one to the next answer
    assert found.took == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("probes", "gap"),
    [
        ([], 0.0),
        ([(1.0, ""), (2.0, "")], 0.0),
        ([(1.0, "x"), (1.2, "x"), (1.5, ""), (2.0, "x"), (2.1, "")], 0.5),
        ([(1.5, ""), (1.2, "x"), (1.0, "")], 0.3),  # timeouts are told late
        ([(1.0, ""), (1.1, "x"), (1.9, "x")], 0.8),  # and never answered again
    ],
)
def test_the_longest_time_without_an_answer(probes: list[tuple[float, str]], gap: float) -> None:
    assert longest_gap(probes) == pytest.approx(gap)


def test_a_held_connection_that_breaks_is_lost_and_one_that_is_closed_is_not() -> None:
    held = ((0, "Connection reset by peer"), (0, CLOSED), (3, ""))
    found = handed_over((11.0, Beat((), held)), held=((5, ""),) * 3).passage()
    assert (found.connections, found.broken, found.closed) == (3, 1, 1)
    assert not found.unhurt


def test_one_whose_server_is_not_heard_after_it_is_lost() -> None:
    silent = ((1500, ""), (100, ""))  # at 11.1: one was heard last half a second before
    tally = handed_over((11.1, Beat((), silent)))
    assert not tally.settled
    assert tally.passage().reasons == {UNHEARD: 1}
    tally.take(Beat(((1.0, ""),), ((100, ""), (100, ""))), 12.1)
    assert tally.settled
    assert tally.passage().unhurt


def test_what_was_heard_before_it_was_done_may_be_told_late() -> None:
    """A beat takes its time from the client: within MARGIN nothing is proven."""
    at = 10.1 + PATIENCE + MARGIN
    heard = round((at - 10.1 - MARGIN / 2) * 1000)
    assert not handed_over((at, Beat((), ((heard, ""), (0, ""))))).settled


def test_it_is_not_settled_while_probes_may_be_in_flight() -> None:
    assert not handed_over((10.1 + PATIENCE, Beat((), TWO_OPEN))).settled
    tally = Tally(10.0, TWO_OPEN)
    tally.take(Beat((), TWO_OPEN), 20.0)
    assert not tally.settled  # nobody took over yet


@pytest.mark.parametrize("last", [9.9, 10.3])
def test_a_client_that_falls_silent_with_it_has_measured_nothing(
    last: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what it said until then looks well."""
    monkeypatch.setattr(drill, "SETTLE", 0.0)
    tally = handed_over((last, Beat(((1.0, ""),), TWO_OPEN)))
    with pytest.raises(LbctlError, match="fell silent with the hand-over"):
        drill._passage(drill.Probe(drill.Plan("edge", "ssh client"), ()), tally)


def test_what_was_lost_before_is_not_this_one_s() -> None:
    found = handed_over((11.0, Beat((), ((0, "reset"), (5, "")))), held=((0, "reset"), (5, "")))
    assert (found.passage().connections, found.passage().broken) == (1, 0)


@pytest.mark.parametrize(
    ("role", "peer", "line", "why"),
    [
        (Role.ACTIVE, "", LINE, ""),
        (Role.ACTIVE, "192.0.2.3", {**LINE, "configured": False}, ""),
        (Role.BACKUP, "192.0.2.3", LINE, "not Active: it is backup, 192.0.2.3 is active"),
        (Role.FAULT, "", LINE, "not Active: it is fault"),
        (Role.ACTIVE, "", {**LINE, "configured": False}, "no Backup: no other gateway was ever"),
        (Role.ACTIVE, "192.0.2.3", {**LINE, "connected": False}, "no line to 10.0.0.2:7400"),
        (Role.ACTIVE, "", {**LINE, "copied": False}, "the peer is not synced: gw2"),
    ],
)
def test_what_would_be_no_drill(role: Role, peer: str, line: dict[str, object], why: str) -> None:
    found = obstacle(role, peer, line)
    assert why in found
    assert bool(why) == bool(found)


def test_it_is_told_in_one_line() -> None:
    there = Passage(0.0312, 131, 2, 0.02, 20, 1, 0, {"reset": 1, "no answer": 2})
    back = Passage(0.36, 150, 0, 0.0, 19)
    drill = Drill("edge", "192.0.2.3", "ssh c", ("192.0.2.10:80",), there, back)
    assert tell(drill) == (
        "drill: to 192.0.2.3 in 0.03 s: 2 of 131 probes and 1 of 20 connections lost, 20 ms "
        "without an answer: reset (1), no answer (2); back in 0.36 s: 0 of 150 probes and 0 of "
        "19 connections lost"
    )
    assert not drill.unhurt


def test_one_that_nobody_followed_is_not_unhurt() -> None:
    drill = Drill("edge", "", "c", (), Passage(3.0, 300), failed="no successor was heard")
    assert not drill.unhurt
    assert tell(drill).endswith("lost; no successor was heard")
