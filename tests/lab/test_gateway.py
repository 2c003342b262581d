"""A gateway at work in the lab, driven as an operator would: through the CLI."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbctl.dataplane.xdp.maps import Maps
from lbctl.errors import Exit
from lbctl.lab import Lab, eventually, kernel
from lbctl.lab.lab import GatewayHost, Process
from lbctl.lab.load import Pace, failures, send
from lbctl.lab.pins import pinned

pytestmark = pytest.mark.lab

VIP = "http://192.0.2.10:80/"
CONFIG = """\
apiVersion: lbctl/v1
gateway: {front: front, back: back, datapath: xdp}
services:
  web:
    listen: 192.0.2.10:80/tcp
    scheduler: rr
    check: {type: http, path: /}
    servers: {app1: 198.51.100.11:80, app2: 198.51.100.12:80, app3: 198.51.100.13:80}
"""
# What only the control plane writes, and is small enough to print.
CONTROL = {"gateway", "listens", "servers", "listen_index", "return_index", "meta", "tx_ports"}
CONTROL |= {"direct4", "direct6"}


@pytest.fixture(scope="module")
def gateway(lab: Lab) -> GatewayHost:
    lab.gateway.config(CONFIG)
    return lab.gateway


@contextmanager
def running(gateway: GatewayHost) -> Iterator[Process]:
    """A daemon that answers, with every server seen; stopped as a service manager would."""
    daemon = gateway.daemon()
    try:
        eventually(lambda: healths(gateway) == {"up"}, timeout=40)
        yield daemon
    finally:
        daemon.kill(signal.SIGTERM)
        assert daemon.wait() == 0


def healths(gateway: GatewayHost) -> set[str]:
    done = gateway.lbctl("get", "servers", "-j", check=False)
    return {row["health"] for row in json.loads(done.stdout)} if done.returncode == 0 else set()


def dumps(pins: Path) -> dict[str, object]:
    """Contents of the maps that only the control plane writes, as bpftool reads them; and
    of the ring and the turns of the one listen, which bpftool would print for minutes."""
    maps = Maps(pins)
    found: dict[str, object] = {
        "ring": bytes(maps.ring_page(1)),
        "old": bytes(maps.old_page(1)),
        "turns": bytes(maps.turns(0)) + bytes(maps.turns(1)),
    }
    for name in CONTROL:
        dump = ["bpftool", "-j", "map", "dump", "pinned", str(pins / name)]
        found[name] = json.loads(kernel.call(dump))
    return found


def writes(gateway: GatewayHost) -> dict[str, int]:
    found: dict[str, int] = json.loads(gateway.lbctl("get", "status", "-j").stdout)["writes"]
    return {kind: count for kind, count in found.items() if count}


def test_a_start_with_the_same_file_writes_nothing(gateway: GatewayHost) -> None:
    with running(gateway):
        pass
    objects, contents = pinned(gateway.pins), dumps(gateway.pins)
    with running(gateway):
        assert writes(gateway) == {}
        assert pinned(gateway.pins) == objects
        assert dumps(gateway.pins) == contents


def test_the_data_path_serves_while_no_process_of_ours_runs(lab: Lab, gateway: GatewayHost) -> None:
    with running(gateway):
        pass
    assert not failures(send(lab.client, VIP, Pace(total=30)))


def test_daemon_and_worker_are_small_and_hold_no_compiler(gateway: GatewayHost) -> None:
    with running(gateway) as daemon:
        ours = [one.pid for one in gateway.processes()]
        assert daemon.pid in ours
        resident = 0
        for pid in ours:
            status = Path(f"/proc/{pid}/status").read_text()
            resident += int(status.partition("VmRSS:")[2].split()[0])
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            files = [Path(line.split(maxsplit=5)[5]).name for line in maps if "/" in line]
            assert not [name for name in files if "bcc" in name or "LLVM" in name]
        assert resident * 1024 < 120e6, f"{resident} KiB"


def test_a_server_that_nobody_finds_stays_on_its_status_and_the_rest_is_applied(
    lab: Lab, gateway: GatewayHost
) -> None:
    with running(gateway):
        more = CONFIG.replace("check: {type: http, path: /}", "check: none")
        more = more.replace("servers: {", "servers: {ghost: 198.51.100.99:80, ")
        done = gateway.lbctl("apply", gateway.config(more), check=False)
        assert done.returncode == Exit.PARTIAL, done.stderr
        assert "198.51.100.99 does not answer on back" in done.stdout + done.stderr
        assert "198.51.100.99 does not answer on back" in gateway.lbctl("why", "web/ghost").stdout
        assert not failures(send(lab.client, VIP, Pace(total=30)))
        gateway.lbctl("apply", gateway.config(CONFIG))


def test_trace_and_nic_say_what_the_loaded_program_does(gateway: GatewayHost) -> None:
    with running(gateway):
        words = ["trace", "--from", "192.0.2.100:40000", "--to", "192.0.2.10:80/tcp"]
        said = gateway.lbctl(*words).stdout
        assert "=> forward (redirect, out on back), to web/app" in said
        assert "checksums: right" in said
        answer = json.loads(gateway.lbctl(*words, "-j").stdout)
        assert (answer["service"], answer["verdict"]) == ("web", "forward")
        wrong = gateway.lbctl(*words[:-1], "192.0.2.10:80/sctp", check=False)
        assert (wrong.returncode, "sctp cannot" in wrong.stderr) == (Exit.USAGE, True)
        rows = json.loads(gateway.lbctl("get", "nic", "-j").stdout)
        assert [(row["name"], row["mode"]) for row in rows] == [
            ("front", "native"),
            ("back", "native"),
        ]
        assert "front: in the way: a veth takes frames" in gateway.lbctl("get", "nic").stdout


def test_a_hook_that_is_taken_is_told_with_the_command_that_frees_it(
    gateway: GatewayHost, tmp_path: Path
) -> None:
    with running(gateway):
        places = ["--state", tmp_path, "--pins", gateway.pins.with_name("other")]
        words = ["daemon", "--config", gateway.file, "--socket", tmp_path / "socket", *places]
        done = gateway.lbctl(*words, check=False)
        assert done.returncode == Exit.FAILED
        assert "front: program" in done.stderr
        assert "ip link set front xdp off" in done.stderr
