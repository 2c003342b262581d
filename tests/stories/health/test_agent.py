"""Our agent as a real process: who may ask it, and what they get."""

import json
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from listeners import PATIENCE

from lbctl.lab.waiting import eventually
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
AGENT = [sys.executable, str(ROOT / "agents/lbctl_agent.py")]
CERT = [sys.executable, "-m", "lbctl.cli.main", "agent", "cert"]
Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start an agent; returns its port."""
    processes = []

    def started(*options: str) -> int:
        port = free_port()
        where = ["--listen", "127.0.0.1", "--port", str(port), "--haproxy-port", "0"]
        processes.append(subprocess.Popen([*AGENT, "serve", *where, *options]))
        eventually(lambda: listens(port), PATIENCE)
        return port

    yield started
    for process in processes:
        process.terminate()
        process.wait(PATIENCE)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def get(url: str, token: str = "", context: ssl.SSLContext | None = None) -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
        return answer.read().decode()


def test_a_token_is_wanted(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    port = start("--plain", "--token-file", str(tmp_path / "token"))
    for token in ("", "wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"http://127.0.0.1:{port}/v1/load", token)
        assert refused.value.code == 401
        refused.value.close()
    answer = json.loads(get(f"http://127.0.0.1:{port}/v1/load?nonce=ab12", "s3cret"))
    assert (answer["agent"], answer["nonce"]) == ("lbctl", "ab12")
    assert 0 <= answer["memory"]["used"] <= 1
    assert "lbctl_agent_memory_used_ratio" in get(f"http://127.0.0.1:{port}/metrics", "s3cret")


def test_mutual_tls_keeps_strangers_out(start: Start, tmp_path: Path) -> None:
    for words in (["127.0.0.1"], ["gateway", "--client"]):
        subprocess.run([*CERT, *words, "--dir", str(tmp_path)], check=True, capture_output=True)
    port = start("--cert", str(tmp_path / "127.0.0.1.pem"), "--ca", str(tmp_path / "ca.pem"))
    url = f"https://127.0.0.1:{port}/v1/load"
    stranger = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with pytest.raises(OSError, match=r"(?i)certificate|reset|closed|EOF"):
        get(url, context=stranger)
    known = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    known.load_cert_chain(str(tmp_path / "gateway.pem"))
    assert json.loads(get(url, context=known))["agent"] == "lbctl"


def test_clients_that_say_nothing_hold_nobody_up(start: Start, tmp_path: Path) -> None:
    port = start("--plain", "--open")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        assert json.loads(get(f"http://127.0.0.1:{port}/v1/load"))["agent"] == "lbctl"
    finally:
        for one in silent:
            one.close()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--plain"], "anybody could ask: give --token-file or --ca"),
        (["--open"], "no certificate: give --cert"),
        (["--plain", "--token-file", "/no/such"], "/no/such: no token in it"),
        (["--open", "--cert", "/no/such.pem"], "/no/such.pem: cannot be used"),
    ],
)
def test_it_does_not_start_open_to_all_by_accident(options: list[str], why: str) -> None:
    done = subprocess.run(
        [*AGENT, "serve", *options], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert why in done.stderr


def test_install_shows_its_commands(tmp_path: Path) -> None:
    verb = [sys.executable, "-m", "lbctl.cli.main", "agent", "install", "root@app1"]
    done = subprocess.run(
        [*verb, "--dry-run", "--dir", str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0].startswith("# ssh root@app1 ")
    assert [line.split()[1] for line in lines] == ["ssh", "scp", "scp", "scp", "ssh"]
    assert "lbctl_agent.py install" in lines[-1]
