"""The lab itself: it routes, it serves, and it goes without a trace."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lbctl.lab import Lab, LabError, eventually, kernel, standard
from lbctl.lab import lab as labs

pytestmark = pytest.mark.lab


def test_the_client_reaches_each_server_through_the_gateway(lab: Lab) -> None:
    for server in lab.servers:
        answer = lab.client.run(["curl", "-si", "-m", "5", f"http://{server.address}/"]).stdout
        assert f"\nX-Server: {server.name}\n" in answer
        assert answer.endswith(f"\n\n{server.name}\n")
    route = lab.client.run(["ip", "route", "get", lab.servers[0].address]).stdout
    assert f"via {lab.gateway.address}" in route


def test_links_are_as_xdp_wants_them(lab: Lab) -> None:
    for host in lab:
        for nic in host.spec.nics:
            assert "tx-checksumming: off" in host.run(["ethtool", "-k", nic.name]).stdout
            assert nic.mac in host.run(["ip", "-br", "link", "show", nic.name]).stdout
    switch = kernel.namespace(lab.name, kernel.SWITCH)
    said = kernel.call(kernel.inside(switch, ["ethtool", "-k", "lb1-front"]))
    assert "generic-receive-offload: on" in said


def test_every_link_is_up_at_once() -> None:
    with Lab(standard(servers=1)) as lab:
        states = [host.run(["ip", "-br", "link", "show", "type", "veth"]).stdout for host in lab]
        assert not any("DOWN" in state for state in states), states


def test_nobody_speaks_ipv6_unasked(lab: Lab) -> None:
    for host in lab:
        assert "inet6" not in host.run(["ip", "address"]).stdout


def test_a_killed_web_server_is_dead_at_once_and_can_start_again(lab: Lab) -> None:
    server = lab.servers[0]
    fetch = ["curl", "-s", "-m", "5", f"http://{server.address}/"]
    server.web.kill()
    assert server.processes() == []
    assert lab.client.run(fetch, check=False).returncode == 7  # connection refused
    server.web.start()
    assert lab.client.run(fetch).stdout == f"{server.name}\n"


def test_commands_of_hosts(lab: Lab) -> None:
    assert lab.client.run(["sh", "-c", "exit 7"], check=False).returncode == 7
    with pytest.raises(LabError, match="client: sh -c exit 7: exit code 7"):
        lab.client.run(["sh", "-c", "exit 7"])
    with pytest.raises(LabError, match="no host 'app9'"):
        lab.host("app9")
    assert lab.gateway.run(["sh", "-c", "echo $LBCTL_SOCKET"]).stdout == f"{lab.gateway.socket}\n"


def test_processes_are_tracked_and_killed(lab: Lab) -> None:
    process = lab.client.start(["sleep", "60"])
    assert [one.pid for one in lab.client.processes()] == [process.pid]
    process.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_a_process_without_a_command_line_is_seen_and_ended(lab: Lab, tmp_path: Path) -> None:
    """As every process is for a moment, in the middle of its exec."""
    os.mkfifo(tmp_path / "silent")
    argv = ["bash", "-c", f"exec -a '' cat 0<>{tmp_path}/silent"]
    process = lab.client.start(argv)
    nameless = kernel.Running(process.pid, "[cat]")
    eventually(lambda: lab.client.processes() == [nameless])
    kernel.end([lab.client.namespace])
    assert process.wait() == -signal.SIGTERM


def is_alive(pid: int) -> bool:
    """Not even a zombie that its parent has yet to hear of counts."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_down_ends_all_even_what_left_its_group_and_hides_from_sigterm() -> None:
    with Lab(standard(servers=1)) as lab:
        script = "trap '' TERM; echo here; while :; do sleep 60; done"
        process = lab.client.start(["setsid", "-f", "sh", "-c", script], log="stubborn.log")
        eventually(lambda: process.output() == "here\n")
        pids = [one.pid for host in lab for one in host.processes()]
        pins, spaces = lab.bpffs, kernel.namespaces(lab.name, lab.topology)
        assert os.path.ismount(pins)
    assert not any(is_alive(pid) for pid in pids)
    assert not any(kernel.exists(space) for space in spaces)
    assert not lab.home.exists()


def test_up_twice_says_so_and_down_twice_is_fine() -> None:
    lab = Lab(standard(servers=1))
    lab.up()
    try:
        with pytest.raises(LabError, match="is up already"):
            Lab(standard(servers=1), lab.name).up()
        assert Lab.open(lab.name).servers[0].web.pid  # which did no harm
    finally:
        assert lab.down()
    assert not lab.down()
    with pytest.raises(LabError, match="there is no lab"):
        Lab.open(lab.name)


def test_a_foreign_namespace_is_neither_used_nor_removed() -> None:
    lab = Lab(standard(servers=1))
    foreign = kernel.namespace(lab.name, "app1")
    kernel.call(["ip", "netns", "add", foreign])
    try:
        with pytest.raises(LabError, match=f"namespace {foreign} exists"):
            lab.up()
        assert not lab.down()
        assert kernel.exists(foreign)
    finally:
        kernel.call(["ip", "netns", "delete", foreign])


@pytest.mark.parametrize("after", ["mount_bpffs", "_ip", "_sysctl", "call"])
def test_down_cleans_up_after_a_crash_in_the_middle(after: str) -> None:
    """`up` is ended by SIGKILL, as the out-of-memory killer would."""
    name = labs.unique_name()
    crash = f"""
import os, signal
from lbctl.lab import Lab, kernel, standard
real, count = kernel.{after}, 0
def crashing(*args):
    global count
    done = real(*args)
    count += 1
    if count == 2 or {after!r} == "mount_bpffs":
        os.kill(os.getpid(), signal.SIGKILL)
    return done
kernel.{after} = crashing
Lab(standard(), {name!r}).up()
"""
    assert subprocess.run([sys.executable, "-c", crash], check=False).returncode == -9
    assert name in labs.names()
    with pytest.raises(LabError, match="was left half made"):
        Lab(standard(), name).up()
    assert labs.remove(name)
    assert name not in labs.names()
    assert not any(kernel.exists(space) for space in kernel.namespaces(name, standard()))
    with Lab(standard(), name) as again:
        assert again.client.run(["curl", "-sf", f"http://{again.servers[0].address}"]).stdout


def test_a_failed_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbctl.lab.web.CONFIG", "nonsense;")
    lab = Lab(standard(servers=1))
    with pytest.raises(LabError, match=r"nginx.*unknown directive"):
        lab.up()
    assert lab.name not in labs.names()
    assert not kernel.exists(kernel.namespace(lab.name, "client"))


def test_two_labs_do_not_meet(lab: Lab) -> None:
    with Lab(standard(servers=1, gateways=2, ipv6=True)) as other:
        assert other.name != lab.name
        assert [host.name for host in other.gateways] == ["lb1", "lb2"]
        other.host("lb1").run(["ip", "address", "add", "2001:db8:1::1/64", "dev", "front"])
        other.host("lb1").run(["ip", "address", "add", "2001:db8:2::1/64", "dev", "back"])
        url = "http://[2001:db8:2::11]/"
        assert other.client.run(["curl", "-sf", "-m", "5", url]).stdout == "app1\n"
