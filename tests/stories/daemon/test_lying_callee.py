"""A gateway calls its peer, and what answers lies. It costs the line, by name; the gateway calls
again, takes an honest copy and goes through changes of role."""

import math
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from lbctl.dataplane.port import Flow
from lbctl.ha import items
from lbctl.ha.author import Author
from lbctl.ha.words import VERSION, Again, Hello, Summary, Unframer, Word, frame
from lbctl.lab.waiting import eventually
from lbctl.messages import Role
from lbctl.model import Endpoint, parse_frontend
from lbctl.world import Admin, Order

from .test_pair import Half, Pair, backup_alone

LISTEN = "192.0.2.10:80/tcp"
FRONTEND = parse_frontend(LISTEN)
ORDER = Order(Admin.DRAIN, 1.0, 2.0)
FLOW = Flow(FRONTEND, bytes(16), Endpoint.parse("198.51.100.1:80"), True, 0.0)
PATIENCE = 15.0


class Callee:
    """The listening end, played."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.half = pair, pair.halves[1]
        self._tls = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(pair.home / "ca.pem")
        )
        self._tls.load_cert_chain(pair.home / "gw1.pem", pair.home / "gw1.key")
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", pair.ports[0]))
        self._listener.settimeout(PATIENCE)

    @contextmanager
    def line(self, *words: Word) -> Iterator[ssl.SSLSocket]:
        """The next call, answered so."""
        raw, _ = self._listener.accept()
        raw.settimeout(PATIENCE)
        with self._tls.wrap_socket(raw, server_side=True) as line:
            line.sendall(b"".join(map(frame, words)))
            yield line

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def callee(tmp_path: Path) -> Iterator[Callee]:
    """The second gateway runs, and calls."""
    with backup_alone(tmp_path, 1) as pair:
        played = Callee(pair)
        try:
            yield played
        finally:
            played.close()


def copy(epoch: int, **more: bytes) -> list[Word]:
    """A whole copy, of the listen and more."""
    author = Author(epoch)
    keys = {key.encode("latin1"): value for key, value in more.items()}
    author.change(dict([items.own_item({FRONTEND})]) | keys, (), 0.0)
    author.copy(0.0)
    return list(iter(author.take, None))


def hello(clock: float | None = None) -> list[Word]:
    return [Hello(VERSION, "gw1"), Summary(time.monotonic() if clock is None else clock)]


def text(item: tuple[bytes, bytes]) -> dict[str, bytes]:
    return {item[0].decode("latin1"): item[1]}


def order(name: str, what: Order = ORDER) -> dict[str, bytes]:
    return text(items.order_item(name, what))


LIES = {
    "an order for nothing": (order("nonsense"), None, "means nothing"),
    "an order for ever ago": (
        order("web/app1", Order(Admin.DRAIN, -math.inf, 2.0)), None, "means nothing"
    ),
    "a flow that is too short": (
        {"f" + "\0" * 12: msgspec.msgpack.encode((b"", True, 0, LISTEN, "198.51.100.1:80", 0))},
        None,
        "means nothing",
    ),
    "a clock without an end": (text(items.flow_item(FLOW, 1.0)), math.inf, "clock that shows inf"),
    "a clock that shows nothing": (order("web/app1"), math.nan, "clock that shows nan"),
    "a weight of nobody": ({"l" + LISTEN: b"\xc1"}, None, "means nothing"),
    "a kind of its own": ({"x": b"?"}, None, "means nothing"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_who_was_called_and_lies_costs_a_line_and_no_more(callee: Callee, lie: str) -> None:
    more, clock, why = LIES[lie]
    half = callee.half
    with callee.line(*hello(clock), *copy(5, **more)) as line:
        is_cut(half, line, why)
    is_mended(callee)


def test_a_thousand_cries_for_a_copy_are_one(callee: Callee) -> None:
    half = callee.half
    half.routers.say(Role.ACTIVE)
    with callee.line(*hello(), *[Again("no reason")] * 1000):
        eventually(lambda: half.peer()["resyncs"] == 1000, timeout=PATIENCE)
        assert half.peer()["copies"] < 100
    half.routers.say(Role.BACKUP)
    is_mended(callee)


def test_why_a_call_fails_is_said_in_words(callee: Callee) -> None:
    says(callee.half, "no line: no answer within 5 s")
    callee.close()
    says(callee.half, "no line: Connection refused")


def says(half: Half, text: str) -> None:
    def said() -> bool:
        out = half.daemon.run("ha", "peer").out
        assert text in out, out
        return True

    eventually(said, timeout=PATIENCE)


def is_cut(half: Half, line: ssl.SSLSocket, why: str) -> None:
    with suppress(OSError):
        while line.recv(1 << 16):
            pass

    def named() -> bool:
        cuts = half.peer()["cuts"]
        assert any(why in cut for cut in cuts), cuts
        return True

    eventually(named, timeout=PATIENCE)


def is_mended(callee: Callee) -> None:
    """The same process calls again, takes a copy, and changes its role there and back."""
    half = callee.half
    with callee.line(*hello(), *copy(8)) as line:
        unframer, heard = Unframer(), list[Word]()
        while not heard:
            heard += unframer.feed(line.recv(1 << 16))
        eventually(lambda: half.peer()["theirs"] == [LISTEN], timeout=PATIENCE)
        half.routers.say(Role.ACTIVE)
        eventually(lambda: half.peer()["own"] == [LISTEN], timeout=PATIENCE)
        half.routers.say(Role.BACKUP)
        eventually(lambda: half.peer()["own"] == [], timeout=PATIENCE)
    process = half.daemon.process
    assert process is not None
    assert process.poll() is None
