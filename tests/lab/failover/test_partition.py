"""Two gateways that cannot hear each other. Whichever side clients are on, none of their
connections is lost, neither then nor when the two meet again."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbctl.lab import Lab, eventually, standard
from tests.lab.failover.pair import VIP, Pair
from tests.lab.vrrp.ear import Ear

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]
INTERVAL, NOISE = 0.1, 0.05  # seconds: of adverts, and of a busy machine
COUNT = 100


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    scheduler, mac, track = request.param
    with Lab(standard(servers=3, gateways=2)) as lab:
        made = Pair(lab, scheduler, tmp_path, mac=mac, track=track)
        try:
            made.start()
            yield made
        finally:
            made.close()


def the_second_is_cut_off(pair: Pair, apart: bool) -> None:
    """Clients and servers are with the first, which goes on afterwards."""
    pair.two.part(apart)


def they_do_not_hear_each_other(pair: Pair, apart: bool) -> None:
    """Hosts hear both, and go with who announced last: the second."""
    for gateway in (pair.one, pair.two):
        gateway.deafen(apart)


@pytest.mark.parametrize(
    ("pair", "part"),
    [
        pytest.param(("rr", "virtual", ""), the_second_is_cut_off, id="rr-virtual-cut off"),
        pytest.param(("mh", "own", ""), they_do_not_hear_each_other, id="mh-own-deaf"),
        pytest.param(
            ("rr", "own", ""), the_second_is_cut_off, id="rr-own-cut off", marks=pytest.mark.long
        ),
        pytest.param(
            ("mh", "virtual", ""),
            they_do_not_hear_each_other,
            id="mh-virtual-deaf",
            marks=pytest.mark.long,
        ),
    ],
    indirect=["pair"],
)
def test_both_are_active_and_one_again_when_they_meet(
    pair: Pair, part: Callable[[Pair, bool], None], tmp_path: Path
) -> None:
    one, two = pair.one, pair.two
    with pair.traffic(COUNT // 2, COUNT // 2, 20.0) as caller:
        one.told()
        part(pair, True)
        two.expect("active")
        one.expect("active")
        caller.round()
        assert caller.lost() == []
        eventually(lambda: not one.peer()["connected"] and not two.peer()["connected"], 20)

        with Ear(pair.lab, tmp_path / "heard.pcap") as ear:
            part(pair, False)
            healed = time.monotonic()
            two.expect("backup")
            one.expect("active")
            caller.round()
            assert caller.lost() == []
            one_again(pair, ear, healed)
        pair.taken_back()
        caller.round()
        counted = caller.end()
    assert caller.lost() == []
    assert counted["open"] == COUNT


def one_again(pair: Pair, ear: Ear, healed: float) -> None:
    """The second is silent an advert later, and the first has told the network."""
    first, second = (str(gateway.host.address) for gateway in (pair.one, pair.two))

    def heard(source: str) -> list[float]:
        """When it claimed to be active."""
        said = ear.listen()
        return [one.at for one in said if one.at > healed and one.source == source and one.priority]

    began = min(eventually(lambda: heard(first)))
    eventually(lambda: max(heard(first)) > began + 2 * (INTERVAL + NOISE))
    assert max(heard(second), default=began) < began + INTERVAL + NOISE
    if pair.mac == "own":  # an advert from a virtual MAC tells it by itself
        assert VIP in {announced.address for announced in ear.announced()}


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(("rr", "own", "web"), id="rr-own"),
        pytest.param(("mh", "virtual", "web"), id="mh-virtual", marks=pytest.mark.long),
    ],
    indirect=True,
)
def test_who_sees_no_server_takes_no_part_and_comes_back_with_a_copy(pair: Pair) -> None:
    """Clients and servers are with the second, which the first cannot hear."""
    one, two = pair.one, pair.two
    with pair.traffic(COUNT // 2, COUNT // 2, 20.0) as caller:
        one.told()
        one.part(True)
        pair.taken_over()
        one.expect("fault")
        caller.round()
        assert caller.lost() == []
        eventually(lambda: not two.peer()["connected"], 20)
        one.part(False)
        pair.taken_back()
        caller.round()
        counted = caller.end()
    assert caller.lost() == []
    assert counted["open"] == COUNT
