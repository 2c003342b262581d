"""HAProxy and lbctl with each other's agents."""

import csv
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from listeners import PATIENCE, Server

from lbctl.lab.waiting import eventually
from tests.ports import free_port

AGENT = Path(__file__).parents[3] / "agents/lbctl_agent.py"
needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="no haproxy: `make test` installs it"
)


def answers(path: Path, request: bytes) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(request)
        data = b""
        while more := sock.recv(65536):
            data += more
    return data.decode()


class HAProxy:
    """One server, whose agent is ours, and a person's word in a file."""

    def __init__(self, where: Path, agent_port: int) -> None:
        self.socket = where / "stats"
        file = where / "haproxy.cfg"
        file.write_text(f"""
global
    stats socket {self.socket} level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend f
    bind 127.0.0.1:{free_port()}
    default_backend b
backend b
    default-server agent-check agent-inter 100ms weight 100
    server app1 127.0.0.1:{free_port()} agent-port {agent_port}
""")
        self.process = subprocess.Popen(["haproxy", "-q", "-f", str(file)])

    def row(self) -> dict[str, str]:
        text = answers(self.socket, b"show stat\n").lstrip("# ")
        return next(row for row in csv.DictReader(text.splitlines()) if row["svname"] == "app1")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words"
    file.write_text("")
    return file


@pytest.fixture
def haproxy(tmp_path: Path, words: Path) -> Iterator[HAProxy]:
    port = free_port()
    command = [sys.executable, str(AGENT), "serve", "--plain", "--open", "--listen", "127.0.0.1"]
    more = ["--port", str(free_port()), "--haproxy-port", str(port), "--words", str(words)]
    # Of a machine that may be full: what it measures is not what this is about.
    bounds = ["--soft", "1000", "--hard", "2000"]
    agent = subprocess.Popen([*command, *more, *bounds])
    one = HAProxy(tmp_path, port)
    try:
        eventually(one.socket.exists)
        yield one
    finally:
        for process in (one.process, agent):
            process.kill()
            process.wait(PATIENCE)


@needs_haproxy
@pytest.mark.parametrize(
    ("said", "status", "weight"),
    [
        ("", "no check", "100"),
        ("50%", "no check", "50"),
        ("drain", "DRAIN (agent)", "100"),
        ("maint#kernel", "MAINT", "100"),
        ("down#disk full", "DOWN (agent)", "100"),
    ],
)
def test_haproxy_understands_our_agent(
    haproxy: HAProxy, words: Path, said: str, status: str, weight: str
) -> None:
    def is_so() -> bool:
        row = haproxy.row()
        assert (row["status"], row["weight"]) == (status, weight), row["last_agt"]
        assert "disk" not in said or "disk full" in row["last_agt"]
        return True

    words.write_text(said)
    eventually(is_so, PATIENCE)
    words.write_text("up ready 100%")
    eventually(lambda: haproxy.row()["status"] == "no check", PATIENCE)
    eventually(lambda: haproxy.row()["weight"] == "100", PATIENCE)


# --- the other way round ------------------------------------------------------------------


class Daemon:
    """lbctl on a data path that is none, with a service whose servers have such agents."""

    def __init__(self, where: Path, ports: dict[str, int]) -> None:
        servers = "\n".join(
            f"      {name}: {{address: 127.0.0.{n}, port: {port}}}"
            for n, (name, port) in enumerate(ports.items(), 1)
        )
        agents = next(iter(ports.values()))
        file = where / "lbctl.yaml"
        file.write_text(f"""
apiVersion: lbctl/v1
gateway: {{front: lo}}
services:
  web:
    listen: 192.0.2.10:80/tcp
    scheduler: wrr
    check: none
    agent: {{speaks: haproxy, port: {agents}, interval: 100ms, timeout: 90ms, send: "hello\\n"}}
    overload: {{hold: 500ms}}
    servers:
{servers}
""")
        self.verb = [sys.executable, "-m", "lbctl.cli.main", "--socket", str(where / "sock")]
        places = ["--config", str(file), "--state", str(where / "state"), "--pins", str(where)]
        self.process = subprocess.Popen([*self.verb, "daemon", *places, "--datapath", "fake"])

    def server(self, name: str) -> dict[str, Any]:
        done = subprocess.run(
            [*self.verb, "get", "servers", "-j"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return next(row for row in json.loads(done.stdout) if row["name"] == f"web/{name}")


def test_lbctl_understands_a_script_that_speaks_haproxys_protocol(tmp_path: Path) -> None:
    line = [b"up ready 100%\n"]

    def script(connection: socket.socket, stopped: threading.Event) -> None:
        if connection.recv(100) == b"hello\n":
            connection.sendall(line[0])

    server = Server(script)
    daemon = Daemon(tmp_path, {"app1": server.address[1], "app2": 1})
    try:
        for said, state, weight in (
            (b"up ready 100%\n", "serving", 8),
            (b"50%\n", "serving", 4),
            (b"drain#new kernel\n", "draining", 0),
            (b"maint\n", "draining", 0),
            (b"up ready\n", "serving", 4),
            (b"down#disk full\n", "down", None),
            (b"up ready 100%\n", "serving", 8),
        ):
            line[0] = said

            def is_so(state=state, weight=weight) -> bool:
                row = daemon.server("app1")
                assert (row["state"], row["weight"]) == (state, weight), row["because"]
                return True

            eventually(is_so, 20)
        assert daemon.server("app2")["weight"] == 8  # its agent never spoke: neutral
    finally:
        daemon.process.terminate()
        daemon.process.wait(PATIENCE)
        server.close()
