"""Whether an interface can carry a virtual router, and with which source address: what
follows from the kernel's picture."""

from lbctl.model import Address, Family
from lbctl.vrrp.netlink import TAGS, Held, Link, Picture
from lbctl.vrrp.node import Fact, Place


def place(picture: Picture, interface: str, family: Family, owned: frozenset[Address]) -> Place:
    """owned: addresses whose owner this gateway is; they are its own all the same."""
    link = picture.link(interface)
    if link is None:
        return Place(None, f"{interface}: no such interface")
    if (trouble := _trouble(link)) is not None:
        return Place(None, trouble)
    for held in picture.on(link.index):
        if _is_own(held, family, owned):
            return Place(held.address)
    wanted = "IPv4 address" if family is Family.IPV4 else "IPv6 link-local address"
    return Place(None, f"{interface} has no {wanted} of its own")


def state(picture: Picture, interface: str) -> Fact:
    """Of a tracked interface."""
    link = picture.link(interface)
    trouble = "no such interface" if link is None else _trouble(link)
    return Fact(trouble is None, trouble or "")


def _trouble(link: Link) -> str | None:
    if not link.up:
        return f"{link.name} is down"
    return None if link.running else f"{link.name} has no carrier"


def _is_own(held: Held, family: Family, owned: frozenset[Address]) -> bool:
    """The first address that is not a virtual one; the source of IPv6 adverts is
    link-local (RFC 9568, 5.1.2.1)."""
    if held.tag in TAGS and held.address not in owned:
        return False
    if family is Family.IPV4:
        return held.address.version == 4 and held.primary and held.usable
    return held.address.version == 6 and held.address.is_link_local and held.usable
