"""What a lab is, and what the kernel is asked for, without a kernel."""

from ipaddress import ip_interface, ip_network

import msgspec
import pytest

from lbctl.lab import kernel
from lbctl.lab.topology import VIP, Role, Topology, mac, standard

RANGES = "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"
DOCUMENTATION = [ip_network(text) for text in RANGES]


def test_the_standard_lab() -> None:
    topology = standard()
    assert [host.name for host in topology.hosts] == ["client", "lb1", "app1", "app2", "app3"]
    assert topology.host("lb1").address == "192.0.2.1"
    assert topology.host("app2").address == "198.51.100.12"
    assert [nic.name for nic in topology.host("lb1").nics] == ["front", "back"]


def test_an_unknown_host_is_an_error() -> None:
    with pytest.raises(KeyError, match="app9"):
        standard().host("app9")


@pytest.mark.parametrize("topology", [standard(), standard(80, 2, ipv6=True)])
def test_addresses_and_macs_are_unique_and_for_documentation(topology: Topology) -> None:
    nics = [nic for host in topology.hosts for nic in host.nics]
    addresses = [ip_interface(text) for nic in nics for text in nic.addresses]
    assert all(any(a.ip in net for net in DOCUMENTATION) for a in addresses)
    assert len({a.ip for a in addresses}) == len(addresses)
    assert len({nic.mac for nic in nics}) == len(nics)
    assert VIP not in {str(a.ip) for a in addresses}


def test_a_pair_leaves_the_shared_address_free() -> None:
    """Servers route through .1, which a pair of gateways hands to each other."""
    pair = standard(gateways=2)
    assert [host.address for host in pair.having(Role.GATEWAY)] == ["192.0.2.2", "192.0.2.3"]
    assert pair.host("app1").routes == standard().host("app1").routes


@pytest.mark.parametrize(
    ("segment", "number", "expected"),
    [(1, 1, "02:00:00:01:00:01"), (2, 13, "02:00:00:02:00:13"), (1, 100, "02:00:00:01:01:00")],
)
def test_macs_can_be_read(segment: int, number: int, expected: str) -> None:
    assert mac(segment, number) == expected


def test_a_topology_survives_being_written_down() -> None:
    topology = standard(2, 2, ipv6=True)
    assert msgspec.json.decode(msgspec.json.encode(topology), type=Topology) == topology


def test_interface_names_fit_the_kernel() -> None:
    topology = standard(80, 2)
    ports = [kernel.port(host, nic) for host in topology.hosts for nic in host.nics]
    assert max(map(len, ports)) <= 15
    assert len(set(ports)) == len(ports)


def test_links_are_born_inside_their_namespaces() -> None:
    for line in kernel.links("x", standard()).splitlines():
        assert line.count("netns x-") == 2, line


def test_senders_compute_checksums_and_gateway_ports_take_frames_from_xdp() -> None:
    topology = standard()
    gateway, server = topology.host("lb1"), topology.host("app1")
    assert list(kernel.offloads(server, server.nics[0])) == [
        ("app1", ["ethtool", "-K", "back", "tx", "off"])
    ]
    assert list(kernel.offloads(gateway, gateway.nics[1])) == [
        ("lb1", ["ethtool", "-K", "back", "tx", "off"]),
        ("switch", ["ethtool", "-K", "lb1-back", "gro", "on"]),
    ]


def test_only_gateways_forward() -> None:
    topology = standard()
    forwarding = {h.name for h in topology.hosts if "net.ipv4.ip_forward" in kernel.settings(h)}
    assert forwarding == {"lb1"}
