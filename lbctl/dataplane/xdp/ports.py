"""The gateway's interfaces as the program knows them: where a frame comes in, and what the
FIB calls that. A VLAN's frames come in on the interface that it lies on. Pure."""

from collections.abc import Iterable, Sequence
from itertools import count

from lbctl.dataplane.xdp import abi
from lbctl.errors import DataPlaneError
from lbctl.netlink import Link

Name = tuple[int, int]  # an interface, and the VLAN on it


def write_ports(gateway: abi.Gateway, ports: Sequence[Link]) -> None:
    """Everything in the gateway's record that says which port is which. Raises
    DataPlaneError."""
    spare = abi.PORTS - len(ports)
    if spare < 0:
        raise DataPlaneError(
            f"XDP has room for {abi.PORTS} interfaces, not for {len(ports)}",
            "fewer of them in `back`, or `datapath: ipvs`",
        )
    gateway.ifindex[:] = [*(port.wire for port in ports), *[0] * spare]
    gateway.device[:] = [*(port.index for port in ports), *[0] * spare]
    gateway.mac[:] = [*(abi.mac(port.mac, port.vlan) for port in ports), *[0] * spare]
    names: dict[Name, int] = {}
    for number, port in enumerate(ports):
        names[port.wire, port.vlan] = number
        names[port.index, 0] = number
    gateway.port_multiplier = multiplier(names)
    places = bytearray(abi.PORT_PLACES)
    for name, number in names.items():
        places[abi.port_place(*name, gateway.port_multiplier)] = number
    gateway.port_at[:] = [*places]


def multiplier(names: Iterable[Name]) -> int:
    """The first odd number with which no two names share a place. Sixteen names find one
    among some hundred."""
    names = set(names)
    for candidate in count(0x9E3779B1, 2):
        if len({abi.port_place(*name, candidate & 0xFFFFFFFF) for name in names}) == len(names):
            return candidate & 0xFFFFFFFF
    raise AssertionError("not reached")
