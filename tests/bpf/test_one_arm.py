"""A gateway with one interface: clients and servers on one link, packets leave as they came."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.packet import raw

from lbctl.dataplane.converge import converge
from lbctl.model import Gateway, Listen, Table
from tests.bpf import test_packets as four
from tests.bpf.gateway import BACK_MAC, CLIENT_MAC, SERVER_MAC, XDP_TX, PacketGateway
from tests.bpf.test_packets import at, reply, service, tcp

pytestmark = pytest.mark.kernel

VIP, SERVER, CLIENT = "198.51.100.10", "198.51.100.11", "198.51.100.12"


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    """The lab's link `back` alone. Server 12 plays a client on the same link."""
    gateway = PacketGateway(Gateway("back"), shared_pins)
    listen = Listen.parse(f"{VIP}:80/tcp")
    assert not converge(gateway.plane, Table({listen: service("mh", f"{SERVER}:8080")})).refused
    yield gateway
    gateway.close()


def test_there_and_back_by_one_interface(gateway: PacketGateway) -> None:
    sent = Ether(src=SERVER_MAC.format(12), dst=BACK_MAC) / IP(src=CLIENT, dst=VIP) / tcp("S")
    seen = gateway.send(sent, "back")
    wanted = four.to_server(11, src=CLIENT) / at(tcp("S"), 8080)
    assert (seen.verdict, seen.action, raw(seen.packet)) == ("forward", XDP_TX, raw(wanted))

    answer = Ether(src=SERVER_MAC.format(11), dst=BACK_MAC) / IP(src=SERVER, dst=CLIENT)
    seen = gateway.send(answer / reply("SA"), "back")
    wanted = Ether(src=BACK_MAC, dst=SERVER_MAC.format(12)) / (
        IP(src=VIP, dst=CLIENT, ttl=63) / reply("SA", 80)
    )
    assert (seen.verdict, seen.action, raw(seen.packet)) == ("return", XDP_TX, raw(wanted))


def test_a_client_beyond_a_router(gateway: PacketGateway) -> None:
    sent = Ether(src=CLIENT_MAC, dst=BACK_MAC) / IP(src="192.0.2.100", dst=VIP) / tcp("S")
    seen = gateway.send(sent, "back")
    assert (seen.verdict, seen.action) == ("forward", XDP_TX)
