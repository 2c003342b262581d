"""Connections outlive their gateway: XDP, `mh`, virtual MAC on both sides."""

import json
import signal
import time
from collections.abc import Iterator

import pytest

from lbctl.lab import Lab, eventually, standard
from tests.lab.failover.gateways import ECHO, PORT, VIP, Connections, Side
from tests.lab.signalling import signal_all
from tests.lab.vrrp.tap import Tap

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]
DOWN = 0.3 + 0.1 * 156 / 256  # seconds: the successor's Active_Down_Interval


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(standard(servers=3, gateways=2)) as made:
        for server in made.servers:
            server.start(["python3", "-c", ECHO], log="echo.log")
        yield made


@pytest.fixture
def pair(lab: Lab) -> Iterator[tuple[Side, Side]]:
    """The first is active, the second is ready."""
    sides = Side(lab.gateways[0]), Side(lab.gateways[1])
    for side in sides:
        side.start()
    for side, role in zip(sides, ("active", "backup"), strict=True):
        side.serves()
        side.expect(role)
    yield sides
    for side in sides:
        signal_all(side.pids())
        eventually(lambda side=side: not side.pids())


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.long)])
def test_crash_return_and_hand_over_lose_no_connection(
    lab: Lab, pair: tuple[Side, Side], count: int
) -> None:
    one, two = pair
    connections = Connections(lab, count)
    busy = connections.all[::2]  # the others say nothing until the end of each act
    assert connections.lost() == 0
    with Tap(lab, "lb1-front", VIP, 7) as tap:
        signal_all(one.pids())
        dead = time.monotonic()
        assert connections.lost(busy) == 0
        assert connections.lost() == 0
        for _ in range(20):
            tap.ask(VIP)
            time.sleep(0.01)
        assert tap.heard(dead + DOWN + 0.05) == []  # its XDP program is still there
    two.expect("active")

    one.start()  # and takes over again, by its priority
    one.serves()
    one.expect("active")
    two.expect("backup")
    assert connections.lost() == 0

    one.hand_over()
    two.expect("active")
    assert connections.lost(busy) == 0

    signal_all(two.pids(), signal.SIGSTOP)
    one.expect("active")
    assert connections.lost() == 0
    connections.close()


def test_what_is_stopped_forwards_nothing_either(lab: Lab, pair: tuple[Side, Side]) -> None:
    """SIGSTOP of all that is ours: the packet program goes on to see frames, and drops them."""
    one, two = pair
    assert one.vrrp is not None
    one.vrrp.kill(signal.SIGSTOP)
    two.expect("active")
    with Tap(lab, "lb1-front", VIP, 7) as tap:
        since = time.monotonic()
        tap.knock(VIP, PORT)
        assert tap.heard(since) == []
    eventually(lambda: fenced(one) >= 2, 20)  # counts are sampled every few seconds
    one.vrrp.kill(signal.SIGCONT)


def fenced(side: Side) -> int:
    """Packets that the fence dropped since the maps were made."""
    verdicts = json.loads(side.host.lbctl("stats", "-j").stdout)["verdicts"]
    return int(verdicts.get("drop_fenced", 0))
