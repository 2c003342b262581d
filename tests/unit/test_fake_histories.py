"""Random histories through the data path in memory and the model. tests/bpf runs the same
through the program."""

import pytest

from lbctl.dataplane.faketraffic import FakeRoom
from lbctl.model import Listen
from tests.histories.history import TROUBLES, Kind, histories
from tests.histories.stand import TCP_LISTEN, UDP_LISTEN, FakePath, Stand

SLOTS, SETS = 64, 16


def place(port: int) -> tuple[int, int]:
    mixed = port * 2654435761 % 2**32
    return mixed >> 26, mixed % 1009 % SETS


def stand(listen: Listen, ways: int = 5) -> Stand:
    room = FakeRoom(place, SLOTS, ways)
    return Stand(listen, room, [FakePath(listen, room)])


@pytest.mark.parametrize(
    "schedulers", [("mh",), ("rr",), ("wrr",), ("mh", "rr", "wrr")], ids=" ".join
)
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_no_tcp_flow_leaves_a_server_that_lives(trouble, schedulers) -> None:
    tally = histories(lambda: stand(TCP_LISTEN), Kind(schedulers, trouble), range(4), 400)
    assert tally.broken == tally.deaf == tally.handshakes == 0, tally
    assert tally.flows > 300
    assert tally.late > 10, "no change met a handshake"


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_no_udp_flow_that_found_room_leaves_a_server_that_lives(scheduler) -> None:
    kind = Kind((scheduler,))
    tally = histories(lambda: stand(UDP_LISTEN, ways=10**6), kind, range(12), 500)
    assert tally.broken == tally.deaf == 0, tally
    assert tally.flows > 1000


def test_udp_agrees_with_the_model() -> None:
    assert histories(lambda: stand(UDP_LISTEN), Kind(("mh", "rr")), range(4), 400).flows > 300
