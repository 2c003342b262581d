"""The C way says what the careful Python way says, octet for octet, or leaves it alone."""

import shutil
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbctl.gslb.native import ASK, DROP, SLIP, Native, Unbuilt, build
from lbctl.gslb.rrl import RateLimit, Ruling, Window
from tests.unit.gslb.scene import Server, ecs, opt, query
from tests.unit.gslb.test_responder import careful, queries

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no cc: apt-get install gcc")
SECRET = b"0123456789abcdef"  # the scene's
OPEN = RateLimit(10**9, 10**9)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return build(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def both(library, tmp_path_factory) -> Iterator[tuple[Server, Native]]:
    server = Server()
    native = Native(library, OPEN, SECRET)
    load(server, native, tmp_path_factory.mktemp("blobs"))
    yield server, native
    native.close()


def load(server: Server, native: Native, directory) -> None:
    parts = {
        "names": server._names,
        "networks": server._maps,
        "answers": server.compiler.answers(_fine()),
    }
    for name, data in parts.items():
        (directory / name).write_bytes(data)
    native.load(directory / "names", directory / "networks", directory / "answers")
    native.tick(100, 1_800_000_000)


def _fine():
    from lbctl.gslb.policy import Weather

    return Weather()


def turned(server: Server, turn: int = 0) -> None:
    for slot in server.responder._slots.values():
        slot.turn = turn


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(queries, st.sampled_from(["192.0.2.1", "198.19.0.9", "2001:db8:2::9"]), st.data())
def test_both_ways_say_the_same(both, data, source, draw) -> None:
    server, native = both
    packed = ip_address(source).packed
    at = draw.draw(st.integers(0, len(data)))
    damaged = data[:at] + draw.draw(st.binary(max_size=2)) + data[at + 1 :]
    for one in (data, damaged):
        if b"weighted" in one.lower() or b"even" in one.lower():
            continue  # these take turns: see below
        found = native.reply(one, packed)
        if found != ASK:
            assert found == careful(server, one, packed)


@pytest.mark.parametrize(
    "extra",
    [None, opt(), opt(ecs("198.18.3.0/24")), opt(ecs("2001:db8:2::/48")),
     opt(b"\0\x0a\0\x08clientck"), opt(ecs("198.18.0.0/17") + b"\0\x0a\0\x08clientck")],
)  # fmt: skip
def test_plain_queries_never_need_python(both, extra) -> None:
    server, native = both
    for name in ("geo", "GeO", "sticky", "ns1"):
        data = query(f"{name}.gslb.example", 1, extra)
        assert native.reply(data, b"\xc0\0\2\1") == careful(server, data, b"\xc0\0\2\1")


def test_turns_are_taken_in_the_same_order(both) -> None:
    server, native = both
    turned(server)
    data = query("weighted.gslb.example")
    for _ in range(200):
        assert native.reply(data, b"\xc0\0\2\1") == server.ask(data)


def test_a_shown_cookie_buys_size_and_ends_the_limit(library, tmp_path) -> None:
    server = Server()
    native = Native(library, RateLimit(1, 1, 0), SECRET)
    load(server, native, tmp_path)
    source = b"\xc0\0\2\1"
    cookie = server.cookies.make(b"clientck", source, 1_800_000_000)
    shown = query("geo.gslb.example", 1, opt(b"\0\x0a\0\x18" + cookie))
    forged = query("geo.gslb.example", 1, opt(b"\0\x0a\0\x18" + cookie[:-1] + b"\0"))
    old = server.cookies.make(b"clientck", source, 1_800_000_000 - 2000)
    renew = query("geo.gslb.example", 1, opt(b"\0\x0a\0\x18" + old))
    for _ in range(3):
        assert native.reply(shown, source) == careful(server, shown, source)
        assert native.reply(renew, source) == careful(server, renew, source)
    assert native.reply(forged, source) == ASK  # another secret may have signed it
    plain = query("geo.gslb.example")
    assert isinstance(native.reply(plain, source), bytes)
    assert native.reply(plain, source) == DROP
    assert native.dropped == 1
    native.close()


@given(
    st.integers(0, 5), st.integers(0, 5), st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from([b"abc", b"abd", b"abcdefg"]), st.booleans()), max_size=30),
)  # fmt: skip
@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_meters_rule_as_the_window_does(library, responses, errors, slip, asked) -> None:
    limit = RateLimit(responses, errors, slip)
    native, window = Native(library, limit, SECRET), Window(limit)
    for second in (7, 8):
        native.tick(second, 0)
        window.turn(second)
        for network, error in asked:
            assert native.rule(network, error=error) is window.rule(network, error=error)
    native.close()


def test_what_is_over_the_limit_slips(library, tmp_path) -> None:
    native = Native(library, RateLimit(1, 1, 1), SECRET)
    load(Server(), native, tmp_path)
    data = query("geo.gslb.example")
    assert isinstance(native.reply(data, b"\xc0\0\2\1"), bytes)
    assert native.reply(data, b"\xc0\0\2\2") == SLIP
    assert native.rule(b"\xc0\0\2", error=False) is Ruling.SLIP
    native.close()


def test_counts_are_by_name_site_and_reason(library, tmp_path) -> None:
    from lbctl.gslb.answers import REASONS, Answers

    server = Server()
    native = Native(library, OPEN, SECRET)
    load(server, native, tmp_path)
    for _ in range(3):
        native.reply(query("geo.gslb.example"), b"\xc6\x13\0\1")
    answers = Answers(memoryview(server.compiler.answers(_fine())))
    found = {
        (answers.label(choice), REASONS[reason]): count
        for choice, reason, count in native.harvest()
    }
    assert found == {("geo.gslb.example.\tfrankfurt", "continent"): 3}
    assert list(native.harvest()) == []
    native.close()


def test_without_a_compiler_the_reason_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unbuilt, match="no C compiler"):
        build(tmp_path)


def test_a_missing_file_is_an_error(library, tmp_path) -> None:
    native = Native(library, OPEN, SECRET)
    with pytest.raises(FileNotFoundError):
        native.load(None, None, tmp_path / "none")
    native.close()


@pytest.mark.long
def test_a_million_packets_leave_the_library_whole(both) -> None:
    import random

    server, native = both
    rng = random.Random(20261123)
    seeds = [
        query("geo.gslb.example", kind, extra)
        for kind in (1, 28, 255)
        for extra in (None, opt(), opt(ecs("198.18.3.0/24")), opt(b"\0\x0a\0\x08clientck"))
    ]
    for number in range(1_000_000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        found = native.reply(bytes(data), b"\xc0\0\2\1")
        if found != ASK and number % 50 == 0:
            assert found == careful(server, bytes(data), b"\xc0\0\2\1")
