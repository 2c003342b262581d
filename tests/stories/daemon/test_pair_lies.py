"""A peer that is of another release, lies, stops or has another clock: it costs its line, by
name, and the daemon goes on and takes an honest copy without a restart."""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from lbctl.dataplane.port import NEAR, Near
from lbctl.ha import items
from lbctl.ha.author import Author
from lbctl.ha.words import (
    VERSION,
    Ack,
    Again,
    Batch,
    Begin,
    Hello,
    Seal,
    Summary,
    Unframer,
    Word,
    frame,
)
from lbctl.lab.waiting import eventually
from lbctl.model import parse_frontend
from lbctl.world import Admin, Order

from .test_pair import Half, Pair, backup_alone

LISTEN = "192.0.2.10:80/tcp"
HOURS = 5 * 3600.0
Kind = TypeVar("Kind", bound=Word)


class Peer:
    """The other gateway, as a test plays it. ahead: its clock less ours."""

    def __init__(self, pair: Pair, author: Author, ahead: float = 0.0) -> None:
        context = ssl.create_default_context(cafile=str(pair.home / "ca.pem"))
        context.load_cert_chain(pair.home / "gw2.pem", pair.home / "gw2.key")
        plain = socket.create_connection(("127.0.0.1", pair.ports[0]), 10)
        self.line = context.wrap_socket(plain, server_hostname="gw1.example")
        self.author, self.ahead = author, ahead
        self._unframer, self._heard = Unframer(), list[Word]()

    @property
    def now(self) -> float:
        return time.monotonic() + self.ahead

    def say(self, *words: Word) -> None:
        self.line.sendall(b"".join(map(frame, words)))

    def hear(self, kind: type[Kind]) -> Kind:
        """The next word of a kind; others before it are as well."""
        while True:
            while self._heard:
                if isinstance(word := self._heard.pop(0), kind):
                    return word
            data = self.line.recv(1 << 16)
            assert data, f"the line ended before any {kind.__name__}"
            self._heard += self._unframer.feed(data)

    def meet(self) -> None:
        """Begin a line as a peer does."""
        self.say(Hello(VERSION, "gw2"), Summary(self.now))
        self.author.start(self.hear(Hello), self.now)

    def words(self) -> list[Begin | Batch]:
        """What there is to be told."""
        found = []
        while (word := self.author.take()) is not None:
            found.append(word)
        return found


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """The first gateway runs, and takes calls."""
    with backup_alone(tmp_path, 0) as made:
        yield made


@contextmanager
def calling(pair: Pair, author: Author, ahead: float = 0.0) -> Iterator[Peer]:
    """A line to the gateway, once it takes calls."""

    def called() -> Peer:
        try:
            return Peer(pair, author, ahead)
        except OSError as error:
            raise AssertionError(str(error)) from None

    peer = eventually(called, 20)
    try:
        yield peer
    finally:
        with suppress(OSError):  # words that nobody has read would make it a reset
            peer.line.unwrap()
        peer.line.close()


def author(epoch: int = 7, more: dict[bytes, bytes] | None = None) -> Author:
    """Of the listen, and of as many keys as two batches carry."""
    one = Author(epoch)
    frontend = parse_frontend(LISTEN)
    padding = dict(items.health_item(f"web/none{n}", "up") for n in range(600))
    one.change(dict([items.own_item({frontend})]) | padding | (more or {}), (), 0.0)
    return one


def is_mended(pair: Pair) -> None:
    """An honest peer calls the same process."""
    honest = author(epoch=8)
    with calling(pair, honest) as peer:
        peer.meet()
        peer.say(*peer.words())
        last = 0
        while last < 2:
            last = peer.hear(Ack).seq
        eventually(lambda: pair.halves[0].peer()["synced"])
        found = pair.halves[0].peer()
        assert (found["held"], found["theirs"]) == (len(honest.state), [LISTEN])


def cut_for(half: Half, why: str) -> None:
    eventually(lambda: any(why in cut for cut in half.peer()["cuts"]), 10)
    found = half.peer()
    assert (found["connected"], found["synced"]) == (False, False)
    assert why in half.daemon.run("ha", "peer").out


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (frame(Hello(VERSION + 1, "gw2")), f"speaks version {VERSION + 1}"),
        (frame(Begin(1)), "began with Begin, not with Hello"),
        (b"\0\0\0\3abc", "garbage"),
        (b"\xff\xff\xff\xff", "a message of 4294967299 bytes"),
        (frame(Hello(VERSION, "gw2")) * 2, "said Hello twice"),
        (frame(Hello(VERSION, "gw2")) + b"\0\0\0\3abc", "garbage"),
    ],
)
def test_what_is_no_word_costs_the_line(pair: Pair, said: bytes, why: str) -> None:
    with calling(pair, author()) as peer:
        peer.line.sendall(said)
        cut_for(pair.halves[0], why)
    is_mended(pair)


def test_the_last_reason_is_the_one_that_is_shown(pair: Pair) -> None:
    garbage, version = (b"\0\0\0\3abc", "garbage"), (frame(Hello(VERSION + 1, "gw2")), "version")
    for said, why in (garbage, version, garbage):
        with calling(pair, author()) as peer:
            peer.line.sendall(said)
            eventually(lambda: why in pair.halves[0].daemon.run("ha", "peer").out, 10)  # noqa: B023


def test_a_peer_that_asks_and_does_not_read_the_answers_is_cut(pair: Pair) -> None:
    with calling(pair, author()) as peer:
        peer.meet()
        with suppress(OSError):  # it is over before all is said
            for _ in range(100):
                peer.say(Seal("x" * 900_000))  # the answer has the name, too
        cut_for(pair.halves[0], "does not read what it is told")
    is_mended(pair)


def corrupt(words: list[Begin | Batch]) -> list[Begin | Batch]:
    begin, batch, *rest = words
    assert isinstance(batch, Batch)
    (key, value), *others = batch.puts
    spoiled = msgspec.structs.replace(batch, puts=((key, value + b"!"), *others))
    return [begin, spoiled, *rest]


def replayed(words: list[Begin | Batch]) -> list[Begin | Batch]:
    begin, batch, *rest = words
    return [begin, batch, batch, *rest]


def with_a_gap(words: list[Begin | Batch]) -> list[Begin | Batch]:
    begin, _, *rest = words
    return [begin, *rest]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(corrupt, "corrupt"), (replayed, "replayed"), (with_a_gap, "some are missing")],
)
def test_a_spoiled_stream_is_named_and_copied_anew_on_the_same_line(
    pair: Pair, spoil: Callable[[list[Begin | Batch]], list[Begin | Batch]], why: str
) -> None:
    half = pair.halves[0]
    with calling(pair, author()) as peer:
        peer.meet()
        peer.say(*spoil(peer.words()))
        assert why in peer.hear(Again).reason
        assert half.peer()["faults"] == {why: 1}
        assert not half.peer()["synced"]
        peer.author.copy(peer.now)
        peer.say(*peer.words())
        eventually(lambda: half.peer()["synced"])
        assert half.peer()["lines"] == 1


def test_a_copy_that_ends_half_way_is_not_taken(pair: Pair) -> None:
    half = pair.halves[0]
    with calling(pair, author()) as peer:
        peer.meet()
        begin, first, *_ = peer.words()
        peer.say(begin, first)
        assert peer.hear(Ack).seq == 1
        assert (half.peer()["held"], half.peer()["theirs"]) == (0, [])
    cut_for(half, "closed by the peer")
    assert half.peer()["held"] == 0
    is_mended(pair)


def test_what_adds_up_and_means_nothing_costs_the_line(pair: Pair) -> None:
    with calling(pair, author(more={b"x": b"of no kind"})) as peer:
        peer.meet()
        peer.say(*peer.words())
        cut_for(pair.halves[0], "means nothing")
    assert pair.halves[0].peer()["faults"] == {"nonsense": 1}
    is_mended(pair)


def test_no_more_machines_are_asked_for_than_a_network_bears(pair: Pair) -> None:
    crowd = dict(items.near_item(Near(0, ip_address("198.18.0.0") + n)) for n in range(NEAR + 50))
    with calling(pair, author(more=crowd)) as peer:
        peer.meet()
        peer.say(*peer.words())
        eventually(lambda: pair.halves[0].peer()["synced"])
        met = pair.halves[0].daemon.home / "kernel" / "near"
        eventually(met.exists)
        assert len(met.read_text().splitlines()) == NEAR


def test_a_peer_that_stops_is_given_up(pair: Pair) -> None:
    with calling(pair, author()) as peer:
        peer.meet()
        cut_for(pair.halves[0], "silent for 5 s")
    is_mended(pair)


@pytest.mark.parametrize("ahead", [-HOURS, HOURS])
def test_clocks_that_are_hours_apart_do_not_matter(pair: Pair, ahead: float) -> None:
    """A drain that was ordered a minute ago is in force here, and ends when it was meant to."""
    half, peers = pair.halves[0], author()
    now = time.monotonic() + ahead
    order = Order(Admin.DRAIN, since=now - 60, deadline=now + 240, until=now + 6, reason="kernel")
    lasting = replace(order, until=None)
    peers.change(
        dict([items.order_item("web/app1", lasting), items.order_item("web/app2", order)]), (), 0.0
    )
    with calling(pair, peers, ahead) as peer:
        peer.meet()
        peer.say(*peer.words())
        eventually(lambda: half.peer()["synced"])
        for server in ("web/app1", "web/app2"):
            eventually(lambda server=server: "drain" in half.daemon.states()[server])
        eventually(lambda: "drain" not in half.daemon.states()["web/app2"])
        assert "drain" in half.daemon.states()["web/app1"]
