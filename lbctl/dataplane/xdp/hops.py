"""Next hops: from a server's address to the MACs and the interface that reach it."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from lbctl.dataplane.port import NEAR, Near
from lbctl.errors import DataPlaneError
from lbctl.model import Address
from lbctl.netlink import Hop, Link, Neighbour, Netlink

AGAIN = 60.0  # seconds until a machine that did not answer is asked for again


@dataclass(frozen=True, slots=True)
class NextHop:
    """dmac, smac: of the frames to it. out: index of the interface among the gateway's."""

    dmac: bytes
    smac: bytes
    out: int
    mtu: int


class NextHops:
    """Looks next hops up and has the kernel keep them fresh.

    A server without one is not scheduled: its packets would be dropped.
    """

    def __init__(self, netlink: Netlink, interfaces: Iterable[str]) -> None:
        self._netlink = netlink
        self._names = tuple(interfaces)
        self._managed: set[Hop] = set()
        self._ways: dict[Address, Hop] = {}
        self._asked: dict[Hop, float] = {}
        self._known: dict[Hop, Neighbour] = netlink.neighbours()
        self.ports: tuple[Link, ...] = tuple(self._port(name) for name in self._names)

    def refresh(self, *, routes_changed: bool) -> None:
        """Read the kernel's present neighbours; interfaces and routes if they changed. An
        interface that is gone is remembered as it was."""
        self._known = self._netlink.neighbours()
        if routes_changed:
            self._ways.clear()
            self.ports = tuple(self._netlink.link(port.name) or port for port in self.ports)

    def _port(self, name: str) -> Link:
        link = self._netlink.link(name)
        if link is None:
            raise DataPlaneError(f"interface {name}: not there", "`ip link` shows those that are")
        return link

    def prepare(self, addresses: Iterable[Address], patience: float = 0.5) -> None:
        """Start resolving the next hops of `addresses`, and wait a little for the answers:
        on a quiet link they take a millisecond."""
        hops = set()
        for address in addresses:
            try:
                hops.add(self._hop(address))
            except DataPlaneError:
                continue  # said when the server is added
        deadline = time.monotonic() + patience
        while True:
            last = time.monotonic() > deadline  # what came until then is seen by this look
            self._known = self._netlink.neighbours()
            missing = hops - self._known.keys()
            for hop in hops - self._managed:
                self._manage(hop)
            if not missing or last:
                return
            time.sleep(0.005)

    def resolve(self, address: Address) -> NextHop:
        """Raises DataPlaneError where there is no way, or nobody answers."""
        hop = self._hop(address)
        out = next(i for i, link in enumerate(self.ports) if link.index == hop.ifindex)
        link = self.ports[out]
        neighbour = self._known.get(hop)
        if neighbour is None:
            if hop not in self._managed:  # a route has changed since it was prepared
                self._manage(hop)
            raise DataPlaneError(
                f"{address}: {hop.via} does not answer on {link.name} (ARP)",
                "it joins as soon as it answers; is it up, and on this link?",
            )
        return NextHop(neighbour.mac, link.mac, out, link.mtu)

    def want(self, address: Address, ifindex: int) -> None:
        """A client's packet needed this neighbour: it is asked for once and forgotten as
        any other; only servers' hops are kept fresh, or strangers could fill the table."""
        self._netlink.ask_neighbour(Hop(address, ifindex))

    def near(self) -> set[Near]:
        """Who is known beside servers, and those that a person entered."""
        at = {link.index: place for place, link in enumerate(self.ports)}
        found = [
            Near(at[hop.ifindex], hop.via)
            for hop, neighbour in self._known.items()
            if hop.ifindex in at and hop not in self._managed
            if not neighbour.static and not hop.via.is_multicast
        ]
        return set(sorted(found, key=lambda one: (one.at, one.address.packed))[:NEAR])

    def meet(self, wanted: Iterable[Near]) -> None:
        """Each is asked for once a minute at most: it may be gone, and the peer not know."""
        now, ports = time.monotonic(), self.ports
        self._asked = {hop: when for hop, when in self._asked.items() if when > now - AGAIN}
        hops = (Hop(address, ports[at].index) for at, address in wanted if at < len(ports))
        strange = [hop for hop in hops if hop not in self._known and hop not in self._asked]
        own = {address for address, _ in self._netlink.addresses()} if strange else set()
        for hop in strange:
            self._asked[hop] = now
            if hop.via not in own:
                with suppress(DataPlaneError):  # then a packet asks for it
                    self._netlink.ask_neighbour(hop)

    def _manage(self, hop: Hop) -> None:
        known = self._known.get(hop)
        if known is None or not known.static:
            self._netlink.manage_neighbour(hop)
        self._managed.add(hop)

    def _hop(self, address: Address) -> Hop:
        if address in self._ways:
            return self._ways[address]
        hop = self._netlink.hop(address)
        if hop.ifindex not in {link.index for link in self.ports}:
            raise DataPlaneError(
                f"{address}: its route leaves by an interface that is not lbctl's",
                f"routes to servers must use {' or '.join(self._names)} "
                "(gateway.front, gateway.back)",
            )
        self._ways[address] = hop
        return hop
