"""The configuration file of a lab's gateways, from its topology: namespaces and virtual
machines get the same one."""

from collections.abc import Iterable
from typing import NamedTuple

from lbctl.lab.topology import HTTP, SHARED, SYNC, Host, Role, Topology

SERVICE = "web"
REPLICATION = 7400  # port
FIRST_PRIORITY, STEP = 200, 50
VRIDS = {"front": 7, "back": 8}


class Pair(NamedTuple):
    """What two gateways want beside a topology. interval: of adverts. credentials: the
    directory that has ca.pem and NAME.pem, on each gateway."""

    interval: str
    credentials: str


class Care(NamedTuple):
    """How servers are looked after. check: keys of an http check, in YAML's flow style.
    more: further lines of the service."""

    check: str = ""
    more: tuple[str, ...] = ()


def gateway_file(
    topology: Topology,
    datapath: str = "xdp",
    scheduler: str = "rr",
    pair: Pair | None = None,
    care: Care | None = None,
) -> str:
    """The whole file, the same on every gateway of the lab."""
    lines = [*_gateway(topology, datapath, pair), *service(topology, scheduler, care or Care())]
    if pair is not None:
        lines += _routers(topology, pair)
    return "\n".join([*lines, ""])


def service(topology: Topology, scheduler: str, care: Care) -> list[str]:
    check = f", {care.check}" if care.check else ""
    return [
        "services:",
        f"  {SERVICE}:",
        f"    listen: {topology.vip}:{HTTP}/tcp",
        f"    scheduler: {scheduler}",
        f"    check: {{type: http, path: /{check}}}",
        *(f"    {line}" for line in care.more),
        "    servers:",
        *(f"      {one.name}: {one.address}:{HTTP}" for one in topology.having(Role.SERVER)),
    ]


def empty_file(topology: Topology, datapath: str = "xdp") -> str:
    """A gateway that serves nothing yet."""
    return "\n".join([*_gateway(topology, datapath, None), ""])


def _gateway(topology: Topology, datapath: str, pair: Pair | None) -> Iterable[str]:
    yield from ("apiVersion: lbctl/v1", "gateway:", "  front: front", "  back: back")
    yield f"  datapath: {datapath}"
    if pair is None:
        return
    yield "gateways:"
    one, two = topology.having(Role.GATEWAY)
    for mine, other in ((one, two), (two, one)):
        yield f"  {mine.name}:"
        yield "    replication:"
        yield f"      listen: {_on_sync(mine)}:{REPLICATION}"
        yield f"      peer: {_on_sync(other)}:{REPLICATION}"
        yield f"      name: {other.name}"
        yield f"      certificate: {pair.credentials}/{mine.name}.pem"
        yield f"      key: {pair.credentials}/{mine.name}.pem"
        yield f"      ca: {pair.credentials}/ca.pem"


def _routers(topology: Topology, pair: Pair) -> Iterable[str]:
    gateways = topology.having(Role.GATEWAY)
    ranks = (f"{one.name}: {FIRST_PRIORITY - STEP * i}" for i, one in enumerate(gateways))
    common = f"interval: {pair.interval}, group: pair, preempt: when-synced"
    priority = f"priority: {{{', '.join(ranks)}}}"
    yield "virtual_routers:"
    for segment, address in (("front", topology.vip), ("back", SHARED)):
        where = f"interface: {segment}, vrid: {VRIDS[segment]}, addresses: {address}"
        yield f"  {segment}: {{{where}, {common}, {priority}}}"


def _on_sync(host: Host) -> str:
    """Raises StopIteration: the topology has no network between its gateways."""
    nic = next(nic for nic in host.nics if nic.segment == SYNC.name)
    return nic.addresses[0].partition("/")[0]
