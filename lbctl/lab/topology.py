"""What a lab looks like, as data: segments, hosts, their links, addresses, roles, routes.

Nothing here knows namespaces: `lbctl.lab.kernel` turns a topology into them, and other
shells (virtual machines, say) can read the same description.

        front 192.0.2.0/24                      back 198.51.100.0/24

    client .100 ──┐                                   ┌── app1 .11
                  ├── switch ── .1 lb1 .1 ── switch ──┼── app2 .12
    VIP .10 - - - ┘                                   └── app3 .13

With two gateways these have .2 and .3 on both sides, and .1 is theirs to share: it is
what clients and servers route through either way. `sync` gives them a network of their
own, 203.0.113.0/24, with the same numbers.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec

VIP = "192.0.2.10"
HTTP = 80  # where every server of a lab answers


class Role(StrEnum):
    CLIENT = "client"
    GATEWAY = "gateway"
    SERVER = "server"


class Nic(msgspec.Struct, frozen=True):
    """A host's interface. addresses: with their prefix, `192.0.2.1/24`."""

    name: str
    segment: str
    mac: str
    addresses: tuple[str, ...]


class Route(msgspec.Struct, frozen=True):
    """to: a prefix or `default`."""

    to: str
    via: str


class Host(msgspec.Struct, frozen=True):
    name: str
    role: Role
    nics: tuple[Nic, ...]
    routes: tuple[Route, ...] = ()

    @property
    def address(self) -> str:
        """The first address, without its prefix: how others reach this host."""
        return self.nics[0].addresses[0].partition("/")[0]

    @property
    def ipv6(self) -> bool:
        return any(":" in address for nic in self.nics for address in nic.addresses)


class Topology(msgspec.Struct, frozen=True):
    """segments: names of layer-2 networks, each one a switch."""

    segments: tuple[str, ...]
    hosts: tuple[Host, ...]
    vip: str = VIP

    def host(self, name: str) -> Host:
        """The host of that name. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def having(self, role: Role) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.role is role)


class _Segment(NamedTuple):
    name: str
    number: int  # in MACs
    ipv4: str  # a /24 without its last byte
    ipv6: str  # a /64 without its last group


FRONT = _Segment("front", 1, "192.0.2.", "2001:db8:1::")
BACK = _Segment("back", 2, "198.51.100.", "2001:db8:2::")
SYNC = _Segment("sync", 3, "203.0.113.", "2001:db8:3::")
SHARED = f"{BACK.ipv4}1"  # of a pair of gateways: what servers route through


def standard(
    servers: int = 3,
    gateways: int = 1,
    ipv6: bool = False,
    *,
    sync: bool = False,
    server_name: str = "app",
) -> Topology:
    """A client, gateways with a front and a back interface, and servers behind them.

    servers: up to 80. gateways: 1 or 2. ipv6: every interface gets an IPv6 address too;
    without, IPv6 is off in the whole lab, and so is its chatter. sync: gateways have a
    network of their own. server_name: servers' names, without their numbers.
    """
    numbers = range(1, 2) if gateways == 1 else range(2, 2 + gateways)
    between = (FRONT, BACK, SYNC) if sync else (FRONT, BACK)
    hosts = [_client(ipv6)]
    hosts += [_gateway(f"lb{i}", number, between, ipv6) for i, number in enumerate(numbers, 1)]
    hosts += [_server(f"{server_name}{i}", 10 + i, ipv6) for i in range(1, servers + 1)]
    return Topology(tuple(segment.name for segment in between), tuple(hosts))


def _client(ipv6: bool) -> Host:
    routes = [Route(f"{BACK.ipv4}0/24", f"{FRONT.ipv4}1")]
    if ipv6:
        routes.append(Route(f"{BACK.ipv6}/64", f"{FRONT.ipv6}1"))
    return Host("client", Role.CLIENT, (_nic(FRONT, 100, ipv6),), tuple(routes))


def _gateway(name: str, number: int, between: tuple[_Segment, ...], ipv6: bool) -> Host:
    nics = tuple(_nic(segment, number, ipv6) for segment in between)
    return Host(name, Role.GATEWAY, nics)


def _server(name: str, number: int, ipv6: bool) -> Host:
    routes = [Route("default", f"{BACK.ipv4}1")]
    if ipv6:
        routes.append(Route("default", f"{BACK.ipv6}1"))
    return Host(name, Role.SERVER, (_nic(BACK, number, ipv6),), tuple(routes))


def _nic(segment: _Segment, number: int, ipv6: bool) -> Nic:
    addresses = [f"{segment.ipv4}{number}/24"]
    if ipv6:
        addresses.append(f"{segment.ipv6}{number}/64")
    return Nic(segment.name, segment.name, mac(segment.number, number), tuple(addresses))


def mac(segment: int, number: int) -> str:
    """A MAC one can read: `02:00:00:01:01:00` is host .100 of segment 1."""
    digits = f"{number:04d}"
    return f"02:00:00:{segment:02d}:{digits[:2]}:{digits[2:]}"
