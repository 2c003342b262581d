"""Times to networks: smoothed, forgotten, and measured on loopback."""

import asyncio
import socket

import pytest

from lbctl.gslb.looks import handshake
from lbctl.gslb.measure import FED, SILENT, Fed, Smoothed
from lbctl.model import Endpoint


def after(*seen: float | None) -> Smoothed:
    smoothed = Smoothed()
    for one in seen:
        smoothed = smoothed.after(one)
    return smoothed


@pytest.mark.parametrize(
    ("seen", "shown"),
    [
        ([], None),
        ([0.030], 0.030),
        ([0.030, 0.110], 0.040),
        ([0.030, None, None], 0.030),
        ([0.030, None, None, None], None),
        ([0.030, *[None] * (SILENT + 5), 0.200], 0.200),
        ([0.030, None, None, 0.030, None, None], 0.030),
        ([0.00001], 0.001),
    ],
)
def test_times_are_smoothed_and_forgotten_in_silence(seen, shown) -> None:
    assert after(*seen).shown == (shown if shown is None else pytest.approx(shown))


def test_an_answer_and_a_refusal_are_both_a_round_trip() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        target = Endpoint.parse(f"127.0.0.1:{listener.getsockname()[1]}")
        refused = asyncio.run(handshake(target, 60.0))
        listener.listen(1)
        answered = asyncio.run(handshake(target, 60.0))
    assert refused is not None
    assert answered is not None


def test_silence_is_no_round_trip() -> None:
    with socket.socket() as listener, socket.socket() as filler, socket.socket() as filler2:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        for one in (filler, filler2):  # the backlog is full: SYNs are dropped
            one.setblocking(False)
            one.connect_ex(where)
        assert asyncio.run(handshake(Endpoint.parse(f"127.0.0.1:{where[1]}"), 0.2)) is None


def test_what_agents_feed_counts_until_they_fall_silent() -> None:
    fed = Fed().told(0.95, None, 100.0).told(None, {"198.18.0.0/15": 0.02}, 120.0)
    assert (fed.at(100.0 + FED).load, fed.at(100.0 + FED).times) == (0.95, {"198.18.0.0/15": 0.02})
    assert (fed.at(101.0 + FED).load, fed.at(101.0 + FED).times) == (0.0, {"198.18.0.0/15": 0.02})
    assert (fed.at(121.0 + FED).load, fed.at(121.0 + FED).times) == (0.0, {})
    assert Fed().at(5.0).load == 0.0
