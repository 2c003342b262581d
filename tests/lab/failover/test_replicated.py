"""600 TCP connections, half of them idle, through everything that can happen to a pair: with
replication none is lost, whether the scheduler hashes or remembers."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbctl.lab import Lab, eventually, standard
from tests.lab.failover.pair import Caller, Pair

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]
RATE = 20.0  # new connections a second beside those that last


def crash(pair: Pair) -> None:
    pair.one.told()
    pair.one.crash()
    pair.taken_over()


def comes_back(pair: Pair) -> None:
    """With `preempt: when-synced`."""
    pair.one.come_back()
    pair.taken_back()


def graceful_stop(pair: Pair) -> None:
    pair.one.stop_vrrp()
    pair.taken_over()


def vrrp_dies(pair: Pair) -> None:
    """Alone; its daemon goes on and believes to be the author until it hears otherwise."""
    pair.one.told()
    process = pair.one.running.pop("vrrp")
    process.kill(signal.SIGKILL)
    process.wait()
    pair.taken_over()


def begins_again(pair: Pair) -> None:
    pair.one.start_vrrp()
    pair.taken_back()


def pool_change_and_crash(pair: Pair) -> None:
    pair.apply(app1=3, app4=1)
    crash(pair)


def crash_in_the_middle_of_a_drain(pair: Pair) -> None:
    pair.one.host.lbctl("drain", "web/app2", "--reason", "lab")
    crash(pair)


def dies_with_its_links_up(pair: Pair) -> None:
    """Only its fence keeps it from fighting its successor."""
    pair.one.told()
    pair.one.kill()
    pair.taken_over()


def lives_again(pair: Pair) -> None:
    pair.one.start()
    pair.taken_back()


Act = Callable[[Pair], None]
ACTS: list[Act] = [
    *(crash, comes_back, graceful_stop, begins_again, pool_change_and_crash, comes_back),
    *(vrrp_dies, begins_again),
    *(crash_in_the_middle_of_a_drain, comes_back, crash, comes_back, crash),  # and once more
]


def play(pair: Pair, count: int, acts: list[Act]) -> None:
    """Half of the connections are idle all the time."""
    with pair.traffic(count // 2, count // 2, RATE) as caller:
        for act in acts:
            act(pair)
            unhurt(caller, act.__name__)
        counted = caller.end()
    assert caller.lost() == []
    assert counted["open"] == count
    print(f"{pair.scheduler}, {pair.mac} MAC: 0 lost of {count}; {counted}")


def unhurt(caller: Caller, after: str) -> None:
    caller.round()
    assert caller.lost() == [], after
    print(f"after {after}: none lost")


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    scheduler, mac = request.param
    with Lab(standard(servers=4, gateways=2)) as lab:
        made = Pair(lab, scheduler, tmp_path, mac=mac)
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("pair", [("rr", "virtual")], indirect=True, ids=str)
def test_neither_a_crash_nor_a_return_loses_a_connection(pair: Pair) -> None:
    play(pair, 60, [crash, comes_back, vrrp_dies, begins_again])


@pytest.mark.long
@pytest.mark.parametrize("pair", [("mh", "own"), ("rr", "own")], indirect=True, ids=str)
def test_nothing_that_happens_to_a_pair_loses_a_connection(pair: Pair) -> None:
    play(pair, 600, ACTS)


@pytest.mark.long
@pytest.mark.parametrize("pair", [("rr", "own")], indirect=True, ids=str)
def test_what_began_while_the_line_was_cut_goes_over_with_the_next(pair: Pair) -> None:
    pair.one.cut_line(True)
    eventually(lambda: not pair.one.peer()["connected"], 20)
    with pair.traffic(50, 50, RATE) as caller:
        unhurt(caller, "beginning without a line")
        pair.one.cut_line(False)
        pair.two.synced()
        crash(pair)
        unhurt(caller, "a crash")


@pytest.mark.long
@pytest.mark.parametrize("pair", [("mh", "virtual"), ("rr", "virtual")], indirect=True, ids=str)
def test_virtual_mac_fence_and_replication_together(pair: Pair) -> None:
    play(pair, 600, [dies_with_its_links_up, lives_again, crash, comes_back, graceful_stop])
