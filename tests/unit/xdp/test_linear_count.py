"""The estimate of a draining server's flows, whose slots alone are known."""

import random

import pytest

from lbctl.dataplane.xdp.flows import linear_count


def test_nobody() -> None:
    assert linear_count(0, 0) == 0
    assert linear_count(0, 200) == 0


@pytest.mark.parametrize("flows", [1, 10, 100, 400])
def test_it_is_near_the_truth(flows: int) -> None:
    seeded = random.Random(flows)
    busy = len({seeded.randrange(200) for _ in range(flows)})
    assert abs(linear_count(busy, 200) - flows) <= 0.15 * flows + 2


def test_when_every_slot_is_busy_it_says_no_less_than_it_knows() -> None:
    assert linear_count(200, 200) > 1000
