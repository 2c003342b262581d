"""The ways through servers, as lines for `ip -batch`."""

from ipaddress import ip_address, ip_interface

import pytest

from lbctl.daemon.passage import gone, laid, opening
from lbctl.errors import LbctlError
from lbctl.model import Encapsulation, Mode, Via

OWN = (ip_interface("198.51.100.9/24"), ip_interface("2001:db8:1::9/64"))
ROUTED = [
    (
        Via("198.51.100.11", Mode.DR),
        "route add default via 198.51.100.11 dev probe0 onlink table 1007",
    ),
    (
        Via("2001:db8:1::11", Mode.DR),
        "route add default via 2001:db8:1::11 dev probe0 onlink table 1007",
    ),
]
TUNNELS = [
    (Via("198.51.100.11", Mode.TUN, Encapsulation.IPIP), "ipip local 198.51.100.9"),
    (
        Via("2001:db8:1::11", Mode.TUN, Encapsulation.IPIP),
        "ip6tnl mode ip6ip6 local 2001:db8:1::9",
    ),
    (Via("198.51.100.11", Mode.TUN, Encapsulation.GRE), "gre local 198.51.100.9"),
    (
        Via("198.51.100.11", Mode.TUN, Encapsulation.GUE, 6080),
        "ipip local 198.51.100.9 remote 198.51.100.11 encap gue encap-sport auto encap-dport 6080",
    ),
]


@pytest.mark.parametrize(("via", "route"), ROUTED)
def test_a_dr_server_is_the_next_hop(via: Via, route: str) -> None:
    assert list(laid(7, via, OWN)) == [route, "rule add fwmark 7 table 1007"]


@pytest.mark.parametrize(("via", "tunnel"), TUNNELS)
def test_a_tun_server_has_a_tunnel_of_its_own(via: Via, tunnel: str) -> None:
    first, up, route, rule = laid(7, via, OWN)
    assert first.startswith(f"link add t7 type {tunnel}")
    assert f" remote {via.address}" in first
    own = "198.51.100.9" if ":" not in via.address else "2001:db8:1::9"
    assert up == "link set t7 up"
    assert route == f"route add default dev t7 src {own} table 1007"
    assert rule == "rule add fwmark 7 table 1007"
    assert list(gone(7, via))[-1] == "link del t7"


@pytest.mark.parametrize("address", ["198.51.100.11", "2001:db8:1::11"])
def test_a_server_of_a_family_that_we_have_no_address_of_is_named(address: str) -> None:
    other = [one for one in OWN if one.version != ip_address(address).version]
    with pytest.raises(LbctlError, match=f"checks through {address}: no IPv. address"):
        list(laid(7, Via(address, Mode.DR), other))


def test_the_namespace_has_one_address_of_each_family() -> None:
    assert list(opening(4, OWN))[1] == "address add 198.51.100.9/24 dev probe0"
    assert list(opening(6, OWN))[1] == "address add 2001:db8:1::9/64 dev probe0 nodad"
