"""What there is no room for is refused by name, alone, and leaves nothing behind."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from scapy.layers.inet import TCP

from lbctl.dataplane.converge import converge
from lbctl.dataplane.port import AddServer, AddService, RemoveService
from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.model import Destination, Endpoint, Gateway, Listen, Table
from lbctl.netlink import Netlink
from tests.bpf.gateway import PacketGateway
from tests.bpf.test_packets import client, service

pytestmark = pytest.mark.kernel

WEB, SHOP = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.11:80/tcp")
ONE, TWO = "198.51.100.11:80", "198.51.100.12:80"
ONLY_WEB = Table({WEB: service("mh", ONE)})
BOTH = Table({WEB: service("mh", ONE), SHOP: service("mh", TWO)})
SETTINGS = Gateway("front", ("back",))


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(SETTINGS, pins)
    yield gateway
    gateway.close()


def refusals(plane: XdpPlane, table: Table) -> list[str]:
    return [str(refusal.error) for refusal in converge(plane, table).refused]


def fill(plane: XdpPlane, index: str) -> None:
    """Every way that is not taken is somebody else's."""
    for bucket in getattr(plane._maps, index):
        for way in bucket.way:
            if way.key in (abi.KEY_EMPTY, abi.KEY_GONE):
                way.key = 2


def make_room(plane: XdpPlane, index: str) -> None:
    for bucket in getattr(plane._maps, index):
        for way in bucket.way:
            if way.key == 2:
                way.key = abi.KEY_EMPTY


def test_a_listen_without_pages_for_its_ring(gateway: PacketGateway) -> None:
    assert refusals(gateway.plane, ONLY_WEB) == []
    taken = gateway.plane._rings._taken
    before = bytes(taken)
    taken[:] = b"\1" * len(taken)
    for _ in range(2):  # it is tried again, later
        said, *_ = refusals(gateway.plane, BOTH)
        assert str(SHOP) in said
        assert f"all {abi.PAGES - 1} pages of rings are in use" in said
        assert gateway.plane.observe() == ONLY_WEB
        assert not gateway.plane._maps.meta.unsettled
        gateway.plane.tend()
    assert gateway.send(client() / TCP(sport=4, dport=80, flags="S")).verdict == "forward"
    again = gateway.reopen()
    assert again.plane.observe() == ONLY_WEB
    again.close()
    taken[:] = before
    assert refusals(gateway.plane, BOTH) == []
    assert gateway.plane.observe() == BOTH


def test_a_listen_that_a_process_left_without_a_ring(pins: Path, links: None) -> None:
    """As after SIGKILL, or an earlier version, between the listen and its ring."""
    gateway = PacketGateway(SETTINGS, pins)
    with closing(gateway):
        assert refusals(gateway.plane, BOTH) == []
        number = gateway.plane._registry.listens[SHOP]
        gateway.plane._maps.listens[number].ring = 0
        gateway.plane._maps.meta.unsettled = 1
    with closing(Netlink()) as netlink, closing(XdpPlane(SETTINGS, pins, netlink)) as plane:
        assert plane.observe() == BOTH
        assert plane._rings.span(number).pages == 1
        assert not plane._maps.meta.unsettled


def test_a_change_that_was_cut_off_and_has_no_room_ends_alone(pins: Path, links: None) -> None:
    gateway = PacketGateway(SETTINGS, pins)
    with closing(gateway):
        assert refusals(gateway.plane, BOTH) == []
        gateway.plane._registry.listen_index.remove(abi.key(SHOP.address, SHOP.port, 6))
        fill(gateway.plane, "listen_index")
        gateway.plane._maps.meta.unsettled = 1
    with closing(Netlink()) as netlink, closing(XdpPlane(SETTINGS, pins, netlink)) as plane:
        assert plane.observe() == ONLY_WEB
        assert not plane._maps.meta.unsettled
        make_room(plane, "listen_index")
        assert refusals(plane, BOTH) == []
        assert plane.observe() == BOTH


def test_a_listen_without_a_place_in_the_index(gateway: PacketGateway) -> None:
    assert refusals(gateway.plane, ONLY_WEB) == []
    fill(gateway.plane, "listen_index")
    assert any(str(SHOP) in one and "no place" in one for one in refusals(gateway.plane, BOTH))
    assert gateway.plane.observe() == ONLY_WEB
    make_room(gateway.plane, "listen_index")
    assert refusals(gateway.plane, BOTH) == []


def test_a_listen_that_comes_and_goes_in_one_change(gateway: PacketGateway) -> None:
    assert refusals(gateway.plane, ONLY_WEB) == []
    header = service("mh")
    server = AddServer(SHOP, Endpoint.parse(TWO), Destination(1))
    ops = [AddService(SHOP, header), server, RemoveService(SHOP)]
    assert gateway.plane.apply(ops) == []
    assert gateway.plane.observe() == ONLY_WEB
    assert gateway.plane.apply([*ops, AddService(SHOP, header), server]) == []
    assert gateway.plane.observe() == BOTH


def test_a_server_without_a_place_in_the_index_leaves_its_number(gateway: PacketGateway) -> None:
    plane = gateway.plane
    assert refusals(plane, ONLY_WEB) == []
    free = len(plane._registry._free_servers)
    fill(plane, "return_index")
    table = Table({WEB: service("mh", ONE, TWO)})
    for _ in range(3):
        said = refusals(plane, table)
        assert len(said) == 1
        assert TWO in said[0]
        assert "no place in the index" in said[0]
        assert len(plane._registry._free_servers) == free
    make_room(plane, "return_index")
    assert refusals(plane, table) == []
    number = plane._registry.members[plane._registry.listens[WEB]][Endpoint.parse(TWO)]
    assert plane._maps.servers[number].flags == 0, "it counts as shared with one that never was"
    assert len(plane._registry._free_servers) == free - 1
