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
from lbctl.errors import DataPlaneError
from lbctl.lab.waiting import eventually
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import TAG, Netlink
from tests.bpf.gateway import CLIENT, CLIENT_MAC, FRONT_MAC, SERVER_MAC, PacketGateway

pytestmark = pytest.mark.kernel

TABLE = Table(
    {
        Listen.parse("192.0.2.10:80/tcp"): VirtualService(
            Scheduler("mh"), {Endpoint.parse("198.51.100.11:80"): Destination(1)}
        )
    }
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
