"""Room in the indexes that packets are looked up in."""

import random
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.index import Index
from lbctl.errors import DataPlaneError
from lbctl.model import Address

TCP = 6
CHANCE = random.Random(3)
NET4, NET6 = int(ip_address("10.0.0.0")), int(ip_address("2001:db8::"))
ALL = abi.SERVERS - 1
LAYOUTS: dict[str, Callable[[int], Address]] = {
    "IPv4 in a row": lambda n: IPv4Address(NET4 + n),
    "IPv4 anywhere": lambda n: IPv4Address(NET4 + CHANCE.getrandbits(24)),
    "ten in each network": lambda n: IPv4Address(NET4 + (n // 10 << 8) + n % 10),
    "IPv6 in a row": lambda n: IPv6Address(NET6 + n),
    "IPv6 anywhere": lambda n: IPv6Address(NET6 + CHANCE.getrandbits(64)),
}


def keys(address: Address) -> Iterator[int]:
    """A server's, or a listen's."""
    yield abi.key(address, 8080, TCP)
    yield abi.key(address, 0, 0)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_server_that_there_may_be_finds_room(layout: Callable[[int], Address]) -> None:
    index = Index((abi.Bucket * abi.RETURN_BUCKETS)())
    for number in range(1, ALL + 1):
        for key in keys(layout(number)):
            index.put(key, number)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_listen_that_there_may_be_finds_room(layout: Callable[[int], Address]) -> None:
    index = Index((abi.Bucket * abi.LISTEN_BUCKETS)())
    for number in range(abi.LISTENS):
        for key in keys(layout(number)):
            index.put(key, number)


def test_an_index_that_is_full_says_so() -> None:
    index = Index((abi.Bucket * 4)())
    one, *others = (abi.key(IPv4Address(NET4 + n), 80, TCP) for n in range(4 * abi.WAYS + 1))
    for number, key in enumerate(others):
        index.put(key, number)
    with pytest.raises(DataPlaneError, match=r"no place in the index.*fewer listens or servers"):
        index.put(one, 1)


def test_a_way_holds_its_parts_side_by_side() -> None:
    index, key = Index((abi.Bucket * 4)()), abi.key(IPv4Address(NET4), 80, TCP)
    index.put(key, abi.OWN, ring=0xABCDEF, flags=abi.LISTEN_MEMORY)
    way = index.get(key)
    assert way is not None
    assert (way.number, way.flags) == (abi.OWN, abi.LISTEN_MEMORY)
    assert way.found >> abi.WAY_RING_SHIFT & 0xFFFFFF == 0xABCDEF
