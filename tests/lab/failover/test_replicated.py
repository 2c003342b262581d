"""600 TCP connections, half of them idle, through everything that can happen to a pair: with
replication none is lost, whether the scheduler hashes or remembers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.lab import Lab, standard
from tests.lab.failover.pair import CROSSED, OTHER_PORT, PORT, VIP, Caller, Pair

pytestmark = [pytest.mark.lab, pytest.mark.long]
LONG, IDLE, RATE = 300, 300, 20.0
ROUND = 4.0  # seconds in which every connection that asks has asked


@pytest.fixture(params=["mh", "rr"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with Lab(standard(servers=3, gateways=2)) as lab:
        made = Pair(lab, request.param, tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.close()


def unhurt(caller: Caller, after: str) -> None:
    time.sleep(ROUND)  # questions are asked meanwhile: what is lost shows by then
    assert caller.lost() == [], after
    print(f"after {after}: none lost")


def test_no_connection_is_lost(pair: Pair) -> None:
    one, two = pair.one, pair.two
    with pair.traffic(LONG, IDLE, RATE) as caller:
        time.sleep(0.5)  # the replica's lag, and more

        one.crash()
        two.expect("active")
        two.author()
        unhurt(caller, "a crash")

        one.come_back()
        one.synced()
        one.expect("active")
        one.author()
        two.synced()
        unhurt(caller, "a return with preempt: when-synced")

        one.stop_vrrp()
        two.expect("active")
        two.author()
        unhurt(caller, "a graceful stop")
        one.start_vrrp()
        one.expect("active")
        one.author()
        two.synced()
        unhurt(caller, "another return")

        pair.apply(app1=3)
        time.sleep(0.5)
        one.crash()
        two.expect("active")
        two.author()
        unhurt(caller, "a change of the pool and a crash")
        one.come_back()
        one.synced()
        one.expect("active")
        one.author()
        two.synced()

        one.host.lbctl("drain", "web/app2", "--reason", "lab")
        time.sleep(0.5)
        one.crash()
        two.expect("active")
        two.author()
        unhurt(caller, "a crash in the middle of a drain")
        one.come_back()
        one.synced()
        one.expect("active")
        one.author()
        two.synced()

        one.crash()
        two.expect("active")
        two.author()
        one.come_back()
        one.synced()
        one.expect("active")
        one.author()
        two.synced()
        one.crash()
        two.expect("active")
        unhurt(caller, "a double failover")
        counted = caller.end()
    assert caller.lost() == []
    assert counted["open"] == LONG + IDLE
    print(f"{pair.scheduler}: {counted}")


@pytest.fixture
def crossed(tmp_path: Path) -> Iterator[Pair]:
    with Lab(standard(servers=3, gateways=2)) as lab:
        made = Pair(lab, "mh", tmp_path, crossed=True)
        try:
            made.start()
            yield made
        finally:
            made.close()


def test_both_are_active_and_either_goes_on_for_the_other(crossed: Pair) -> None:
    one, two = crossed.one, crossed.two
    mine, other = f"{VIP}:{PORT}/tcp", f"{CROSSED}:{OTHER_PORT}/tcp"
    web = crossed.traffic(150, 50, RATE)
    shop = crossed.traffic(150, 50, RATE, CROSSED, OTHER_PORT)
    with web as caller, shop as second:
        unhurt(caller, "traffic through both")
        shown = one.host.lbctl("ha", "peer").stdout
        assert f"ours: {mine}" in shown
        assert f"theirs: {other}" in shown
        for gateway in (one, two):
            verdicts = json.loads(gateway.host.lbctl("stats", "-j").stdout)["verdicts"]
            assert verdicts["forward"] > 100, gateway.host.name

        two.crash()
        one.expect("active")
        one.author(mine, other)
        unhurt(second, "a crash of the second gateway (its own)")
        unhurt(caller, "a crash of the second gateway (the first one's)")
        two.come_back()
        two.expect("active", "cross")
        two.author(other)
        one.synced(other)
        two.synced(mine)

        one.crash()
        two.expect("active")
        two.author(mine, other)
        unhurt(caller, "a crash of the first gateway (its own)")
        unhurt(second, "a crash of the first gateway (the second one's)")
        assert caller.end()["open"] == second.end()["open"] == 200
    assert caller.lost() == second.lost() == []
