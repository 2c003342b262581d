"""The client against sockets that answer otherwise than a daemon would; and what it costs."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbctl.cli import client
from lbctl.cli.client import Client
from lbctl.cli.main import VERBS
from lbctl.configfile import read_file
from lbctl.errors import Exit, InvalidConfig, LbctlError


@contextmanager
def answering(path: Path, data: bytes) -> Iterator[Client]:
    """A server that reads a request and says `data`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=answer)
        thread.start()
        yield Client(str(path))
        thread.join()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno",
        b'HTTP/1.1 500 Bad\r\nContent-Length: 13\r\n\r\n{"error": "x"',
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{x}",
    ],
)
def test_whatever_answers_it_is_unreachable_and_no_traceback(tmp_path: Path, data: bytes) -> None:
    with answering(tmp_path / "s", data) as one, pytest.raises(LbctlError) as caught:
        one.get("status")
    assert caught.value.exit_code is Exit.UNREACHABLE
    assert str(caught.value)


def test_a_path_that_cannot_be_a_sockets_is_not_mended_by_a_daemon(tmp_path: Path) -> None:
    with pytest.raises(LbctlError, match="path too long") as caught:
        Client(str(tmp_path / ("x" * 200))).get("status")
    assert "starts it" not in caught.value.hint
    assert "--socket" in caught.value.hint


def test_an_error_of_the_daemon_keeps_its_words_and_its_code(tmp_path: Path) -> None:
    body = b'{"error": "web: no", "hint": "--force", "exit_code": 9, "faults": []}'
    head = f"HTTP/1.1 409 Conflict\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with answering(tmp_path / "s", head + body) as one, pytest.raises(LbctlError) as caught:
        one.post("orders", body={})
    assert (str(caught.value), caught.value.exit_code) == ("web: no (--force)", Exit.REFUSED)


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(LbctlError, match=r"did not answer in 0\.1 s"):
            Client(str(tmp_path / "s")).get("status")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 11)
    assert read_file(file, 11) == b"x" * 11
    with pytest.raises(InvalidConfig, match="is larger than"):
        read_file(file, 10)
    with pytest.raises(InvalidConfig, match="cannot be read: Is a directory"):
        read_file(tmp_path, 10)


@pytest.mark.parametrize("verb", ["get", "describe", "why", "drain", "weight", "stats", "monitor"])
def test_a_verb_that_only_asks_imports_nothing_heavy(verb: str) -> None:
    module, _, _ = VERBS[verb]
    heavy = "asyncio pydantic yaml rich aiohttp msgspec prometheus_client lbctl.model"
    code = (
        f"import sys, lbctl.cli.main, lbctl.cli.{module}\n"
        f"print(*[name for name in {heavy.split()!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_verb_can_be_imported_and_helps() -> None:
    from lbctl.cli.main import lbctl

    for verb in VERBS:
        context = lbctl.make_context("lbctl", [verb, "--help"], resilient_parsing=True)
        command = lbctl.get_command(context, verb)
        assert command is not None
        assert command.get_short_help_str(), verb
