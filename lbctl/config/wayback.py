"""The way back of servers' answers where two gateways share virtual routers.

With `nat` a server answers through its gateway. That has to be an address of a virtual router
which is Active where the service's is: any other dies with its machine, or leads the answers
to the gateway that is fenced for them.
"""

from collections.abc import Iterator, Set

from lbctl.config.fault import Fault
from lbctl.model import Address, Config, Family, Listen, Mode, Router, Service, family_of

# A VIP can be the gateway of servers on its own network. How wide that is no file says; it is
# hardly wider than this many bits leave.
WIDEST = {Family.IPV4: 16, Family.IPV6: 48}


def without_way_back(config: Config) -> Iterator[Fault]:
    """Warnings: virtual routers whose group has nothing for servers to answer through."""
    listens = [f for one in config.services.values() for f in one.listens]
    vips = {f.address for f in listens if isinstance(f, Listen)}
    for name, router in config.routers.items():
        served = {key: one for key, one in config.services.items() if _translated(one, router)}
        servers = {_network(s.address) for one in served.values() for s in one.servers.values()}
        if not servers:
            continue
        leading = [
            one
            for one in config.routers.values()
            if one.family is router.family and _leads_back(config, one, vips, servers)
        ]
        if not any(_together(one, router) for one in leading):
            names = list(served)
            whose = ", ".join(names[:3]) + (" and others" if names[3:] else "")
            text = f"answers of servers of {whose} (mode nat) have no way back"
            text = f"{text} {_mend(config, router, leading)}"
            yield Fault(("virtual_routers", name), text, on_key=True)


def _mend(config: Config, router: Router, elsewhere: list[Router]) -> str:
    if elsewhere:
        one = elsewhere[0]
        mend = f"write group: {router.group or one.group or 'pair'} in both"
        return f"that moves with it: {one.name} may be active on the other gateway ({mend})"
    where = " or ".join(config.gateway.back) or "their network"
    mend = f"let an address of a virtual router on {where} be their gateway, and group both"
    return f"once this gateway is gone ({mend})"


def _translated(service: Service, router: Router) -> bool:
    """Whether it is on an address of the router, and its servers answer through the gateway."""
    return service.forwarding.mode is Mode.NAT and any(
        isinstance(f, Listen) and f.address in router.addresses for f in service.listens
    )


def _together(one: Router, other: Router) -> bool:
    return one.name == other.name or (one.group != "" and one.group == other.group)


def _leads_back(
    config: Config, router: Router, vips: Set[Address], servers: Set[tuple[int, int]]
) -> bool:
    """Whether servers on these networks can have one of its addresses as their gateway."""
    if config.gateway.back:
        return router.interface in config.gateway.back
    return any(one not in vips or _network(one) in servers for one in router.addresses)


def _network(address: Address) -> tuple[int, int]:
    return address.version, int(address) >> (address.max_prefixlen - WIDEST[family_of(address)])
