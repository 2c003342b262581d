"""Who owns what in a pair: each virtual router, its addresses, and the listens on them."""

from collections.abc import Iterator, Mapping, Set

from lbctl.daemon.shapes import OwnerView
from lbctl.messages import Role
from lbctl.model import Config, Frontend, Listen
from lbctl.world import owners

HERE, THERE, NOBODY = "here", "there", ""


def ownership(
    config: Config, roles: Mapping[str, Role], own: Set[Frontend], theirs: Set[Frontend]
) -> Iterator[OwnerView]:
    """roles: of the virtual routers here, as far as they were heard. own, theirs: the listens
    of each author. A router without listens holds the servers' way back: it is its group's."""
    whose = owners(config.services)
    listens = {
        name: {f for f in whose if isinstance(f, Listen) and f.address in router.addresses}
        for name, router in config.routers.items()
    }
    for name, router in config.routers.items():
        group = {n for n, r in config.routers.items() if r.group and r.group == router.group}
        along = {f for n in {name, *group} for f in listens[n]}
        if roles.get(name) is Role.ACTIVE:
            owner = HERE
        else:
            owner = THERE if along & (theirs - own) else NOBODY
        yield OwnerView(
            router=name,
            group=router.group,
            addresses=tuple(map(str, router.addresses)),
            role=str(roles.get(name, "")),
            owner=owner,
            listens=tuple(sorted(f"{whose[f]} {f}" for f in listens[name])),
        )
