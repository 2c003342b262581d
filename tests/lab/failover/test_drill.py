"""`lbctl ha failover --drill` on a real pair, seen from a client."""

import json
import shlex
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lbctl.lab import Lab, eventually, standard
from lbctl.lab.kernel import NETNS, namespace
from tests.lab.failover.pair import PORT, VIP, Gateway, Pair
from tests.lab.vrrp.spaces import inside

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Lab(standard(servers=2, gateways=2)) as lab:
        made = Pair(lab, "mh", tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.close()


def drill(gateway: Gateway, *words: str) -> CompletedProcess[str]:
    via = shlex.join(gateway.pair.lab.client.command([]))
    command = ("ha", "failover", "front", "--control", gateway.control, "--drill", "--via", via)
    return gateway.host.lbctl(*command, *words, check=False)


def greet(address: str) -> None:
    """Have a gateway learn the client's MAC; nobody listens there."""
    with socket.socket() as one:
        one.connect_ex((address, 9))


def knows(gateway: Gateway, address: str) -> bool:
    """Whether it has the MAC of a machine on the front network."""
    shown = gateway.host.run(["ip", "-4", "neighbour", "show", "dev", "front"]).stdout
    return f"{address} lladdr " in shown


def test_a_drill_measures_a_hand_over_and_the_way_back(pair: Pair) -> None:
    one, two = pair.one, pair.two
    refused = drill(two)
    assert refused.returncode == 9
    assert "front: this gateway is not Active: it is backup" in refused.stderr

    # Who never spoke with a client asks for its MAC first, and drops the packet meanwhile: the
    # Backup asks for those that the Active knows.
    client = pair.lab.client
    inside(NETNS / namespace(pair.lab.name, client.name), partial(greet, one.host.address))
    eventually(lambda: knows(two, client.address), timeout=10)

    done = drill(one, "--back", "--held", "40", "-j")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout)
    assert record["targets"] == [f"{VIP}:{PORT}"]
    for passage in (record["there"], record["back"]):
        assert passage["probes"] > 50
        assert (passage["lost"], passage["broken"], passage["connections"]) == (0, 0, 40)
    assert one.roles()["front"] == "active"
    assert json.loads(one.host.lbctl("ha", "drills", "-j").stdout) == [record]
    assert "0 of 40 connections lost" in one.host.lbctl("ha", "drills").stdout
    assert "front: drill: to " in one.host.lbctl("get", "events").stdout

    two.running.pop("daemon").kill(signal.SIGKILL, group=True)
    eventually(lambda: not one.peer()["connected"])
    refused = drill(one)
    assert refused.returncode == 9
    assert "there is no Backup: no line to " in refused.stderr
    assert one.roles()["front"] == "active"
