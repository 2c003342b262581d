"""Links, addresses, routes and neighbours: the file that has seen a netlink attribute.

It works in the network namespace of its process. Everything it returns is a value of
lbctl's own; everything that fails raises OSError's sibling `DataPlaneError`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from select import select
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from lbctl.errors import DataPlaneError
from lbctl.model import Address

DUMP_TRIES = 5
TAG = 76  # IFA_PROTO of addresses that lbctl put there ('L'); see `ip -d address`
NTF_USE = 1
NTF_EXT_MANAGED = 1
NUD_PERMANENT = 0x80
NUD_VALID = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80  # REACHABLE STALE DELAY PROBE NOARP PERMANENT
GENERIC = "xdpgeneric"  # as pyroute2 calls XDP_ATTACHED_SKB
# Groups of news, as bits (linux/rtnetlink.h, enum rtnetlink_groups): links and neighbours;
# addresses, routes and rules of IPv4, and of IPv6.
LINK, NEIGH = 1 << 0, 1 << 2
OF_IPV4 = 1 << 4 | 1 << 6 | 1 << 7
OF_IPV6 = 1 << 8 | 1 << 10 | 1 << 18


@dataclass(frozen=True, slots=True)
class Link:
    """An interface. xdp_program: id of the program on its XDP hook, 0 for none.
    xdp_generic: it runs behind the driver, which has no XDP of its own. vlan: its number on
    the interface `parent`; 0: it is no VLAN."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    kind: str
    xdp_program: int
    xdp_generic: bool = False
    vlan: int = 0
    parent: int = 0

    @property
    def wire(self) -> int:
        """The interface that its frames come in on."""
        return self.parent if self.vlan else self.index


@dataclass(frozen=True, slots=True)
class Hop:
    """Where packets to an address go: the next machine and the interface to it."""

    via: Address
    ifindex: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A usable neighbour. static: a person entered it; the kernel never asks for it."""

    mac: bytes
    static: bool


class Netlink:
    """One socket for questions and changes, one for news."""

    def __init__(self) -> None:
        self._ip: Any = IPRoute()
        self._news: Any = IPRoute()
        self._news.bind(groups=LINK | NEIGH | OF_IPV4 | OF_IPV6)

    def close(self) -> None:
        self._ip.close()
        self._news.close()

    def fileno(self) -> int:
        return int(self._news.fileno())

    def take_news(self) -> bool:
        """Take in what the kernel announced. True: not only neighbours changed. After an
        overrun nobody knows what did, so everything did."""
        changed = False
        while select([self._news.fileno()], [], [], 0)[0]:
            try:
                events = {message["event"] for message in self._news.get()}
            except (NetlinkError, OSError):
                return True
            changed |= bool(events - {"RTM_NEWNEIGH", "RTM_DELNEIGH"})
        return changed

    def _dump(self, what: str, ask: Callable[[], Iterable[Any]]) -> list[Any]:
        """All messages of an answer; one that a change interrupted is asked for again."""
        with _told(f"{what}: cannot read them"):
            for _ in range(DUMP_TRIES):
                with suppress(NetlinkDumpInterrupted):
                    return list(ask())
            return list(ask())

    # --- links ------------------------------------------------------------------------

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links() if link.name == name), None)

    def links(self) -> list[Link]:
        return [self._link(message) for message in self._dump("links", self._ip.get_links)]

    def _link(self, message: Any) -> Link:
        xdp = message.get_attr("IFLA_XDP")
        program = xdp.get_attr("IFLA_XDP_PROG_ID") if xdp is not None else None
        return Link(
            index=message["index"],
            name=message.get_attr("IFLA_IFNAME"),
            mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
            mtu=message.get_attr("IFLA_MTU"),
            up=bool(message["flags"] & 1),
            kind=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
            xdp_program=program or 0,
            xdp_generic=xdp is not None and xdp.get_attr("IFLA_XDP_ATTACHED") == GENERIC,
            vlan=message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VLAN_ID") or 0,
            parent=message.get_attr("IFLA_LINK") or 0,
        )

    # --- addresses --------------------------------------------------------------------

    def addresses(self, ifindex: int | None = None) -> list[tuple[Address, int]]:
        """(address, tag) of one interface or of all; tag 0: nobody's."""
        found = []
        for message in self._dump("addresses", self._ip.get_addr):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text and (ifindex is None or message["index"] == ifindex):
                found.append((ip_address(text), message.get_attr("IFA_PROTO") or 0))
        return found

    def add_address(self, address: Address, ifindex: int) -> None:
        with _told(f"{address}: cannot add the address"):
            length = address.max_prefixlen
            arguments = {"index": ifindex, "address": str(address), "prefixlen": length}
            self._ip.addr("add", proto=TAG, **arguments)

    def remove_address(self, address: Address, ifindex: int) -> None:
        with _told(f"{address}: cannot remove the address"):
            length = address.max_prefixlen
            self._ip.addr("del", index=ifindex, address=str(address), prefixlen=length)

    # --- next hops --------------------------------------------------------------------

    def hop(self, address: Address) -> Hop:
        """The way to `address` by the routing table."""
        with _told(f"{address}: no route"):
            family = AF_INET if address.version == 4 else AF_INET6
            message = self._ip.route("get", dst=str(address), family=family)[0]
        via = message.get_attr("RTA_GATEWAY")
        return Hop(ip_address(via) if via else address, message.get_attr("RTA_OIF"))

    def neighbours(self) -> dict[Hop, Neighbour]:
        """All that are usable now."""
        found = {}
        for message in self._dump("neighbours", self._ip.get_neighbours):
            mac, address = message.get_attr("NDA_LLADDR"), message.get_attr("NDA_DST")
            if mac and address and message["state"] & NUD_VALID:
                hop = Hop(ip_address(address), message["ifindex"])
                static = bool(message["state"] & NUD_PERMANENT)
                found[hop] = Neighbour(bytes.fromhex(mac.replace(":", "")), static)
        return found

    def ask_neighbour(self, hop: Hop) -> None:
        """Have the kernel resolve a neighbour now (NTF_USE)."""
        with _told(f"{hop.via}: cannot ask for the neighbour"):
            arguments = {"dst": str(hop.via), "ifindex": hop.ifindex, "state": 0}
            self._ip.neigh("replace", flags=NTF_USE, **arguments)

    def manage_neighbour(self, hop: Hop) -> None:
        """Have the kernel resolve a neighbour and keep it fresh (NTF_EXT_MANAGED): traffic
        that the stack never sees would let it grow stale. Not for a static one: it would
        lose what a person entered."""
        with _told(f"{hop.via}: cannot manage the neighbour"):
            arguments = {"dst": str(hop.via), "ifindex": hop.ifindex, "state": 0}
            self._ip.neigh("replace", flags_ext=NTF_EXT_MANAGED, **arguments)


@contextmanager
def _told(attempt: str) -> Iterator[None]:
    try:
        yield
    except (NetlinkError, OSError) as error:
        raise DataPlaneError(f"{attempt}: {error.args[-1]}") from None
