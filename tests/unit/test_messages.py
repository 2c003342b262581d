import contextlib
from dataclasses import fields, is_dataclass
from enum import EnumType
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
    Unframer,
    decode,
    encode,
    frame,
)
from lbctl.model import HttpProbe, Timing

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    bytes: st.binary(max_size=20),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that a message is made of; a type that is new here fails."""
    of = get_args(kind)
    match get_origin(kind):
        case origin if origin is UnionType or origin is Union:
            return st.one_of(map(values, of))
        case origin if origin is Literal:
            return st.sampled_from(of)
        case origin if origin is dict:
            return st.dictionaries(values(of[0]), values(of[1]), max_size=3)
        case origin if origin is tuple and of[-1] is Ellipsis:
            return st.lists(values(of[0]), max_size=3).map(tuple)
        case origin if origin is tuple:
            return st.tuples(*map(values, of))
    if kind in PLAIN:
        return PLAIN[kind]
    if isinstance(kind, EnumType):
        return st.sampled_from(list(kind))
    named = fields(kind) if is_dataclass(kind) else msgspec.structs.fields(kind)
    hints = get_type_hints(kind)
    return st.builds(kind, **{one.name: values(hints[one.name]) for one in named})


KINDS = get_args(AnyMessage)
messages: st.SearchStrategy[AnyMessage] = st.one_of(map(values, KINDS))


def test_every_kind_of_message_is_tried() -> None:
    assert len(KINDS) == len({kind.__struct_config__.tag for kind in KINDS}) >= 16


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_kind_of_message_arrives_as_it_was_sent(kind: Any, data: st.DataObject) -> None:
    message = data.draw(values(kind))
    assert decode(encode(message)) == message


@given(messages, st.text("abc_", min_size=1).map("new_".__add__))
def test_a_field_that_the_receiver_does_not_know_is_ignored(message: AnyMessage, name: str) -> None:
    said = msgspec.json.decode(encode(message)) | {name: {"of": ["a", "later", "version"]}}
    assert decode(msgspec.json.encode(said)) == message


@given(values(Job), st.text("abc_", min_size=1).map("new_".__add__))
def test_fields_of_what_a_message_holds_too_but_for_probes(job: Job, name: str) -> None:
    """Who asked for something else than what is done would not know it."""
    said = msgspec.json.decode(encode(Assign((job,))))
    start = said["start"][0]
    start[name] = start["timing"][name] = 1
    assert decode(msgspec.json.encode(said)) == Assign((job,))
    start["probe"][name] = 1
    with pytest.raises(Garbage):
        decode(msgspec.json.encode(said))


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
