"""Sections of the file to the nouns of `lbctl.model`. Nothing fails here but the choice of
a gateway: what is left in a section is sound."""

from collections.abc import Iterator
from typing import Any, assert_never

from lbctl.config.fault import Fault, did_you_mean
from lbctl.config.listener import listener
from lbctl.config.replication import replication
from lbctl.config.schema import (
    AgentSection,
    AnyCheck,
    AnyHttpCheck,
    DnsCheck,
    ExecCheck,
    File,
    GatewaySection,
    GrpcCheck,
    HttpCheck,
    HttpsCheck,
    IcmpCheck,
    NoCheck,
    OverloadSection,
    PersistenceSection,
    ServerSection,
    ServiceSection,
    TcpCheck,
    ThresholdSection,
    Through,
    Timed,
    TlsCheck,
    TlsSection,
    UdpCheck,
)
from lbctl.model import (
    AGENT_PORT,
    CONNECT,
    HAPROXY_AGENT_PORT,
    AgentProbe,
    AnyProbe,
    Check,
    DnsProbe,
    Drain,
    ExecProbe,
    Family,
    Forwarding,
    Frontend,
    Gateway,
    GrpcProbe,
    Hook,
    HttpProbe,
    IcmpProbe,
    Metric,
    Mode,
    Overload,
    Persistence,
    Quorum,
    Server,
    Service,
    Threshold,
    Timing,
    Tls,
    TlsProbe,
    Trigger,
    Tunnel,
    UdpProbe,
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
        probe=tuple(section.probe),
        api=listener(section.api),
        replication=replication(section.replication),
        flow_key=section.flow_key,
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
        agent=_agent(section.agent),
        overload=_overload(section.overload) if section.agent is not None else None,
        slow_start=section.slow_start,
        quorum=Quorum(section.quorum.servers, section.quorum.hysteresis),
        hooks=_hooks(section),
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
    through = isinstance(section, Through) and section.through
    return Check(_probe(section), _timing(section), section.port, section.address, through)


def _timing(section: Timed) -> Timing:
    timeout = min(1.0, section.interval) if section.timeout is None else section.timeout
    return Timing(
        section.interval,
        timeout,
        section.fall,
        section.rise,
        section.jitter,
        section.fast_interval,
    )


def _probe(section: AnyCheck) -> AnyProbe:
    match section:
        case TcpCheck() | NoCheck():
            return CONNECT
        case TlsCheck():
            return TlsProbe(_tls(section.tls))
        case HttpCheck():
            return _http(section, None)
        case HttpsCheck():
            return _http(section, _tls(section.tls))
        case UdpCheck():
            return UdpProbe(section.payload.encode("latin-1"), section.expect)
        case DnsCheck():
            answer = "" if section.answer is None else str(section.answer)
            return DnsProbe(section.name, section.record, section.rcode, answer)
        case IcmpCheck():
            return IcmpProbe(section.size)
        case GrpcCheck():
            return GrpcProbe(section.service, None if section.tls is None else _tls(section.tls))
        case ExecCheck():
            return ExecProbe(section.command)
        case _:
            assert_never(section)


def _http(section: AnyHttpCheck, tls: Tls | None) -> HttpProbe:
    return HttpProbe(
        path=section.path,
        host=section.host,
        method=section.method,
        headers=tuple(section.headers.items()),
        statuses=tuple(section.status),
        body=section.body,
        tls=tls,
        version=section.version,
        keepalive=section.keepalive,
    )


def _tls(section: TlsSection) -> Tls:
    return Tls(section.name, section.ca, section.verify, section.days, section.cert, section.key)


def _agent(section: AgentSection | None) -> Check | None:
    if section is None:
        return None
    ours = section.speaks == "lbctl"
    tls = _tls(section.tls) if isinstance(section.tls, TlsSection) and ours else None
    probe = AgentProbe(section.speaks, tls=tls, token=section.token, send=section.send)
    port = section.port or (AGENT_PORT if ours else HAPROXY_AGENT_PORT)
    return Check(probe, _timing(section), port, section.address)


def _overload(section: OverloadSection | None) -> Overload | None:
    if section is None:
        return None
    written = {
        Metric.CPU: section.cpu,
        Metric.MEMORY: section.memory,
        Metric.DISK: section.disk,
    }
    thresholds = tuple(
        (metric, Threshold(one.low, one.hard, one.low if one.back is None else one.back))
        for metric, one in written.items()
        if isinstance(one, ThresholdSection)
    )
    return Overload(thresholds, section.hold, section.max_removed)


def _hooks(section: ServiceSection) -> tuple[Hook, ...]:
    written = {
        Trigger.DOWN: section.on_down,
        Trigger.UP: section.on_up,
        Trigger.OVERLOAD: section.on_overload,
    }
    return tuple(
        Hook(trigger, one.run, one.delay, one.timeout, one.cooldown, one.per_hour, one.user)
        for trigger, one in written.items()
        if one is not None
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
