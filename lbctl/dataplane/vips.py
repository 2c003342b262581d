"""The VIPs on the front interface: /32 or /128, tagged, and only those we tagged."""

from lbctl.errors import DataPlaneError
from lbctl.model import Address
from lbctl.netlink import TAG, Netlink


class InterfaceVips:
    """VIPs of one interface, found by name at each use: it may be made anew."""

    def __init__(self, netlink: Netlink, interface: str) -> None:
        self._netlink = netlink
        self._interface = interface

    def held(self) -> set[Address]:
        found = self._netlink.addresses(self._index())
        return {address for address, tag in found if tag == TAG}

    def add(self, address: Address) -> None:
        if (address, 0) in self._netlink.addresses():
            raise DataPlaneError(
                f"{address}: cannot add the VIP: the address is there and not lbctl's",
                "remove it, or say `vip: external` for the service",
            )
        self._netlink.add_address(address, self._index())

    def remove(self, address: Address) -> None:
        if address in self.held():
            self._netlink.remove_address(address, self._index())

    def _index(self) -> int:
        link = self._netlink.link(self._interface)
        if link is None:
            raise DataPlaneError(
                f"interface {self._interface}: not there", "`ip link` shows those that are"
            )
        return link.index
