"""The virtual addresses of one router on this gateway: taken and given up in one call.

With a virtual MAC they are on a macvlan of the interface, which is down in Backup: it then
neither answers nor takes a frame. How a fresh process knows what is its own: addresses
carry IFA_PROTO, macvlans an alias.
"""

import errno

from lbctl.model import Address, Family, Mac, Router
from lbctl.vrrp import netlink
from lbctl.vrrp.errand import Errands
from lbctl.vrrp.netlink import TAG, Link, Netlink, Picture
from lbctl.vrrp.settings import virtual_mac
from lbctl.vrrp.sysctl import Sysctls

ALIAS = "lbctl vrrp "


class Addresses:
    """parent: the interface they belong to. Raises OSError if a macvlan cannot be made."""

    def __init__(
        self, kernel: Netlink, errands: Errands, sysctls: Sysctls, router: Router, parent: Link
    ) -> None:
        self.router, self.parent = router, parent
        self._kernel, self._errands = kernel, errands
        self._held: set[Address] = set()
        self._up = False
        self._index = parent.index
        self._macvlan = router.mac is Mac.VIRTUAL
        if self._macvlan:
            self._index = self._make_macvlan(sysctls)

    @property
    def mac(self) -> bytes:
        """The one that answers for them."""
        return virtual_mac(self.router) if self._macvlan else self.parent.mac

    @property
    def device(self) -> str:
        if not self._macvlan:
            return self.parent.name
        family = 4 if self.router.family is Family.IPV4 else 6
        return f"vr{family}-{self.parent.index}-{self.router.vrid}"

    def prepare(self) -> None:
        """A takeover is near: half of its time is setting the macvlan up."""
        if self._macvlan and not self._up:
            self._errands.wait(self.device)  # it may be on its way down
            self._kernel.do(netlink.set_up(self._index, True))
            self._up = True

    def relax(self) -> None:
        """The takeover did not come."""
        if not self._held:
            self.drop()

    def take(self) -> str | None:
        """Hold exactly the router's addresses; what is in the way, if anything."""
        self.prepare()
        wanted = set(self.router.addresses)
        missing = [address for address in self.router.addresses if address not in self._held]
        surplus = self._held - wanted
        requests = [netlink.add_address(self._index, address) for address in missing]
        requests += [netlink.delete_address(self._index, address) for address in surplus]
        results = self._kernel.do(*requests)
        self._held -= surplus
        troubles = []
        for address, error in zip(missing, results, strict=False):
            if error is None:
                self._held.add(address)
            elif (trouble := self._trouble(address, error)) is not None:
                troubles.append(trouble)
        return "; ".join(troubles) or None

    def drop(self) -> None:
        """Hold none. What is gone already is no trouble."""
        self._kernel.do(*(netlink.delete_address(self._index, one) for one in self._held))
        self._held.clear()
        if self._macvlan and self._up:
            self._errands.do(netlink.set_up(self._index, False), self.device)
        self._up = False

    def close(self) -> None:
        """Leave nothing behind."""
        self.drop()
        if self._macvlan:
            self._errands.do(netlink.delete_link(self._index), self.device)

    def in_the_way(self, picture: Picture) -> str | None:
        """The first address that is on the interface, and not by us."""
        for address in self.router.addresses:
            if address not in self._held and (self._index, address) in picture.addresses:
                return self._foreign(address)
        return None

    def _foreign(self, address: Address) -> str | None:
        if self.router.owner or self._macvlan:
            return None  # the owner has it on the interface for good
        return f"{address} is on {self.device} already, and not lbctl's (ip address del)"

    def _trouble(self, address: Address, error: OSError) -> str | None:
        if error.errno == errno.EEXIST:
            return self._foreign(address)
        return f"cannot add {address} to {self.device}: {error.strerror}"

    def _make_macvlan(self, sysctls: Sysctls) -> int:
        name = self.device
        self._errands.wait(name)  # one of that name may be about to go
        mac = virtual_mac(self.router)
        (error,) = self._kernel.do(netlink.add_macvlan(name, self.parent.index, mac))
        if error is not None and error.errno != errno.EEXIST:
            raise error
        link = self._kernel.link(name)
        if link is None or link.mac != mac:
            raise OSError(errno.EEXIST, f"{name} exists and is not ours")
        self._kernel.do(netlink.name_alias(link.index, ALIAS + self.router.name))
        if self.router.family is Family.IPV4:
            sysctls.prepare_parent(self.parent)
        sysctls.prepare_macvlan(name, self.router.family is Family.IPV6)
        return link.index


def sweep(kernel: Netlink, picture: Picture) -> int:
    """Remove what an earlier run left; how many things that were."""
    requests = [
        netlink.delete_address(held.index, held.address)
        for held in picture.addresses.values()
        if held.tag == TAG
    ]
    requests += [
        netlink.delete_link(link.index)
        for link in picture.links.values()
        if link.kind == "macvlan" and link.alias.startswith(ALIAS)
    ]
    kernel.do(*requests)
    return len(requests)
