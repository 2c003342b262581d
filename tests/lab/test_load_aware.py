"""A schedule that follows the servers' real load: real cgroups, real agents, real nginx.

Each server runs in a cgroup of its own (a fifth of a processor, 64 MiB) and on a small file
system of its own, so that one can be loaded while the others are not.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lbctl.lab import Lab, eventually, standard
from lbctl.lab.load import Pace, failures, send
from tests.lab import cgroups
from tests.lab.cgroups import Box, certificates

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        not cgroups.v1_is_here(),
        reason="no cgroup v1 with cpu and memory (boot with systemd.unified_cgroup_hierarchy=0)",
    ),
]
MIB = 1 << 20
HOLD = 4.0
PATIENCE = 40.0
CONFIG = """
apiVersion: lbctl/v1
gateway: {{front: front, back: back}}
services:
  web:
    listen: 192.0.2.10:80/tcp
    scheduler: wrr
    check: {{type: http, interval: 500ms, timeout: 400ms}}
    agent:
      interval: 500ms
      timeout: 450ms
      tls: {{ca: {certs}/ca.pem, cert: {certs}/gateway.pem}}
    overload:
      hold: {hold}s
      max_removed: 40%
      cpu: {{soft: 70%, hard: 90%, back: 60%}}
      memory: {{soft: 60%, hard: 80%}}
    servers:
{servers}
"""


class Pool:
    """A lab with boxes, agents and a daemon that hears them."""

    def __init__(self, lab: Lab, boxes: dict[str, Box]) -> None:
        self.lab, self.boxes = lab, boxes

    def servers(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.lab.gateway.lbctl("get", "servers", "-j").stdout)
        return {row["name"].partition("/")[2]: row for row in rows}

    def weights(self) -> dict[str, int | None]:
        return {name: row["weight"] for name, row in self.servers().items()}

    def agents(self) -> dict[str, dict[str, Any]]:
        rows = json.loads(self.lab.gateway.lbctl("get", "agents", "-j").stdout)
        return {row["server"].partition("/")[2]: row for row in rows}

    def log(self) -> str:
        return (self.lab.gateway.home / "daemon.log").read_text()

    def calm(self) -> None:
        whole = dict.fromkeys(self.boxes, 8)
        eventually(lambda: self.weights() == whole, PATIENCE)

    def served(self, requests: int = 40) -> set[str]:
        """Who answers new connections."""
        url = f"http://{self.lab.topology.vip}:80/"
        answers = send(self.lab.client, url, Pace(total=requests, per_connection=1))
        assert failures(answers) == []
        return {answer.server for answer in answers}


@contextlib.contextmanager
def pool(servers: int) -> Iterator[Pool]:
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(standard(servers)))
        boxes = {host.name: Box(lab.name, host, 0.2, 64 * MIB) for host in lab.servers}
        certs = lab.home / "certs"
        certificates(certs, *(host.address for host in lab.servers))
        for box in boxes.values():
            stack.enter_context(box.made())
        stack.callback(end_all, lab)
        for box in boxes.values():
            assert box.host.web.pid is not None
            box.take(box.host.web.pid)
            box.agent("--cert", certs / f"{box.host.address}.pem", "--ca", certs / "ca.pem")
        listed = "\n".join(f"      {host.name}: {host.address}" for host in lab.servers)
        text = CONFIG.format(certs=certs, hold=HOLD, servers=listed)
        lab.gateway.config(text)
        daemon = lab.gateway.daemon()

        def answers() -> bool:
            assert daemon.alive, daemon.output()
            done = lab.gateway.lbctl("get", "status", check=False)
            assert done.returncode == 0, done.stdout + done.stderr + daemon.output()
            return True

        eventually(answers, PATIENCE)
        made = Pool(lab, boxes)
        eventually(lambda: all(a["state"] == "speaks" for a in made.agents().values()), PATIENCE)
        made.calm()
        yield made


def end_all(lab: Lab) -> None:
    """Boxes can be removed once nobody is in them."""
    for host in lab.servers:
        for process in host.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        eventually(lambda host=host: not host.processes())


@pytest.fixture(scope="module")
def three() -> Iterator[Pool]:
    with pool(3) as made:
        yield made


def test_the_agents_report_use_against_their_limits(three: Pool) -> None:
    box = three.boxes["app1"]
    said = three.lab.gateway.lbctl(
        *("agent", "status", box.host.address, "-j", "--dir", three.lab.home / "certs")
    )
    answer = json.loads(said.stdout)
    assert answer["cpu"]["cores"] == 0.2
    assert answer["memory"]["total"] == 64 * MIB
    assert answer["cgroup"]["version"] == 1
    assert [(one["mount"], one["total"]) for one in answer["disks"]] == [(str(box.disk), 16 * MIB)]


def test_a_busy_server_loses_weight_leaves_and_returns(three: Pool) -> None:
    others = {"app2": 8, "app3": 8}

    def has(*allowed: int) -> bool:
        weights = three.weights()
        assert {name: weights[name] for name in others} == others
        return weights["app1"] in allowed

    half = three.boxes["app1"].half_busy(0.8)
    eventually(lambda: has(*range(1, 8)), PATIENCE)
    busy = three.boxes["app1"].busy()
    half.kill()
    eventually(lambda: has(0), PATIENCE)
    assert three.servers()["app1"]["state"] == "overloaded"
    assert "cpu" in three.servers()["app1"]["because"]
    assert three.served() == {"app2", "app3"}
    busy.kill()
    left = time.monotonic()
    eventually(lambda: three.weights()["app1"], PATIENCE)
    assert time.monotonic() - left >= HOLD - 1.0
    three.calm()
    assert three.served() == {"app1", "app2", "app3"}
    assert 0 in [one["weight"] for one in why(three, "app1")["transitions"]]
    for name in others:
        assert {one["weight"] for one in why(three, name)["transitions"]} <= {8, None}


def why(made: Pool, name: str) -> dict[str, Any]:
    return json.loads(made.lab.gateway.lbctl("why", f"web/{name}", "-j").stdout)


def test_memory_that_runs_out_is_seen(three: Pool) -> None:
    hoard = three.boxes["app2"].hoard(50 * MIB)
    eventually(lambda: three.weights() == {"app1": 8, "app2": 0, "app3": 8}, PATIENCE)
    assert three.servers()["app2"]["because"].startswith("overloaded: memory ")
    assert three.served() == {"app1", "app3"}
    hoard.kill(group=True)
    three.calm()


def test_a_filling_disk_is_seen(three: Pool) -> None:
    file = three.boxes["app3"].fill(int(15.5 * MIB))
    eventually(lambda: three.weights() == {"app1": 8, "app2": 8, "app3": 0}, PATIENCE)
    assert three.servers()["app3"]["because"].startswith("overloaded: disk 9")
    assert three.served() == {"app1", "app2"}
    file.unlink()
    three.calm()


def test_flapping_load_makes_one_transition_in_a_hold_time(three: Pool) -> None:
    box, began = three.boxes["app1"], len(three.log())
    start = time.monotonic()
    file = None
    while time.monotonic() - start < 2.5 * HOLD:
        file = box.fill(int(15.5 * MIB))
        eventually(lambda: (three.agents()["app1"]["disk"] or 0) > 0.9, PATIENCE)
        file.unlink()
        eventually(lambda: (three.agents()["app1"]["disk"] or 0) < 0.5, PATIENCE)
    took = time.monotonic() - start
    told = three.log()[began:]
    moves = told.count("web/app1: overloaded") + told.count("web/app1: no longer overloaded")
    assert 1 <= moves <= took / HOLD + 1
    three.calm()


def test_a_silent_agent_is_neutral(three: Pool) -> None:
    host = three.boxes["app2"].host
    [agent] = [one for one in host.processes() if "lbctl_agent.py" in one.command]
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        eventually(lambda: three.agents()["app2"]["state"] == "silent", PATIENCE)
        assert three.weights() == {"app1": 8, "app2": 8, "app3": 8}
        assert "its agent is silent" in three.servers()["app2"]["because"]
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    eventually(lambda: three.agents()["app2"]["state"] == "speaks", PATIENCE)


def test_of_two_one_leaves_and_the_last_never_does() -> None:
    with pool(2) as two:
        two.boxes["app1"].fill(int(15.5 * MIB))
        eventually(lambda: two.weights() == {"app1": 0, "app2": 8}, PATIENCE)
        assert two.served() == {"app2"}
        two.boxes["app2"].fill(int(15.9 * MIB))
        eventually(lambda: two.weights() == {"app1": 8, "app2": 8}, PATIENCE)
        assert two.served() == {"app1", "app2"}
        services = json.loads(two.lab.gateway.lbctl("get", "services", "-j").stdout)
        assert services[0]["state"] == "overloaded"
        assert "web: overloaded (every server is; load is spread evenly)" in two.log()
