"""Tagged interfaces: in and out with or without a tag, both ways."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, raw

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp.ports import multiplier, write_ports
from lbctl.dataplane.xdp.shape import Feature, Shape
from lbctl.model import Gateway, Listen, Table
from tests.bpf import test_packets as four
from tests.bpf import test_packets6 as six
from tests.bpf.gateway import BACK_MAC, SERVER_MAC, XDP_TX, PacketGateway
from tests.bpf.test_packets import at, reply, service, tcp

pytestmark = pytest.mark.kernel

TABLE = Table(
    {
        Listen.parse(four.WEB): service("mh", "198.51.100.11:8080"),
        Listen.parse(f"[{six.VIP}]:80/tcp"): service("mh", "[2001:db8:1::11]:8080"),
    }
)


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",)), shared_pins)
    gateway.plane._program.ensure(Shape(frozenset({Feature.VLAN, Feature.IPV6})))
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


def tag(gateway: PacketGateway, front: int, back: int) -> None:
    """Have the program take its ports for VLANs; 0: none. (This kernel may have no VLANs: the
    FIB goes on naming the interfaces themselves.)"""
    ports = gateway.plane._hops.ports
    vlans = [
        replace(port, vlan=vlan, parent=port.index)
        for port, vlan in zip(ports, (front, back), strict=True)
    ]
    write_ports(gateway.plane._maps.gateway, vlans)


def tagged(packet: Packet, vlan: int, priority: int = 0) -> Packet:
    if not vlan:
        return packet
    ether = packet.copy()
    ether.remove_payload()
    del ether.type
    return Ether(raw(ether / Dot1Q(vlan=vlan, prio=priority) / packet.payload))


@pytest.mark.parametrize(("front", "back"), [(0, 0), (0, 9), (7, 0), (7, 9)])
def test_both_ways(gateway: PacketGateway, front: int, back: int) -> None:
    tag(gateway, front, back)
    pairs = [
        (four.client() / tcp("S"), four.to_server(11) / at(tcp("S"), 8080)),
        (six.client() / six.seg(80, "S"), six.to_server(11) / six.seg(8080, "S")),
    ]
    for sent, wanted in pairs:
        seen = gateway.send(tagged(sent, front))
        assert seen.verdict == "forward"
        assert raw(seen.packet) == raw(tagged(wanted, back))
    answers = [
        (four.server("198.51.100.11") / reply("SA"), four.to_client() / reply("SA", 80)),
        (six.server(11) / six.answer(8080, "SA"), six.to_client() / six.answer(80, "SA")),
    ]
    for sent, wanted in answers:
        seen = gateway.send(tagged(sent, back), "back")
        assert seen.verdict == "return"
        assert raw(seen.packet) == raw(tagged(wanted, front))


def test_the_priority_stays(gateway: PacketGateway) -> None:
    tag(gateway, 7, 9)
    seen = gateway.send(tagged(four.client() / tcp("S"), 7, priority=5))
    assert (seen.packet[Dot1Q].prio, seen.packet[Dot1Q].vlan) == (5, 9)


def test_a_tag_that_tells_the_priority_only(gateway: PacketGateway) -> None:
    """VLAN 0 is the interface itself (IEEE 802.1Q, 9.6)."""
    tag(gateway, 0, 0)
    sent = four.client() / tcp("S")
    frame = Ether(src=sent.src, dst=sent.dst) / Dot1Q(vlan=0, prio=3) / sent.payload
    seen = gateway.send(frame)
    assert seen.verdict == "forward"
    assert raw(seen.packet) == raw(four.to_server(11) / at(tcp("S"), 8080))


@contextmanager
def tags_left() -> Iterator[None]:
    switch = ["ethtool", "-K", "front", "rxvlan"]
    subprocess.run([*switch, "off"], check=True)
    try:
        yield
    finally:
        subprocess.run([*switch, "on"], check=True)


def test_a_card_that_leaves_tags_in_frames_needs_no_vlan_for_that(pins: Path) -> None:
    """Whether it did when the gateway was opened, or does since."""
    sent = four.client() / tcp("S")
    frame = Ether(src=sent.src, dst=sent.dst) / Dot1Q(vlan=0, prio=3) / sent.payload
    with closing(PacketGateway(Gateway("front", ("back",)), pins)) as gateway:
        assert not converge(gateway.plane, TABLE).refused
        assert gateway.send(frame).verdict == "pass_vlan"
        with tags_left():
            gateway.plane.tend()
            assert gateway.send(frame).verdict == "forward"


def test_a_gateway_is_opened_with_tags_left_in_frames(pins: Path) -> None:
    with tags_left(), closing(PacketGateway(Gateway("front", ("back",)), pins)) as gateway:
        assert not converge(gateway.plane, TABLE).refused
        sent = four.client() / tcp("S")
        frame = Ether(src=sent.src, dst=sent.dst) / Dot1Q(vlan=0, prio=3) / sent.payload
        assert gateway.send(frame).verdict == "forward"


@pytest.mark.parametrize(
    ("name", "frame", "verdict"),
    [
        ("another VLAN", tagged(four.client() / tcp("S"), 8), "pass_vlan"),
        ("no tag", four.client() / tcp("S"), "pass_other"),
        ("cut in the tag", raw(tagged(four.client() / tcp("S"), 7))[:17], "pass_not_ip"),
        ("cut after the tag", raw(tagged(four.client() / tcp("S"), 7))[:18], "pass_malformed"),
        (
            "two tags",
            Ether(src=four.CLIENT_MAC, dst=four.FRONT_MAC)
            / Dot1Q(vlan=7)
            / Dot1Q(vlan=7)
            / (four.client() / tcp("S")).payload,
            "pass_vlan",
        ),
        (
            "a provider's tag",
            Ether(src=four.CLIENT_MAC, dst=four.FRONT_MAC)
            / Dot1AD(vlan=7)
            / (four.client() / tcp("S")).payload,
            "pass_other",
        ),
        (
            "another mac",
            tagged(four.client(mac="02:00:00:00:00:99") / tcp(), 7),
            "pass_foreign_mac",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_ours(
    gateway: PacketGateway, name: str, frame: Packet | bytes, verdict: str
) -> None:
    tag(gateway, 7, 9)
    seen = gateway.send(frame)
    assert seen.verdict == verdict
    assert raw(seen.packet) == (frame if isinstance(frame, bytes) else raw(frame))


@pytest.mark.parametrize(
    ("back", "tags"), [(0, []), (0, [0]), (9, [9])], ids=["untagged", "priority", "VLAN 9"]
)
def test_out_by_the_port_it_came_in_on(gateway: PacketGateway, back: int, tags: list[int]) -> None:
    """A tag that only tells the priority is not passed on."""
    tag(gateway, 7, back)
    sent = Ether(src=SERVER_MAC.format(12), dst=BACK_MAC) / four.client().payload / tcp("S")
    for one in tags:
        sent = Ether(raw(Ether(src=sent.src, dst=sent.dst) / Dot1Q(vlan=one) / sent.payload))
    seen = gateway.send(sent, "back")
    assert (seen.verdict, seen.action) == ("forward", XDP_TX)
    wanted = four.to_server(11) / at(tcp("S"), 8080)
    assert raw(seen.packet) == raw(tagged(wanted, back))


def test_one_wire_two_vlans(gateway: PacketGateway) -> None:
    """One arm: both ports lie on front, and a packet leaves as it came, with the other tag."""
    front, back = gateway.plane._hops.ports
    arms = [
        replace(front, vlan=7, parent=front.index),
        replace(back, vlan=9, parent=front.index, mac=front.mac),
    ]
    write_ports(gateway.plane._maps.gateway, arms)
    seen = gateway.send(tagged(four.client() / tcp("S"), 7))
    assert (seen.verdict, seen.action, seen.packet[Dot1Q].vlan) == ("forward", 3, 9)


def test_every_name_of_a_port_has_a_place_of_its_own() -> None:
    for start in range(1, 200):
        names = [(start + n, vlan) for n in range(4) for vlan in (0, 100 + n, 4094 - n)]
        assert multiplier(names) % 2 == 1
