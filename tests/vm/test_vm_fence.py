"""A gateway on IPVS whose processes died or stand still falls silent by itself: the fence on
the interface's clsact hook is all that there is to it, for IPVS has no hook of ours.

At 1 s adverts, as Python is twenty times slower here. Adverts and what the dead one sends are
seen on the switch. What it takes is printed (`-rP`), and is this machine's: natively it is
measured by `make bench-fence`.
"""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest

from lbctl.lab import Lab, standard
from tests.lab.vrrp.speakers import Spec
from tests.lab.vrrp.stand import Stand
from tests.lab.vrrp.tap import Tap
from tests.lab.vrrp.test_fence import Blow, kill_all, kill_process, stop_all

pytestmark = [pytest.mark.ipvs, pytest.mark.lab, pytest.mark.long]
VIP, PORT = "192.0.2.10", 80
HIGH = Spec(VIP, priority=200, interval=1.0)
LOW = replace(HIGH, priority=100)
ONE, TWO = "192.0.2.2", "192.0.2.3"
UNICAST = replace(HIGH, source=ONE, peer=TWO), replace(LOW, source=TWO, peer=ONE)
DOWN = 3 + 156 / 256  # seconds: the successor's Active_Down_Interval
SLOW = 60.0  # seconds that a start takes at most
LATE = 1.0  # seconds that a takeover may be late in this machine


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Both gateways balance by IPVS, to servers that are not there: a SYN is passed on, or a
    neighbour is asked for, and either is seen."""
    with Lab(standard(servers=0, gateways=2)) as made:
        for host in made.gateways:
            host.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
            host.run(["ipvsadm", "-A", "-t", f"{VIP}:{PORT}", "-s", "rr"])
            host.run(["ipvsadm", "-a", "-t", f"{VIP}:{PORT}", "-r", "192.0.2.99:80", "-m"])
        yield made


@pytest.fixture
def stand(lab: Lab) -> Iterator[Stand]:
    with Stand(lab) as made:
        yield made


@pytest.mark.parametrize("blow", [kill_process, kill_all, stop_all], ids=lambda one: one.__name__)
@pytest.mark.parametrize("cast", ["multicast", "unicast"])
@pytest.mark.parametrize("mac", ["virtual", "own"])
def test_it_says_and_forwards_nothing_once_its_lease_is_past(
    stand: Stand, mac: str, cast: str, blow: Blow
) -> None:
    specs = (HIGH, LOW) if cast == "multicast" else UNICAST
    first, second = (replace(spec, own_mac=mac == "own") for spec in specs)
    stand.one.start(first)
    stand.expect(stand.one, "active", within=SLOW)
    stand.two.start(second)
    stand.expect(stand.two, "backup", within=SLOW)
    with Tap(stand.lab, "lb1-front", VIP, HIGH.vrid) as tap:

        def ask() -> None:
            tap.ask(VIP)
            tap.knock(VIP, PORT)

        begun = monotonic()
        stand.listen(1.0, ask)
        assert tap.heard(begun)  # while it lives it answers
        pids = [one.pid for one in stand.one.host.processes()]
        blow(stand.one)
        dead = monotonic()
        stand.expect(stand.two, "active", within=SLOW)
        stand.listen(2.0, ask)
        assert tap.heard(dead + DOWN) == []
    last = max(s.at for s in stand.ear.said if s.source == ONE)
    took = min(s.at for s in stand.ear.said if s.source == TWO and s.at > dead) - last
    print(f"IPVS, {mac} MAC, {cast}, {blow.__name__}: successor {took:.3f} s after the last advert")
    assert took < DOWN + LATE
    if blow is stop_all:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
