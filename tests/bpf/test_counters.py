"""What the program counts for each server and service, packet by packet."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from lbctl.dataplane.converge import converge
from lbctl.dataplane.port import Counters
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from tests.bpf.gateway import (
    BACK_MAC,
    CLIENT,
    CLIENT_MAC,
    FRONT_MAC,
    SERVER_MAC,
    PacketGateway,
)

pytestmark = pytest.mark.kernel

VIPS = {"mh": "192.0.2.10", "rr": "192.0.2.11"}
SERVERS = {"mh": "198.51.100.11:80", "rr": "198.51.100.12:80"}
HEADERS = 40  # bytes of IPv4 and TCP


def listen(scheduler: str) -> Listen:
    return Listen.parse(f"{VIPS[scheduler]}:80/tcp")


def endpoint(scheduler: str) -> Endpoint:
    return Endpoint.parse(SERVERS[scheduler])


def table(*schedulers: str) -> Table:
    return Table(
        {
            listen(one): VirtualService(Scheduler(one), {endpoint(one): Destination(1)})
            for one in schedulers
        }
    )


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    assert not converge(gateway.plane, table("mh", "rr")).refused
    yield gateway
    gateway.close()


def asked(scheduler: str, port: int, flags: str, size: int = 0) -> Packet:
    ip = Ether(src=CLIENT_MAC, dst=FRONT_MAC) / IP(src=CLIENT, dst=VIPS[scheduler])
    return ip / TCP(sport=port, dport=80, flags=flags, seq=flags != "S") / bytes(size)


def answered(scheduler: str, port: int, size: int = 0) -> Packet:
    address, _, _ = SERVERS[scheduler].partition(":")
    mac = SERVER_MAC.format(int(address.rpartition(".")[2]))
    ip = Ether(src=mac, dst=BACK_MAC) / IP(src=address, dst=CLIENT)
    return ip / TCP(sport=80, dport=port, flags="A", seq=1) / bytes(size)


def talk(gateway: PacketGateway, scheduler: str, port: int) -> None:
    """A SYN, two requests of 100 bytes, three answers of 500."""
    gateway.send(asked(scheduler, port, "S"))
    for _ in range(2):
        gateway.send(asked(scheduler, port, "PA", 100))
    for _ in range(3):
        gateway.send(answered(scheduler, port, 500), "back")


ONE = Counters(
    connections=1,
    packets_in=3,
    packets_out=3,
    bytes_in=3 * HEADERS + 200,
    bytes_out=3 * (HEADERS + 500),
)


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_packets_bytes_and_connections_of_both_directions(
    gateway: PacketGateway, scheduler: str
) -> None:
    talk(gateway, scheduler, 40000)
    other = "rr" if scheduler == "mh" else "mh"
    stats = gateway.plane.stats()
    assert stats.servers[listen(scheduler), endpoint(scheduler)] == ONE
    assert stats.servers[listen(other), endpoint(other)] == Counters()
    talk(gateway, scheduler, 40001)
    assert gateway.plane.stats().service(listen(scheduler)) == ONE + ONE


def test_a_packet_that_goes_nowhere_is_counted_for_nobody(gateway: PacketGateway) -> None:
    expired = asked("mh", 40000, "S")
    expired[IP].ttl = 1
    assert gateway.send(expired).verdict == "drop_ttl"
    assert gateway.plane.stats().service(listen("mh")) == Counters()


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_nor_is_a_flow_that_has_a_server_and_does_not_get_there(
    gateway: PacketGateway, scheduler: str
) -> None:
    maps, (server,) = (
        gateway.plane._maps,
        gateway.plane._registry.members[
            gateway.plane._registry.listens[listen(scheduler)]
        ].values(),
    )
    maps.servers[server].mtu = 30
    assert gateway.send(asked(scheduler, 40000, "S")).verdict == "drop_too_big"
    assert gateway.plane.stats().service(listen(scheduler)) == Counters()


def test_a_services_totals_outlive_its_servers(gateway: PacketGateway) -> None:
    talk(gateway, "mh", 40000)
    emptied = Table({**table("rr").services, listen("mh"): VirtualService(Scheduler("mh"), {})})
    assert not converge(gateway.plane, emptied).refused
    for _ in range(3):  # dead, swept, free
        gateway.plane.tend()
    stats = gateway.plane.stats()
    assert (listen("mh"), endpoint("mh")) not in stats.servers
    assert stats.service(listen("mh")) == ONE
