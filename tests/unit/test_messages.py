import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.messages import (
    LIMIT,
    AnyMessage,
    Assign,
    Garbage,
    Job,
    ProbeNow,
    Pulse,
    RoleChange,
    Unframer,
    Verdict,
    decode,
    encode,
    frame,
)
from lbctl.model import HttpProbe, TcpProbe, Timing

finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
probes = st.just(TcpProbe()) | st.builds(
    HttpProbe, path=texts, headers=st.lists(st.tuples(texts, texts), max_size=2).map(tuple)
)
timings = st.builds(Timing, interval=finite, timeout=finite, fall=ids, rise=ids)
jobs = st.builds(Job, id=ids, probe=probes, endpoint=texts, timing=timings)
messages: st.SearchStrategy[AnyMessage] = st.one_of(
    st.builds(Assign, st.lists(jobs, max_size=3).map(tuple), st.lists(ids, max_size=3).map(tuple)),
    st.builds(ProbeNow, ids),
    st.builds(Verdict, id=ids, evidence=texts, took=finite),
    st.builds(Pulse, ids, ids, finite),
    st.builds(RoleChange, router=texts, reason=texts, at=finite),
)


@given(messages)
def test_a_message_arrives_as_it_was_sent(message: AnyMessage) -> None:
    assert decode(encode(message)) == message


@given(st.lists(messages, max_size=4), st.lists(st.integers(1, 50), max_size=20))
def test_a_stream_may_be_cut_anywhere(sent: list[AnyMessage], sizes: list[int]) -> None:
    stream = b"".join(map(frame, sent))
    unframer, heard = Unframer(), []
    for size in sizes:
        heard += unframer.feed(stream[:size])
        stream = stream[size:]
    heard += unframer.feed(stream)
    assert heard == sent


@given(st.binary(max_size=100))
def test_bytes_are_a_message_or_garbage(data: bytes) -> None:
    try:
        message = decode(data)
    except Garbage:
        return
    assert decode(encode(message)) == message


@given(messages, st.data())
def test_a_damaged_message_raises_nothing_but_garbage(
    message: AnyMessage, data: st.DataObject
) -> None:
    body = bytearray(encode(message))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Garbage):
        decode(bytes(body))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"kind": "surprise"}',
        b'{"kind": "probe_now"}',
        b'{"kind": "probe_now", "id": "1"}',
        b'{"kind": "probe_now", "id": 1, "more": 2}',
        b'{"kind": "probe_now", "id": 1} {}',
        b'{"kind": "verdict", "id": 1, "health": "fine", "evidence": "", "took": 0}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"kind": "assign", "start": ' + b"[" * 100_000,
    ],
)
def test_garbage(data: bytes) -> None:
    with pytest.raises(Garbage):
        decode(data)


def test_a_frame_that_is_too_long_is_garbage_before_it_has_come() -> None:
    with pytest.raises(Garbage, match=f"a message of {LIMIT + 1} bytes"):
        list(Unframer().feed((LIMIT + 1).to_bytes(4, "big")))


def test_an_empty_frame_is_garbage() -> None:
    with pytest.raises(Garbage):
        list(Unframer().feed(bytes(4)))


def test_messages_before_the_garbage_are_heard() -> None:
    stream = Unframer().feed(frame(ProbeNow(1)) + b"\x00\x00\x00\x01x")
    assert next(stream) == ProbeNow(1)
    with pytest.raises(Garbage):
        next(stream)


def test_old_readers_know_the_present_form() -> None:
    """Names and places are the protocol between two processes of different age."""
    job = Job(7, HttpProbe(path="/up"), "192.0.2.1:80", Timing())
    said = msgspec.json.decode(encode(Assign((job,), whole=True)))
    assert said["kind"] == "assign"
    assert said["whole"] is True
    (start,) = said["start"]
    assert start.keys() == {"id", "probe", "endpoint", "timing", "health", "mark"}
    assert start["probe"]["type"] == "http"
