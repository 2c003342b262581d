"""What the fence has room for: the sizes of its maps (bpf/abi.h), which a test compares."""

from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass

from lbctl.model import Router

ROUTERS = 63
ADDRESSES = 4096  # one that is link-local counts on each interface
INTERFACES = 8


@dataclass(frozen=True, slots=True)
class Claim:
    """What one virtual router takes of it: an interface, and its addresses there."""

    interface: Hashable
    addresses: Set[Hashable]


def claim(router: Router) -> Claim:
    """Of a router whose interface is known by its name."""
    link = router.interface
    return Claim(link, {(link if one.is_link_local else "", one) for one in router.addresses})


def crowded_out(claims: Mapping[str, Claim]) -> dict[str, str]:
    """Those that find no room, by name, and what they lack; those before them are served
    first."""
    refused: dict[str, str] = {}
    addresses: set[Hashable] = set()
    interfaces: set[Hashable] = set()
    served = 0
    for name, claim in claims.items():
        if served == ROUTERS:
            refused[name] = f"the fence has room for {ROUTERS} virtual routers"
        elif len(addresses | claim.addresses) > ADDRESSES:
            refused[name] = f"the fence has room for {ADDRESSES} virtual addresses"
        elif len(interfaces | {claim.interface}) > INTERFACES:
            refused[name] = f"the fence has room for {INTERFACES} interfaces"
        else:
            served += 1
            addresses |= claim.addresses
            interfaces.add(claim.interface)
    return refused
