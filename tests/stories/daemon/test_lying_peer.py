"""A gateway whose peer is played: it speaks another version, garbage, what does not add up or
nothing at all. Each is named, none stops the gateway, and the next honest line is taken."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lbctl.ha.author import Author
from lbctl.ha.words import VERSION, Again, Batch, Begin, Hello, Summary, Unframer, Word, frame
from lbctl.lab.waiting import eventually
from lbctl.messages import Role

from .test_pair import NAMES, Half, Pair, pair

__all__ = ["pair"]


class Played:
    """The other gateway's end of a line."""

    def __init__(self, line: ssl.SSLSocket) -> None:
        self.line, self.unframer, self.heard = line, Unframer(), list[Word]()

    def say(self, *words: Word) -> None:
        self.line.sendall(b"".join(map(frame, words)))

    def until(self, kind: type[Word]) -> Word:
        """The next word of this kind."""
        self.line.settimeout(15)
        while not (found := [word for word in self.heard if isinstance(word, kind)]):
            data = self.line.recv(65536)
            assert data, f"closed before {kind.__name__}"
            self.heard += self.unframer.feed(data)
        self.heard.remove(found[0])
        return found[0]


class Alone:
    """The gateway that listens, and a way to call it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        at = 0 if pair.ports[0] < pair.ports[1] else 1
        self.half: Half = pair.halves[at]
        self.port, self.me = pair.ports[at], NAMES[1 - at]
        self.half.daemon.file.write_text(pair.yaml())
        self.half.daemon.start()
        self.half.routers.say(Role.ACTIVE)
        eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    @contextmanager
    def call(self, greet: bool = True) -> Iterator[Played]:
        context = ssl.create_default_context(cafile=str(self.pair.home / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(
            self.pair.home / f"{self.me}.pem", self.pair.home / f"{self.me}.key"
        )
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        with context.wrap_socket(raw) as line:
            played = Played(line)
            if greet:
                played.say(Hello(VERSION, "played"), Summary(1e9))  # a clock of decades ago
                assert isinstance(played.until(Hello), Hello)
            yield played

    def cut(self, text: str) -> None:
        def named() -> bool:
            cuts = self.half.peer()["cuts"]
            assert any(text in one for one in cuts), cuts
            return True

        eventually(named, timeout=20)

    def serves(self) -> None:
        """It takes an order and carries it out."""
        assert self.half.daemon.run("drain", "web/app1").code == 0
        assert self.half.daemon.run("ready", "web/app1").code == 0


@pytest.fixture
def alone(pair: Pair) -> Alone:
    return Alone(pair)


def test_another_version_and_garbage_are_named(alone: Alone) -> None:
    with alone.call(greet=False) as played:
        played.say(Hello(VERSION + 1, "played"))
        alone.cut(f"speaks version {VERSION + 1}, we {VERSION}")
    with alone.call(greet=False) as played:
        played.line.sendall(b"\0\0\0\4what")
        alone.cut("garbage")
    with alone.call(greet=False) as played:
        played.say(Begin(1))
        alone.cut("began with Begin, not with Hello")
    with alone.call() as played:
        played.say(Hello(VERSION, "played"))
        alone.cut("said Hello twice")
    alone.serves()


def test_what_does_not_add_up_is_asked_for_again_and_an_honest_copy_is_taken(alone: Alone) -> None:
    with alone.call() as played:
        played.say(Begin(1), Batch(1, 1, ((b"hweb/app1", b"\xa2up"),), (), 7, True))
        again = played.until(Again)
        assert isinstance(again, Again)
        assert "corrupt" in again.reason
        author = Author(2)
        author.change({b"hweb/app1": b"\xa2up"}, (), 0.0)
        author.copy(0.0)
        played.say(*iter(author.take, None))
        eventually(lambda: alone.half.peer()["held"] == 1)
        assert alone.half.peer()["faults"] == {"corrupt": 1}
    with alone.call() as played:  # it adds up, and means nothing
        author = Author(3)
        author.change({b"x": b"?"}, (), 0.0)
        author.copy(0.0)
        played.say(*iter(author.take, None))
        alone.cut("means nothing")
    alone.serves()


def test_half_a_copy_is_worth_nothing(alone: Alone) -> None:
    with alone.call() as played:
        played.say(Begin(1))
    eventually(lambda: not alone.half.peer()["connected"])
    assert (alone.half.peer()["held"], alone.half.routers.heard) == (0, False)
    with alone.call(greet=False) as played:
        played.say(Hello(VERSION, "played"))
        hello = played.until(Hello)
        assert isinstance(hello, Hello)
        assert hello.epoch == 0


def test_a_peer_that_stops_is_given_up_and_delays_nothing(alone: Alone) -> None:
    with alone.call() as played:
        eventually(lambda: alone.half.peer()["connected"])
        alone.serves()
        alone.cut("silent for 5 s")
        assert played.line.fileno() >= 0
    with alone.call():
        eventually(lambda: alone.half.peer()["connected"])


def test_a_lying_order_for_what_is_ours_changes_nothing(alone: Alone) -> None:
    eventually(lambda: alone.half.peer()["own"] == ["192.0.2.10:80/tcp"] or None, timeout=10)
    before = alone.half.daemon.states()
    with alone.call() as played:
        author = Author(4)
        author.change({b"o": b"\x91\xb1192.0.2.10:80/tcp", b"l192.0.2.10:80/tcp": b"\x90"}, (), 0.0)
        author.copy(0.0)
        played.say(*iter(author.take, None))
        eventually(lambda: alone.half.peer()["held"] == 2)
        assert alone.half.daemon.states() == before
        assert alone.half.daemon.client.get("diff")["operations"] == []
