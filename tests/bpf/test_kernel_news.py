"""What the kernel tells is followed: neighbours that move, and the VIPs' addresses."""

import subprocess
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from lbctl.dataplane.converge import converge
from lbctl.dataplane.port import Near
from lbctl.dataplane.vips import InterfaceVips
from lbctl.dataplane.xdp import abi
from lbctl.errors import DataPlaneError
from lbctl.lab.waiting import eventually
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import TAG, Netlink
from tests.bpf import test_packets6 as six
from tests.bpf.gateway import CLIENT, CLIENT_MAC, FRONT_MAC, SERVER_MAC, PacketGateway

pytestmark = pytest.mark.kernel

WEB = Listen.parse("192.0.2.10:80/tcp")
TABLE = Table(
    {WEB: VirtualService(Scheduler("mh"), {Endpoint.parse("198.51.100.11:80"): Destination(1)})}
)
NEW_MAC = "02:00:00:00:03:0b"
VIP, VIP6, FOREIGN = map(ip_address, ("192.0.2.10", "2001:db8::10", "192.0.2.50"))


def test_a_server_whose_mac_changes_is_followed(pins: Path) -> None:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    segment = TCP(sport=40000, dport=80, flags="A")
    packet = Ether(src=CLIENT_MAC, dst=FRONT_MAC) / IP(src=CLIENT, dst="192.0.2.10") / segment
    with closing(gateway):
        assert not converge(gateway.plane, TABLE).refused
        assert gateway.send(packet).packet.dst == SERVER_MAC.format(11)
        words = ["ip", "neighbour", "replace", "198.51.100.11", "lladdr", NEW_MAC, "dev", "back"]
        subprocess.run(words, check=True)

        def followed() -> bool:
            gateway.plane.catch_up()
            return gateway.send(packet).packet.dst == NEW_MAC

        eventually(followed)


def neighbour(verb: str, address: str, *words: str) -> str:
    done = subprocess.run(
        ["ip", "neighbour", verb, *(["to"] if verb == "show" else []), address, *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_near_are_clients_and_not_servers_nor_what_a_person_entered(pins: Path) -> None:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    with closing(gateway):
        neighbour("replace", "192.0.2.77", "lladdr", NEW_MAC, "dev", "front", "nud", "stale")
        neighbour("replace", "2001:db8:1::77", "lladdr", NEW_MAC, "dev", "back", "nud", "stale")
        neighbour("replace", "192.0.2.78", "lladdr", NEW_MAC, "dev", "front", "nud", "permanent")
        neighbour("replace", "198.51.100.12", "lladdr", NEW_MAC, "dev", "back", "nud", "stale")
        table = {Listen.parse("192.0.2.10:80/tcp"): VirtualService(
            Scheduler("mh"), {Endpoint.parse("198.51.100.12:80"): Destination(1)}
        )}  # fmt: skip
        assert not converge(gateway.plane, Table(table)).refused
        gateway.plane.catch_up()
        assert gateway.plane.near() == {
            Near(0, ip_address("192.0.2.77")),
            Near(1, ip_address("2001:db8:1::77")),
        }


def test_who_is_to_be_met_is_asked_for_once_and_own_addresses_are_not(pins: Path) -> None:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    strange, own, nowhere = map(ip_address, ("192.0.2.79", "192.0.2.1", "192.0.2.80"))
    with closing(gateway):
        gateway.plane.meet([Near(0, strange), Near(0, own), Near(2, nowhere)])
        assert "192.0.2.79 dev front" in neighbour("show", str(strange))
        assert neighbour("show", str(own)) == neighbour("show", str(nowhere)) == ""
        neighbour("delete", str(strange), "dev", "front")
        gateway.plane.meet([Near(0, strange)])
        assert neighbour("show", str(strange)) == ""


SIX = Listen.parse(f"[{six.VIP}]:80/tcp")
FAR = "2001:db8:9::/64"


def test_a_route_that_changes_is_followed(pins: Path) -> None:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    servers = {Endpoint.parse("[2001:db8:9::1]:8080"): Destination(1)}
    with closing(gateway):
        ip("-6", "route", "add", FAR, "via", "2001:db8:1::11")
        assert not converge(
            gateway.plane, Table({SIX: VirtualService(Scheduler("mh"), servers)})
        ).refused
        packet = six.client() / six.seg(80, "S")
        gateway.plane.catch_up()
        assert gateway.send(packet).packet.dst == SERVER_MAC.format(11)
        ip("-6", "route", "replace", FAR, "via", "2001:db8:1::12")

        def followed() -> bool:
            gateway.plane.catch_up()
            return gateway.send(packet).packet.dst == SERVER_MAC.format(12)

        eventually(followed)


def test_a_router_that_nobody_has_asked_for_yet_is_asked_for(pins: Path) -> None:
    """What packets meet knows of it only once it has answered: the old way stays till then."""
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    servers = {Endpoint.parse("203.0.113.1:80"): Destination(1)}
    with closing(gateway):
        ip("route", "add", "203.0.113.0/24", "via", "198.51.100.11")
        table = Table({WEB: VirtualService(Scheduler("mh"), servers)})
        assert not converge(gateway.plane, table).refused
        ip("route", "replace", "203.0.113.0/24", "via", "198.51.100.77")

        def asked() -> bool:
            gateway.plane.catch_up()
            return "198.51.100.77" in ip("neighbour", "show", "dev", "back")

        eventually(asked)


@pytest.mark.parametrize("new", ["2001:db8::7/64", "192.0.2.7/24"])
def test_an_address_that_the_gateway_gets_is_its_own(pins: Path, new: str) -> None:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    address = ip_address(new.partition("/")[0])
    key = abi.key(address, 0, abi.PROTO_OWN)
    with closing(gateway):
        assert not converge(gateway.plane, TABLE).refused
        assert gateway.plane._registry.listen_index.get(key) is None
        eventually(lambda: not gateway.netlink.take_news())
        ip("address", "add", new, "dev", "front", *(["nodad"] if ":" in new else []))
        eventually(gateway.netlink.take_news)
        gateway.plane.catch_up()
        assert gateway.plane._registry.listen_index.get(key) is not None


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def netlink(links: None) -> Iterator[Netlink]:
    with closing(Netlink()) as netlink:
        yield netlink


def test_a_vip_is_a_tagged_address_of_one_machine(netlink: Netlink) -> None:
    vips = InterfaceVips(netlink, "front")
    for vip in (VIP, VIP6):
        vips.add(vip)
    assert vips.held() == {VIP, VIP6}
    shown = subprocess.run(
        ["ip", "-brief", "address", "show", "dev", "front"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "192.0.2.10/32" in shown
    assert "2001:db8::10/128" in shown
    vips.remove(VIP)
    assert vips.held() == {VIP6}


def test_an_address_of_somebody_else_is_neither_taken_nor_removed(netlink: Netlink) -> None:
    subprocess.run(["ip", "address", "add", f"{FOREIGN}/32", "dev", "front"], check=True)
    vips = InterfaceVips(netlink, "front")
    with pytest.raises(DataPlaneError, match=r"192.0.2.50: .* not lbctl's .*vip: external"):
        vips.add(FOREIGN)
    vips.remove(FOREIGN)
    assert (FOREIGN, 0) in netlink.addresses()
    assert vips.held() == set()


def test_a_front_that_is_gone_is_named(netlink: Netlink) -> None:
    vips = InterfaceVips(netlink, "front")
    vips.add(VIP)
    assert (VIP, TAG) in netlink.addresses()
    subprocess.run(["ip", "link", "del", "front"], check=True)
    with pytest.raises(DataPlaneError, match="interface front: not there"):
        vips.add(VIP6)
