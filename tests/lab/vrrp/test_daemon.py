"""The daemon and the VRRP process together: the file's virtual routers run, services count,
and the daemon's death moves nothing."""

import json
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from lbctl.lab import Host, Process, eventually
from lbctl.lab.lab import GatewayHost
from tests.lab.vrrp.speakers import Lbctl, Spec
from tests.lab.vrrp.stand import Stand

pytestmark = pytest.mark.lab
VIP = "192.0.2.10"
FILE = """\
apiVersion: lbctl/v1
gateway: {front: front, back: back}
gateways: {lb1: {}, lb2: {}}
defaults: {check: {type: tcp, interval: 200ms, fast_interval: 100ms}}
services:
  web: {listen: 192.0.2.10:80/tcp, servers: {a: 198.51.100.2:8080}}
  dns: {listen: 192.0.2.99:53/tcp, servers: {a: 198.51.100.2:8080}}
virtual_routers:
  web:
    vrid: 7
    addresses: 192.0.2.10
    priority: {lb1: 200, lb2: 100}
    interval: 100ms
    track: [{service: web}]
"""


class Idle(Lbctl):
    """A VRRP process that nobody has told anything."""

    def begin(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        places = ["--state", str(self.home / "state"), "--runtime", str(self.home / "run")]
        places += ["--pins", str(self.pins)]
        argv = [sys.executable, "-m", "lbctl.cli.main", "vrrp", "--control", str(self.control)]
        self._run([*argv, *places], "vrrp.log")


@pytest.fixture
def gateway(stand: Stand) -> Iterator[GatewayHost]:
    stand.one = Idle(stand.lab.gateways[0])
    yield stand.lab.gateways[0]
    for process in stand.lab.gateways[0].started:
        if process.alive and process not in stand.one.processes:
            process.kill(signal.SIGTERM)
            process.wait()


def daemon(gateway: GatewayHost, stand: Stand) -> Process:
    gateway.config(FILE)
    vrrp = ("--vrrp", str(stand.one.control))
    return gateway.daemon("--datapath", "fake", "--node", "lb1", *vrrp)


def server(host: Host) -> Process:
    listen = "import socket; s = socket.create_server(('198.51.100.2', 8080), backlog=99)\n"
    accept = "while True: s.accept()[0].close()"
    return host.start([sys.executable, "-c", listen + accept], log="server.log")


def test_the_daemon_says_what_runs_and_its_death_moves_nothing(
    stand: Stand, gateway: GatewayHost
) -> None:
    assert isinstance(stand.one, Idle)
    listening = server(gateway)
    stand.one.begin()
    first = daemon(gateway, stand)
    stand.expect(stand.one, "active")
    assert stand.holds(gateway, VIP)
    status = gateway.lbctl("ha", "status", "-j", "--control", stand.one.control)
    (standing,) = json.loads(status.stdout)
    assert (standing["router"], standing["role"]) == ("web", "active")
    assert "web: active" in gateway.lbctl("ha", "status", "--control", stand.one.control).stdout
    eventually(lambda: "web: active" in gateway.lbctl("get", "events").stdout)

    since = time.monotonic()
    first.kill()
    first.wait()
    stand.listen(1.0)
    assert max(stand.gaps("192.0.2.2", since)) < 0.15
    assert stand.holds(gateway, VIP)

    listening.kill()
    listening.wait()
    second = daemon(gateway, stand)  # sees that the server is gone, and says so
    found = stand.expect(stand.one, "fault")
    assert "quorum web (at least 1 servers): too few servers are up" in found.why[0]
    again = server(gateway)
    stand.expect(stand.one, "active")
    for process in (second, again):
        process.kill(signal.SIGTERM)
        process.wait()


def test_the_process_starts_with_what_it_was_last_told(stand: Stand, gateway: GatewayHost) -> None:
    assert isinstance(stand.one, Idle)
    listening = server(gateway)
    stand.one.begin()
    told = daemon(gateway, stand)
    stand.expect(stand.one, "active")
    told.kill(signal.SIGTERM)
    told.wait()
    stand.crash(stand.one)
    stand.one.begin()
    stand.expect(stand.one, "active")
    listening.kill()
    listening.wait()


def test_failover_by_the_command_line_wants_a_peer(stand: Stand, gateway: GatewayHost) -> None:
    assert isinstance(stand.one, Idle)
    listening = server(gateway)
    stand.one.begin()
    told = daemon(gateway, stand)
    stand.expect(stand.one, "active")
    control = ("--control", str(stand.one.control))
    refused = gateway.lbctl("ha", "failover", "web", *control, check=False)
    assert refused.returncode == 9
    assert "no peer was ever heard" in refused.stderr
    unknown = gateway.lbctl("ha", "standby", "wep", *control, check=False)
    assert (unknown.returncode, "no such virtual router" in unknown.stderr) == (1, True)
    alone = gateway.lbctl("ha", "standby", "web", *control, check=False)
    assert (alone.returncode, stand.standing(stand.one).role) == (9, "active")
    gateway.lbctl("ha", "standby", "web", "--reason", "test", "--force", *control)
    assert stand.standing(stand.one).role == "initialize"
    gateway.lbctl("ha", "resume", "web", *control)
    stand.expect(stand.one, "active")
    stays = gateway.lbctl("ha", "failover", "web", "--force", *control, check=False)
    assert (stays.returncode, "no successor was heard" in stays.stderr) == (1, True)
    assert stand.standing(stand.one).role == "active"
    stand.two.start(Spec(VIP, priority=100, interval=0.1))
    stand.expect(stand.two, "backup")
    moved = gateway.lbctl("ha", "failover", "web", "--force", *control)
    assert moved.stdout == "web: 192.0.2.3 is active; `lbctl ha resume web` lifts the order\n"
    assert stand.standing(stand.two).role == "active"
    for process in (told, listening):
        process.kill(signal.SIGTERM)
        process.wait()
