"""Sections of the file to the nouns of `lbctl.model`. Nothing fails here but the choice of
a gateway: what is left in a section is sound."""

from collections.abc import Iterator
from typing import Any

from lbctl.config.fault import Fault, did_you_mean
from lbctl.config.schema import (
    AnyCheck,
    File,
    GatewaySection,
    HttpCheck,
    NoCheck,
    PersistenceSection,
    ServerSection,
    ServiceSection,
    TcpCheck,
)
from lbctl.model import (
    CONNECT,
    AnyProbe,
    Check,
    Drain,
    Family,
    Forwarding,
    Frontend,
    Gateway,
    HttpProbe,
    Mode,
    Persistence,
    Server,
    Service,
    Timing,
    Tunnel,
)


class NoGateway(Exception):
    """Which gateway this is, or what one of them is, cannot be said."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(*(fault.text for fault in faults))
        self.faults = faults


def gateway(file: File, node: str | None) -> Gateway:
    """The gateway named `node`, or the only one. Raises NoGateway; a gateway that lacks
    something is a fault on every node, since all read the same file."""
    if not file.gateways:
        sections = {"": file.gateway}
    else:
        common = _written(file.gateway)
        sections = {
            name: GatewaySection.model_construct(**(common | _written(own)))
            for name, own in file.gateways.items()
        }
    text = "'front' is missing: the interface that VIPs live on (write front: eth0)"
    missing = [
        Fault(("gateways", name) if name else ("gateway",), text, on_key=True)
        for name, section in sections.items()
        if section.front is None
    ]
    if missing:
        raise NoGateway(missing)
    return _gateway(sections[_choose(list(sections), node)])


def _choose(names: list[str], node: str | None) -> str:
    if names == [""] or (len(names) == 1 and node is None):
        return names[0]
    if node in names:
        return node
    if node is None:
        text = f"which of {', '.join(names)} is this gateway? (name it: --node {names[0]})"
    else:
        hint = did_you_mean(node, names) or f"known: {', '.join(names)}"
        text = f"has no gateway '{node}' ({hint})"
    raise NoGateway([Fault(("gateways",), text, on_key=True)])


def _written(section: GatewaySection) -> dict[str, Any]:
    return {key: getattr(section, key) for key in section.model_fields_set}


def _gateway(section: GatewaySection) -> Gateway:
    assert section.front is not None
    return Gateway(
        front=section.front,
        back=tuple(section.back),
        datapath=section.datapath,
        xdp_mode=section.xdp_mode,
        flow_cache=section.flow_cache,
        direct=tuple(section.direct),
    )


def services(file: File) -> dict[str, Service]:
    return {name: _service(section) for name, section in file.services.items()}


def _service(section: ServiceSection) -> Service:
    listens = tuple(section.listen)
    return Service(
        listens=listens,
        servers={name: _server(one) for name, one in section.servers.items()},
        scheduler=section.scheduler,
        forwarding=_forwarding(section),
        check=_check(section.check),
        persistence=_persistence(section.persistence, listens),
        oneshot=section.oneshot,
        vip=section.vip,
        drain=Drain(section.drain.timeout, section.drain.quiet),
        last_resort=section.last_resort,
        sorry=_server(section.sorry) if section.sorry else None,
    )


def _server(section: ServerSection) -> Server:
    port = section.port if section.port is not None else section.address.port
    limits = section.max_connections, section.min_connections
    return Server(section.address.address, port, section.weight, *limits)


def _forwarding(section: ServiceSection) -> Forwarding:
    if section.tunnel is not None:
        return Forwarding(section.mode, Tunnel(section.tunnel.type, section.tunnel.port or 0))
    return Forwarding(section.mode, Tunnel() if section.mode is Mode.TUN else None)


def _check(section: AnyCheck) -> Check | None:
    if isinstance(section, NoCheck):
        return None
    timeout = min(1.0, section.interval) if section.timeout is None else section.timeout
    timing = Timing(
        section.interval,
        timeout,
        section.fall,
        section.rise,
        section.jitter,
        section.fast_interval,
    )
    return Check(_probe(section), timing, section.port, section.address)


def _probe(section: TcpCheck | HttpCheck) -> AnyProbe:
    if isinstance(section, TcpCheck):
        return CONNECT
    return HttpProbe(
        path=section.path,
        host=section.host,
        method=section.method,
        headers=tuple(section.headers.items()),
        statuses=tuple(section.status),
        body=section.body,
    )


def _persistence(
    section: PersistenceSection | None, listens: tuple[Frontend, ...]
) -> Persistence | None:
    if section is None:
        return None
    whole = 128 if set(families(listens)) == {Family.IPV6} else 32
    prefix = section.prefix if section.prefix is not None else whole
    return Persistence(int(section.timeout), prefix, section.engine)


def families(listens: tuple[Frontend, ...]) -> Iterator[Family]:
    for listen in listens:
        yield listen.family
