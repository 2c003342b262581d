"""A real daemon process on a fake data path that outlives it, and real servers on loopback."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lbctl.cli.client import Client
from lbctl.errors import LbctlError
from lbctl.lab.waiting import eventually
from tests.ports import free_port

FAST = "{type: tcp, interval: 100ms, timeout: 90ms, fast_interval: 50ms, fall: 2, rise: 1}"


class LoopbackServer:
    """Accepts connections on a port of its own; `stop` closes it, `start` opens the same."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self.port = free_port()
        self.start()

    def start(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._socket = listener

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass
class Ran:
    """What one run of `lbctl` gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Daemon:
    """`lbctl daemon` in a directory of its own."""

    home: Path
    servers: dict[str, LoopbackServer]
    process: subprocess.Popen[bytes] | None = None
    extra: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.home / "lbctl.yaml"

    @property
    def socket(self) -> Path:
        return self.home / "api.sock"

    @property
    def client(self) -> Client:
        return Client(str(self.socket))

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    def yaml(self, scheduler: str = "rr", drain: str = "60s", **weights: int) -> str:
        """A file with service `web`: all servers, or those given with their weights."""
        weights = weights or dict.fromkeys(self.servers, 1)
        lines = [
            f"      {name}: {{address: '127.0.0.1:{self.servers[name].port}', weight: {weight}}}"
            for name, weight in weights.items()
        ]
        return "\n".join(
            [
                "apiVersion: lbctl/v1",
                "gateway: {front: front0}",
                "services:",
                "  web:",
                "    listen: 192.0.2.10:80/tcp",
                f"    scheduler: {scheduler}",
                f"    check: {FAST}",
                f"    drain: {{timeout: {drain}}}",
                "    servers:",
                *lines,
                "",
            ]
        )

    def start(self, wait: bool = True) -> None:
        command = [*self.lbctl, "daemon", "--config", str(self.file)]
        places = ["--state", str(self.home / "state"), "--pins", str(self.home / "pins")]
        kernel = ["--datapath", f"fake:{self.home / 'kernel'}"]
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *places, *kernel, *self.extra], stderr=log)
        if wait:
            eventually(self.answers, timeout=60)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            return bool(self.client.get("status")["worker"]["pid"])
        except LbctlError:
            return False

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=40)
        self.process = None
        return status

    @property
    def lbctl(self) -> list[str]:
        return [sys.executable, "-m", "lbctl.cli.main", "--socket", str(self.socket)]

    def run(self, *arguments: str) -> Ran:
        done = subprocess.run(
            [*self.lbctl, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def states(self) -> dict[str, str]:
        return {row["name"]: row["state"] for row in self.client.get("servers")}

    def until(self, **states: str) -> None:
        """Wait until the servers of `web` are in these states, and the data path knows."""
        wanted = {f"web/{name}": state for name, state in states.items()}

        def settled() -> bool:
            assert self.states() == wanted
            assert self.client.get("diff")["operations"] == []
            return True

        eventually(settled, timeout=40)

    def operations(self) -> int:
        return int(self.client.get("status")["operations"])

    def refuse(self, *texts: str) -> None:
        """The data path refuses operations whose text holds one of these."""
        (self.home / "kernel" / "refuse").write_text("\n".join(texts))

    def active(self, **connections: int | list[float]) -> None:
        """Open connections, by server; or an estimate of them, and seconds of silence."""
        numbers = {f"127.0.0.1:{self.servers[n].port}": c for n, c in connections.items()}
        fresh = self.home / "active.new"
        fresh.write_text(json.dumps(numbers))
        fresh.replace(self.home / "kernel" / "active.json")


@contextmanager
def _daemon(home: Path) -> Iterator[Daemon]:
    servers = {f"app{number}": LoopbackServer() for number in (1, 2, 3)}
    daemon = Daemon(home, servers)
    (home / "kernel").mkdir()
    daemon.file.write_text(daemon.yaml(app1=1, app2=1))
    try:
        yield daemon
    finally:
        if daemon.process is not None:
            daemon.process.kill()
            daemon.process.wait()
        for server in servers.values():
            server.stop()


def _start(daemon: Daemon) -> Daemon:
    daemon.start()
    eventually(lambda: {row["health"] for row in daemon.client.get("servers")} == {"up"})
    daemon.until(app1="serving", app2="serving")
    return daemon


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is not running yet, with its file in place."""
    with _daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def daemon(stopped: Daemon) -> Daemon:
    """A daemon that serves `web` with app1 and app2, both up."""
    return _start(stopped)


@contextmanager
def running(home: Path) -> Iterator[Daemon]:
    with _daemon(home) as daemon:
        yield _start(daemon)


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The same, for tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("steady")) as daemon:
        yield daemon
