"""Random histories of UDP with room for every record, through program, fake and model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.model import Gateway
from tests.bpf.gateway import PacketGateway
from tests.bpf.program_path import run
from tests.histories.history import Kind
from tests.histories.stand import UDP_LISTEN

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=20000), shared_pins)
    yield gateway
    gateway.close()


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_no_udp_flow_leaves_a_server_that_lives(gateway: PacketGateway, scheduler: str) -> None:
    tally = run(gateway, UDP_LISTEN, Kind((scheduler,)), range(3), 600)
    assert tally.broken == 0, tally
    assert tally.flows > 300


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_a_hundred_udp_histories(gateway: PacketGateway, scheduler: str) -> None:
    tally = run(gateway, UDP_LISTEN, Kind((scheduler,)), range(1000, 1100), 400)
    print(tally)
    assert tally.broken == 0, tally
