"""Checks through servers: a `dr` server that lacks the VIP is found, though it answers at
its own address."""

import json
from collections.abc import Iterator

import pytest

from lbctl.lab import Lab, eventually, standard

pytestmark = pytest.mark.lab
PATIENCE = 20.0
CONFIG = """
apiVersion: lbctl/v1
gateway: {front: front, back: back, probe: [198.51.100.9/24, "2001:db8:2::9/64"]}
defaults: {mode: dr, check: {interval: 300ms, timeout: 250ms, fall: 2}}
services:
  web:
    listen: 192.0.2.10:80/tcp
    check: {type: http, through: true}
    servers: {app1: 198.51.100.11, app2: 198.51.100.12}
  web6:
    listen: "[2001:db8:1::10]:80/tcp"
    check: {type: tcp, through: true}
    servers: {app1: "2001:db8:2::11", app2: "2001:db8:2::12"}
  bad:
    listen: 192.0.2.12:80/tcp
    mode: nat
    check: http
    servers: {unroutable: 203.0.113.1, nobody: 198.51.100.77, blackholed: 203.0.113.200}
  straight:
    listen: 192.0.2.11:80/tcp
    check: http
    servers: {app1: 198.51.100.11, app2: 198.51.100.12}
"""
VIPS = ("192.0.2.10/32", "2001:db8:1::10/128")


class Scene:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def server(self, name: str) -> dict[str, str]:
        rows = json.loads(self.lab.gateway.lbctl("get", "servers", "-j").stdout)
        return next(row for row in rows if row["name"] == name)

    def until(self, name: str, health: str) -> str:
        """Its evidence, once it has this health."""
        found = lambda: self.server(name)["health"] == health  # noqa: E731
        eventually(found, PATIENCE)
        return self.server(name)["evidence"]

    def vips(self, server: str, verb: str) -> None:
        host = next(one for one in self.lab.servers if one.name == server)
        for vip in VIPS:
            host.run(["ip", "address", verb, vip, "dev", "lo"])


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Lab(standard(2, ipv6=True)) as lab:
        made = Scene(lab)
        for name in ("app1", "app2"):
            made.vips(name, "add")
        lab.gateway.run(["ip", "route", "add", "blackhole", "203.0.113.192/26"])
        lab.gateway.config(CONFIG)
        daemon = lab.gateway.daemon("--datapath", "fake")

        def answers() -> bool:
            assert daemon.alive, daemon.output()
            return lab.gateway.lbctl("get", "status", check=False).returncode == 0

        eventually(answers, PATIENCE)
        yield made


def test_a_server_without_the_vip_is_found(scene: Scene) -> None:
    for name in ("web/app1", "web/app2", "web6/app1", "web6/app2", "straight/app2"):
        scene.until(name, "up")
    scene.vips("app2", "del")
    assert "(through it to 192.0.2.10:80: has it that address?)" in scene.until("web/app2", "down")
    assert "[2001:db8:1::10]:80" in scene.until("web6/app2", "down")
    for name in ("web/app1", "web6/app1", "straight/app2"):
        assert scene.server(name)["health"] == "up"
    scene.vips("app2", "add")
    for name in ("web/app2", "web6/app2"):
        scene.until(name, "up")


@pytest.mark.parametrize(
    ("server", "evidence"),
    [
        ("unroutable", "network unreachable"),
        ("nobody", "timed out after 0.25 s (connecting)"),
        ("blackholed", "unreachable from this gateway"),
    ],
)
def test_where_no_packet_gets_is_told_apart(scene: Scene, server: str, evidence: str) -> None:
    said = scene.until(f"bad/{server}", "down")
    assert said.startswith("2 of 2 probes: ")
    assert evidence in said


def test_a_check_can_be_asked_for_and_says_which_way_it_goes(scene: Scene) -> None:
    said = scene.lab.gateway.lbctl("check", "web/app1").stdout
    assert "http 192.0.2.10:80 through 198.51.100.11" in said


def test_ways_come_and_go_with_their_servers(scene: Scene) -> None:
    lab = scene.lab
    [worker] = [w for w in json.loads(lab.gateway.lbctl("get", "status", "-j").stdout)["workers"]
                if w["through"]]  # fmt: skip

    def rules() -> int:
        command = ["nsenter", f"--net=/proc/{worker['pid']}/ns/net", "ip", "rule"]
        return lab.gateway.run(command).stdout.count("fwmark")

    assert rules() == 2
    lab.gateway.lbctl("del", "server", "web/app2", "--force")
    eventually(lambda: rules() == 1, PATIENCE)
    scene.until("web/app1", "up")
