"""Whatever is lost, cut, spoiled or said twice: after quiet both sides hold the same."""

from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lbctl.ha.author import KEYS, WINDOW, Author
from lbctl.ha.replica import Replica
from lbctl.ha.words import (
    LIMIT,
    VERSION,
    Ack,
    Again,
    Batch,
    Begin,
    Fault,
    Hello,
    Summary,
    Unframer,
    Word,
    frame,
)

from .line import Line

KEY = st.sampled_from([bytes([n]) for n in range(12)])
STEP = st.one_of(
    st.tuples(st.just("put"), KEY, st.binary(max_size=3)),
    st.tuples(st.just("gone"), KEY),
    st.tuples(st.just("send"), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(1, 3)),
    st.tuples(st.just("answer"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["cut", "corrupt", "replay", "lose"])),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(STEP, max_size=40))
@example(False, [("send", 2), ("lose",), ("deliver", 1), ("answer", 1), ("send", 1), ("lose",)])
def test_after_quiet_both_sides_hold_the_same(
    copied: bool, steps: list[tuple[object, ...]]
) -> None:
    line = full(1) if copied else Line()
    for name, *details in steps:
        if name == "put":
            key, value = details
            line.change({key: value})
        elif name == "gone":
            line.change({}, *details)
        else:
            getattr(line, str(name))(*details)
    line.change({b"last": b"word"})  # a loss is seen by what comes after it
    line.quiet()
    assert line.replica.state == line.author.state
    assert line.replica.whole
    assert line.author.behind == 0


@given(st.lists(STEP, max_size=60))
def test_what_is_drained_adds_up_to_what_is_held(steps: list[tuple[object, ...]]) -> None:
    line, seen = Line(), {}
    for name, *details in steps:
        if name == "put":
            key, value = details
            line.change({key: value})
        elif name == "gone":
            line.change({}, *details)
        else:
            getattr(line, str(name))(*details)
        for key, value in line.replica.drain().items():
            if value is None:
                seen.pop(key, None)
            else:
                seen[key] = value
        assert seen == line.replica.state


def full(keys: int) -> Line:
    line = Line()
    line.change({n.to_bytes(4, "big"): b"value" for n in range(keys)})
    line.quiet()
    return line


def test_a_cut_line_goes_on_where_it_ended() -> None:
    line = full(2000)
    line.change({b"a": b"1"})
    line.send()
    line.cut()
    line.change({b"b": b"2"})
    line.send()
    assert [type(word) for word in line.there] == [Batch]
    line.quiet()
    assert line.replica.state == line.author.state
    assert line.author.copies == 1


def test_after_a_cut_in_which_nothing_changed_the_replica_is_whole_again() -> None:
    line = full(3)
    line.cut()
    assert not line.replica.whole
    line.quiet()
    assert line.replica.whole
    assert line.author.copies == 1


def test_an_hour_without_a_line_costs_each_key_once() -> None:
    line = full(10)
    line.replica.cut()
    for turn in range(100_000):
        line.change({bytes([turn % 10]): turn.to_bytes(4, "big")})
    assert line.author.behind <= 20
    line.connect()
    line.quiet()
    assert line.replica.state == line.author.state
    assert line.author.copies == 1


def test_half_a_copy_is_not_taken() -> None:
    line = Line()
    line.change({n.to_bytes(4, "big"): b"value" for n in range(3 * KEYS)})
    line.send()
    line.deliver(2)  # Begin, and the first of three batches
    assert (line.replica.state, line.replica.whole) == ({}, False)
    line.cut()
    assert line.replica.hello(VERSION, "gw2").epoch == 0
    line.quiet()
    assert line.replica.whole


def test_while_a_new_copy_comes_the_old_one_is_held() -> None:
    line = full(3)
    held = dict(line.replica.state)
    line.author = Author(2)  # the peer's process is another one
    line.change({b"new": b"1"})
    line.cut()
    line.send()
    line.deliver(1)
    assert (line.replica.state, line.replica.whole) == (held, False)
    line.deliver()
    assert (line.replica.state, line.replica.whole) == ({b"new": b"1"}, True)


def test_a_slow_peer_is_sent_no_more_than_a_window() -> None:
    line = Line()
    line.change({n.to_bytes(4, "big"): b"value" for n in range(100 * KEYS)})
    line.send()
    assert len(line.there) == 1 + WINDOW


def test_lag_is_the_age_of_the_oldest_change_that_is_not_acknowledged() -> None:
    line = full(1)
    assert line.author.lag(line.now) == 0
    line.change({b"a": b"1"})
    line.now = 0.5
    line.change({b"b": b"2"})
    assert line.author.lag(0.6) == pytest.approx(0.6)
    line.send()
    line.deliver()
    assert line.author.lag(0.6) == pytest.approx(0.6)
    line.answer()
    assert line.author.lag(0.6) == 0


def test_an_empty_state_is_whole() -> None:
    line = Line()
    line.quiet()
    assert line.replica.whole


SPOILED = [
    (lambda b: Batch(b.epoch + 1, b.seq, b.puts, b.gone, b.digest, b.whole), "another copy"),
    (lambda b: Batch(b.epoch, b.seq - 1, b.puts, b.gone, b.digest, b.whole), "replayed"),
    (lambda b: Batch(b.epoch, b.seq + 1, b.puts, b.gone, b.digest, b.whole), "are missing"),
    (lambda b: Batch(b.epoch, b.seq, ((b"a", b"2"),), (), b.digest, b.whole), "corrupt"),
    (lambda b: Batch(b.epoch, b.seq, b.puts, b.gone, b.digest ^ 1, b.whole), "corrupt"),
]


@pytest.mark.parametrize(("spoil", "named"), SPOILED)
def test_what_cannot_be_right_is_named_and_changes_nothing(spoil, named) -> None:
    line = full(3)
    held = dict(line.replica.state)
    line.change({b"a": b"1"})
    line.send()
    line.there[0] = spoil(line.there[0])
    line.deliver()
    (answer,) = line.back
    assert isinstance(answer, Again)
    assert named in answer.reason
    assert (line.replica.state, line.replica.whole) == (held, False)
    assert sum(line.replica.faults.values()) == 1
    line.quiet()
    assert line.replica.state == line.author.state


def test_what_adds_up_and_means_nothing_is_copied_anew() -> None:
    line = full(3)
    line.replica.distrust("nonsense")
    assert (line.replica.whole, line.replica.faults) == (False, {"nonsense": 1})
    line.replica.drain()
    line.cut()
    line.quiet()
    assert line.replica.drain() == line.author.state
    assert line.author.copies == 2


def test_a_change_before_any_copy_is_refused() -> None:
    answer = Replica().take(Batch(0, 1, (), (), 0, True))
    assert answer == Again("a change before any copy")


def test_an_odd_acknowledgement_says_nothing() -> None:
    line = full(3)
    line.change({b"a": b"1"})
    line.send()
    for odd in (Ack(9, 2), Ack(1, 99), Ack(1, 0)):
        line.author.acknowledged(odd)
    assert line.author.behind == 1


def test_a_peer_that_holds_what_was_never_sent_gets_a_copy() -> None:
    author = Author(1)
    author.start(Hello(VERSION, "gw2", epoch=1, seq=0, digest=7), now=0.0)
    assert author.take() == Begin(1)


WORDS: list[Word] = [
    Hello(VERSION, "gw1", 1, 2, 3),
    Summary(1.5, "file", "table"),
    Begin(1),
    Batch(1, 2, ((b"k", b"v"),), (b"g",), (1 << 64) - 1, True),
    Ack(1, 2),
    Again("why"),
]


def test_words_survive_any_cut_of_the_stream() -> None:
    data = b"".join(frame(word) for word in WORDS)
    unframer = Unframer()
    assert [w for at in range(len(data)) for w in unframer.feed(data[at : at + 1])] == WORDS


@given(st.binary(max_size=60))
def test_garbage_is_a_fault_and_nothing_else(body: bytes) -> None:
    with suppress(Fault):
        list(Unframer().feed(len(body).to_bytes(4, "big") + body))


def test_a_message_that_is_too_long_is_refused_before_it_is_there() -> None:
    with pytest.raises(Fault, match="at most"):
        list(Unframer().feed((LIMIT + 1).to_bytes(4, "big")))
