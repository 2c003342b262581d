"""`lbctl lab` as people call it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from lbctl.errors import Exit
from lbctl.lab import lab as labs
from lbctl.lab.waiting import eventually

pytestmark = pytest.mark.lab

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def name() -> Iterator[str]:
    name = labs.unique_name()
    yield name
    labs.remove(name)


@pytest.fixture(scope="module")
def call(name: str) -> Call:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "lbctl.cli.main", "lab", "--name", name, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module", autouse=True)
def _up(call: Call) -> None:
    done = call("up", "--servers", "2")
    assert done.returncode == 0, done.stderr


def test_status_shows_hosts_and_what_runs_there(call: Call) -> None:
    shown = call("status").stdout
    assert shown.splitlines()[0].split() == ["HOST", "ROLE", "NIC", "ADDRESS", "PID", "PROCESS"]
    hosts = json.loads(call("status", "-j").stdout)["hosts"]
    assert [host["host"] for host in hosts] == ["client", "lb1", "app1", "app2"]
    assert hosts[1]["addresses"] == {"front": ["192.0.2.1/24"], "back": ["198.51.100.1/24"]}
    assert "nginx" in hosts[2]["processes"][0]["command"]


def test_exec_is_the_command(call: Call) -> None:
    assert call("exec", "client", "sh", "-c", "exit 7").returncode == 7
    assert call("exec", "client", "--", "sh", "-c", "exit 8").returncode == 8
    # Options after the host are the command's own.
    assert call("exec", "client", "echo", "-j", "--name").stdout == "-j --name\n"


def test_lbctl_on_a_gateway_asks_its_own_daemon(call: Call, name: str) -> None:
    done = call("exec", "lb1", "lbctl", "get", "services")
    assert done.returncode == Exit.UNREACHABLE
    assert f"/{name}/lb1/lbctl.sock" in done.stderr


def test_a_gateways_daemon_is_started_there_and_shares_nothing(call: Call, name: str) -> None:
    home = labs.HOME / name / "lb1"
    argv = [sys.executable, "-m", "lbctl.cli.main", "lab", "--name", name, "exec", "lb1"]
    with (home / "log").open("wb") as log:
        started = [*argv, "lbctl", "daemon", "--datapath", "fake"]
        daemon = subprocess.Popen(started, stderr=log)
    try:
        eventually(lambda: call("exec", "lb1", "lbctl", "get", "services").returncode == 0)
        rows = json.loads(call("exec", "lb1", "lbctl", "-j", "get", "servers").stdout)
        assert [row["name"] for row in rows] == ["web/app1", "web/app2"]
        status = json.loads(call("exec", "lb1", "lbctl", "-j", "get", "status").stdout)
        assert status["origin"] == str(home / "lbctl.yaml")
        assert (home / "state" / "lock").exists()
    finally:
        daemon.terminate()
        daemon.wait(timeout=20)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["exec", "app9", "true"], "no host 'app9'"),
        (["exec", "client", "nosuchcommand"], "nosuchcommand: no such command"),
        (["up"], "is up already"),
    ],
)
def test_errors_say_what_is_wrong(call: Call, words: list[str], says: str) -> None:
    done = call(*words)
    assert done.returncode == Exit.FAILED
    assert says in done.stderr


def test_down_can_be_repeated_and_a_lab_that_is_gone_is_named() -> None:
    other = labs.unique_name()
    argv = [sys.executable, "-m", "lbctl.cli.main", "lab", "--name", other]
    said = [
        subprocess.run([*argv, verb], capture_output=True, text=True, check=False)
        for verb in ("up", "down", "down", "status")
    ]
    assert [one.returncode for one in said] == [0, 0, 0, Exit.FAILED]
    assert said[1].stdout == f"lab '{other}' is gone\n"
    assert said[2].stdout == f"there was no lab '{other}'\n"
    assert f"there is no lab '{other}'" in said[3].stderr
