"""What this data path can do. Pure; each no names what to use instead."""

from lbctl.dataplane.xdp.abi import SchedulerCode
from lbctl.errors import Unsupported
from lbctl.model import (
    Destination,
    Frontend,
    Listen,
    Mode,
    Persistence,
    Proto,
    VirtualService,
)

SCHEDULERS = tuple(SchedulerCode)
MEMORY = frozenset({"rr", "wrr", "lc", "wlc"})  # schedulers that remember each flow
BY_LOAD = frozenset({"lc", "wlc"})
LONGEST_PERSISTENCE = 7200  # seconds: what a flow's age in the flow cache can tell


def remembers(service: VirtualService) -> bool:
    """Are its flows remembered, each in the flow cache?"""
    return service.scheduler.name in MEMORY or service.persistence is not None


def check_service(frontend: Frontend, service: VirtualService) -> Listen:
    """The listen, if XDP can serve it. Raises Unsupported."""
    use_ipvs = "`datapath: ipvs` can"
    if not isinstance(frontend, Listen):
        raise Unsupported(f"{frontend}: XDP knows no firewall marks", use_ipvs)
    if frontend.proto not in (Proto.TCP, Proto.UDP):
        raise Unsupported(f"{frontend}: XDP forwards TCP and UDP only", use_ipvs)
    known = [code.name.lower() for code in SCHEDULERS]
    if service.scheduler.name not in known:
        raise Unsupported(
            f"{frontend}: XDP has no scheduler {service.scheduler.name}",
            f"it has {', '.join(known)}; {use_ipvs}",
        )
    if service.scheduler.flags:
        raise Unsupported(f"{frontend}: XDP knows no scheduler flags", use_ipvs)
    if service.persistence is not None:
        check_persistence(frontend, service.persistence)
    return frontend


def check_persistence(frontend: Listen, persistence: Persistence) -> None:
    """Raises Unsupported."""
    if persistence.engine:
        raise Unsupported(
            f"{frontend}: XDP has no persistence engine {persistence.engine}",
            "leave it out, or `datapath: ipvs`",
        )
    if not 0 < persistence.timeout <= LONGEST_PERSISTENCE:
        raise Unsupported(
            f"{frontend}: XDP keeps a client for {LONGEST_PERSISTENCE} s at most, "
            f"not {persistence.timeout} s",
            "a shorter persistence.timeout, or `datapath: ipvs`",
        )


def check_same_hash(frontend: Frontend, before: str, after: str) -> None:
    """Raises Unsupported: `sh` finds slots by the client's address, all others by the whole
    flow, so each flow would be looked for in another slot, and in another place of the cache."""
    if before != after and "sh" in (before, after):
        raise Unsupported(
            f"{frontend}: scheduler {before} to {after}: nearly every connection would change its "
            "server, because sh hashes the client alone and the others the whole connection",
            f"a listen of its own for {after}; or take {frontend} out and put it back, which cuts "
            "its connections",
        )


def check_destination(frontend: Frontend, destination: Destination, scheduler: str) -> None:
    """Raises Unsupported."""
    mode = destination.forwarding.mode
    if mode is not Mode.NAT:
        raise Unsupported(f"{frontend}: XDP has no mode {mode}", "`mode: nat`, or datapath: ipvs")
    if destination.max_connections and scheduler not in MEMORY:
        raise Unsupported(
            f"{frontend}: {scheduler} keeps no limit of connections per server",
            f"a scheduler that remembers flows: {', '.join(sorted(MEMORY))}",
        )
    if destination.min_connections:
        raise Unsupported(
            f"{frontend}: XDP knows no min_connections", "leave it out, or `datapath: ipvs`"
        )
