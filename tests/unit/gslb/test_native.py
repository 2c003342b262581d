"""The C way says what the careful Python way says, octet for octet, or leaves it alone."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbctl.gslb.answers import REASONS, Answers
from lbctl.gslb.native import (
    ASK,
    DROP,
    FLAGS,
    SLIP,
    SOURCE,
    Native,
    Unbuilt,
    build,
    build_in,
)
from lbctl.gslb.rrl import RateLimit, Ruling, Window
from lbctl.gslb.worker import Report
from tests.unit.gslb.scene import MUTATIONS, Server, ecs, mutated, opt, query
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


def blobs(directory: Path, server: Server | None = None) -> tuple[Path, Path, Path]:
    """The scene's names, networks and answers, as files."""
    server = server or Server()
    parts = {
        "names": server._names,
        "networks": server._maps,
        "answers": server.compiler.answers(_fine()),
    }
    for name, data in parts.items():
        (directory / name).write_bytes(data)
    return directory / "names", directory / "networks", directory / "answers"


def load(server: Server, native: Native, directory) -> None:
    native.load(*blobs(directory, server))
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


def test_chosen_networks_give_nobody_more_than_the_limit(library) -> None:
    """Eight networks that fill the probes of a ninth under a hash without a key."""
    native = Native(library, RateLimit(10, 10, 0), SECRET)
    native.tick(100, 0)

    def place(network: bytes) -> int:
        number = int.from_bytes(b"\x04" + network, "big")
        return (number * 0x9E3779B97F4A7C15 % 2**64 >> 32) % 65536

    victim = bytes((198, 18, 7))
    others = (number.to_bytes(3, "big") for number in range(1 << 22))
    chosen = [one for one in others if (place(one) - place(victim)) % 65536 < 8 and one != victim]
    for network in chosen[:200]:
        native.rule(network, error=False)
    sent = [native.rule(victim, error=False) is Ruling.SEND for _ in range(1000)]
    assert sum(sent) == 10
    native.close()


def test_where_there_is_no_meter_left_one_is_shared(library) -> None:
    native = Native(library, RateLimit(10, 10, 0), SECRET)
    native.tick(100, 0)
    for number in range(1 << 19):
        native.rule(number.to_bytes(3, "big"), error=False)
    for victim in (b"\xc6\x12\x07", b"\xc6\x12\x08", b"\xc6\x12\x09"):
        sent = [native.rule(victim, error=False) is Ruling.SEND for _ in range(1000)]
        assert sum(sent) <= 10
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
    server = Server()
    native = Native(library, OPEN, SECRET)
    load(server, native, tmp_path)
    for _ in range(3):
        native.reply(query("geo.gslb.example"), b"\xc6\x13\0\1")
    answers = Answers(memoryview(server.compiler.answers(_fine())))
    found = {
        (answers.label(number // 16), REASONS[number % 16]): count
        for number, count in Report([], {}, *native.harvest()).counters()
    }
    assert found == {("geo.gslb.example.\tfrankfurt", "continent"): 3}
    assert native.harvest() == (b"", b"")
    native.close()


def test_without_a_compiler_the_reason_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unbuilt, match="no C compiler"):
        build(tmp_path)


def test_a_compiler_that_fails_or_hangs_is_said(monkeypatch, tmp_path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho first >&2\necho no space left >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr("lbctl.gslb.native.COMPILERS", (str(compiler),))
    with pytest.raises(Unbuilt, match=r"cc failed: no space left$"):
        build(tmp_path)
    compiler.write_text("#!/bin/sh\nexec sleep 20\n")
    monkeypatch.setattr("lbctl.gslb.native.PATIENCE", 0.05)
    with pytest.raises(Unbuilt, match=r"cc took over 0\.05 s"):
        build(tmp_path)


def test_a_missing_file_is_an_error(library, tmp_path) -> None:
    native = Native(library, OPEN, SECRET)
    with pytest.raises(FileNotFoundError):
        native.load(None, None, tmp_path / "none")
    native.close()


@pytest.mark.parametrize("count", MUTATIONS)
def test_mutated_packets_leave_the_library_whole(both, count) -> None:
    server, native = both
    for number, packet in enumerate(mutated(count, seed=20261123)):
        found = native.reply(packet, b"\xc0\0\2\1")
        if found != ASK and number % 50 == 0:
            assert found == careful(server, packet, b"\xc0\0\2\1")


def test_the_library_compiles_without_a_warning(tmp_path) -> None:
    compiler = shutil.which("cc") or pytest.skip("no cc: apt-get install gcc libc6-dev")
    strict = ["-Wall", "-Wextra", "-Werror", *FLAGS]
    subprocess.run([compiler, *strict, "-o", str(tmp_path / "f.so"), str(SOURCE)], check=True)


def test_a_place_that_nothing_can_be_run_from_is_passed_over(
    library, monkeypatch, tmp_path
) -> None:
    (tmp_path / "noexec").mkdir()
    (tmp_path / "good").mkdir()
    load = ctypes.CDLL

    def refuse(path: str) -> ctypes.CDLL:
        if "noexec" in path:
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert build_in([tmp_path / "noexec", tmp_path / "good"]).parent == tmp_path / "good"
    with pytest.raises(Unbuilt, match=r"failed to map segment.*mounted noexec"):
        build_in([tmp_path / "noexec"])


ASAN = """
import sys
from pathlib import Path
from lbctl.gslb.native import Native
from lbctl.gslb.rrl import RateLimit
from tests.unit.gslb.scene import mutated
library, names, networks, answers, count = sys.argv[1:]
native = Native(Path(library), RateLimit(1 << 30, 1 << 30), b"0" * 16)
native.load(Path(names), Path(networks), Path(answers))
native.tick(1, 1)
for packet in mutated(int(count), seed=20261124):
    native.reply(packet, b"\\xc0\\0\\2\\1")
    native.reply(packet, bytes(16))
print("whole")
"""


@pytest.mark.parametrize("count", MUTATIONS)
def test_mutated_packets_touch_no_octet_that_is_not_theirs(tmp_path, count) -> None:
    """Under AddressSanitizer and UBSan, which see what a comparison of replies cannot."""
    compiler = shutil.which("gcc") or pytest.skip("no gcc: apt-get install gcc libc6-dev")
    library = tmp_path / "fast.so"
    sane = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *FLAGS]
    subprocess.run([compiler, *sane, "-o", str(library), str(SOURCE)], check=True)
    asan, ubsan = (
        subprocess.run([compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True,
                       check=True).stdout.strip() for name in ("asan", "ubsan")
    )  # fmt: skip
    paths = blobs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ASAN, str(library), *map(str, paths), str(count)],
        env={**os.environ, "LD_PRELOAD": f"{asan} {ubsan}", "ASAN_OPTIONS": "detect_leaks=0",
             "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "whole\n", done.stderr[-3000:]
