"""Hundreds of connections through a gateway to which everything happens at once: none breaks
but those of killed servers, and next to no handshake."""

import random
import time
from collections.abc import Iterator

import pytest

from lbctl.lab import Lab, standard
from tests.lab.chaos import Chaos, RingWatch

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(standard(servers=6)) as made:
        yield made


def live_through(lab: Lab, scheduler: str, changes: int, long: int, rate: float) -> None:
    chaos = Chaos(lab, scheduler, seed=1)
    chaos.up()
    pause = random.Random(2)
    with RingWatch(lab.gateway.pins).watching() as watch, chaos.traffic(long, rate) as caller:
        began, said = time.monotonic(), []
        for _ in range(changes):
            at = time.monotonic()
            said.append(f"{at - began:7.2f} {chaos.change()}")
            time.sleep(pause.uniform(0, 0.5))
        seconds = time.monotonic() - began
    verdict = chaos.judge(caller, watch, rate)
    print(f"{scheduler}: {sum(chaos.done.values())} changes in {seconds:.0f} s: {verdict}")
    print(dict(chaos.done))
    story = "\n".join([*said, *(f"{b.at - began:7.2f} {b}" for b in verdict.unexcused[:20])])
    assert not verdict.unexcused, story
    assert len(verdict.in_flight) <= max(1, verdict.counted["new"] / 1000), verdict
    assert verdict.counted["new"] >= 0.5 * rate * seconds
    assert verdict.counted["open"] == long


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_no_connection_breaks_by_ten_changes(lab: Lab, scheduler: str) -> None:
    live_through(lab, scheduler, changes=10, long=100, rate=60)


@pytest.mark.long
@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_no_connection_breaks_by_sixty_changes(lab: Lab, scheduler: str) -> None:
    live_through(lab, scheduler, changes=60, long=500, rate=300)
