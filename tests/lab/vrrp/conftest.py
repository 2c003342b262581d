"""A pair of gateways for VRRP tests, and an ear on the switch between them."""

from collections.abc import Iterator

import pytest

from lbctl.lab import Lab, standard
from tests.lab.vrrp.stand import Stand


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """Two gateways and a client, with IPv6."""
    with Lab(standard(servers=0, gateways=2, ipv6=True)) as made:
        yield made


@pytest.fixture
def stand(pair: Lab) -> Iterator[Stand]:
    """Nothing runs yet; all is ended and plugged in again afterwards."""
    with Stand(pair) as made:
        yield made
