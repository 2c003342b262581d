"""A `Config` as a file: what `lbctl export` writes."""

import dataclasses
from typing import Any, assert_never

import yaml

from lbctl.config import listener, replication
from lbctl.config.duration import show_duration
from lbctl.config.ha import written
from lbctl.config.scalar import resolve
from lbctl.config.shorthand import Raw
from lbctl.model import (
    AgentProbe,
    AnyProbe,
    Check,
    Config,
    DnsProbe,
    Drain,
    ExecProbe,
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
    TcpProbe,
    Timing,
    Tls,
    TlsProbe,
    Tunnel,
    UdpProbe,
)

Section = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Quotes text that plain would be read as something else by YAML 1.2, too."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if resolve(text) != text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(config: Config) -> str:
    document: Section = {"apiVersion": "lbctl/v1", "gateway": written_gateway(config.gateway)}
    if config.services:
        document["services"] = {name: written_service(one) for name, one in config.services.items()}
    if config.routers:
        document["virtual_routers"] = {n: written(one) for n, one in config.routers.items()}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def written_gateway(gateway: Gateway) -> Section:
    section = _changed(gateway, Gateway(""), front=gateway.front, back=list(gateway.back))
    section["direct"] = [str(network) for network in gateway.direct]
    section["probe"] = [str(one) for one in gateway.probe]
    if gateway.api is not None:
        section["api"] = listener.written(gateway.api)
    if gateway.replication is not None:
        section["replication"] = replication.written(gateway.replication)
    return {key: value for key, value in section.items() if value != []}


def _changed(value: Raw, default: Raw, **fixed: object) -> Section:
    """The plain fields of a dataclass that differ from `default`, and those `fixed`."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    changed = {
        k: str(v) if isinstance(v, str) else v
        for k, v in fields.items()
        if v != getattr(default, k)
    }
    return {**changed, **fixed}


def written_service(service: Service) -> Section:
    section: Section = {
        "listen": [str(listen) for listen in service.listens],
        "scheduler": str(service.scheduler),
        "servers": {name: _server(one) for name, one in service.servers.items()},
    }
    if not service.servers:
        section["allow_empty"] = True
    if service.forwarding.mode is not Mode.NAT:
        section["mode"] = str(service.forwarding.mode)
    if service.forwarding.tunnel is not None:
        section["tunnel"] = _tunnel(service.forwarding.tunnel)
    section["check"] = _check(service.check) if service.check is not None else "none"
    if service.persistence is not None:
        section["persistence"] = _persistence(service.persistence)
    if service.drain != Drain():
        section["drain"] = {
            "timeout": show_duration(service.drain.timeout),
            "quiet": show_duration(service.drain.quiet),
        }
    if service.sorry is not None:
        section["sorry"] = _server(service.sorry)
    plain = _changed(service, Service(()))
    section |= _load(service)
    return section | {key: plain[key] for key in ("oneshot", "vip", "last_resort") if key in plain}


def _server(server: Server) -> Section:
    return _changed(server, Server(server.address), address=str(server.address))


def _tunnel(tunnel: Tunnel) -> Section:
    section: Section = {"type": str(tunnel.encapsulation)}
    return section | ({"port": tunnel.port} if tunnel.port else {})


def _persistence(persistence: Persistence) -> Section:
    return _changed(
        persistence,
        Persistence(),
        timeout=show_duration(float(persistence.timeout)),
        prefix=persistence.prefix,
    )


def _check(check: Check) -> Section:
    return {"type": "tcp", **_probe(check.probe), **_asked(check)}


def _asked(check: Check) -> Section:
    """Where and when a check or an agent is asked."""
    section: Section = {}
    if check.port is not None:
        section["port"] = check.port
    if check.address is not None:
        section["address"] = str(check.address)
    if check.through:
        section["through"] = True
    timing = _changed(check.timing, Timing())
    for key in timing.keys() & {"interval", "timeout", "fast_interval"}:
        timing[key] = show_duration(timing[key])
    return section | timing


def _probe(probe: AnyProbe) -> Section:
    match probe:
        case TcpProbe():
            return {}
        case TlsProbe():
            return {"type": "tls", "tls": _tls(probe.tls)}
        case HttpProbe():
            tls = {} if probe.tls is None else {"tls": _tls(probe.tls)}
            return {"type": "https" if tls else "http", **_http(probe), **tls}
        case UdpProbe():
            return {"type": "udp", "payload": probe.payload.decode("latin-1")} | (
                {"expect": probe.expect} if probe.expect else {}
            )
        case DnsProbe() | IcmpProbe() | ExecProbe() | AgentProbe() | GrpcProbe():
            return _others(probe)
        case _:
            assert_never(probe)


def _others(probe: DnsProbe | IcmpProbe | ExecProbe | AgentProbe | GrpcProbe) -> Section:
    match probe:
        case DnsProbe(name, record, rcode, answer):
            section: Section = {"type": "dns", "name": name, "record": record, "rcode": rcode}
            return section | ({"answer": answer} if answer else {})
        case IcmpProbe(size):
            return {"type": "icmp", "size": size}
        case ExecProbe(command):
            return {"type": "exec", "command": list(command)}
        case GrpcProbe(service, tls):
            return {"type": "grpc", "service": service} | ({"tls": _tls(tls)} if tls else {})
        case AgentProbe():
            section = {"speaks": probe.speaks, "tls": _tls(probe.tls) if probe.tls else "none"}
            if probe.speaks == "haproxy":
                del section["tls"]
            return section | {
                key: getattr(probe, key) for key in ("token", "send") if getattr(probe, key)
            }
        case _:
            assert_never(probe)


def _tls(tls: Tls) -> Section:
    keys = ("name", "ca", "verify", "days", "cert", "key")
    return {key: getattr(tls, key) for key in keys if getattr(tls, key) != getattr(Tls(), key)}


def _load(service: Service) -> Section:
    """What load and its absence do to a service."""
    section: Section = {}
    if service.agent is not None:
        section["agent"] = {**_probe(service.agent.probe), **_asked(service.agent)}
        section["overload"] = "none" if service.overload is None else _overload(service.overload)
    if service.slow_start:
        section["slow_start"] = show_duration(service.slow_start)
    if service.quorum != Quorum():
        section["quorum"] = _changed(service.quorum, Quorum())
    for hook in service.hooks:
        section[str(hook.trigger)] = _hook(hook)
    return section


def _overload(overload: Overload) -> Section:
    known = dict(overload.thresholds)
    section: Section = {
        str(metric): dataclasses.asdict(known[metric]) if metric in known else "none"
        for metric in Metric
    }
    return section | {"hold": show_duration(overload.hold), "max_removed": overload.max_removed}


def _hook(hook: Hook) -> Section:
    section = _changed(hook, Hook(hook.trigger, hook.command), run=list(hook.command))
    for key in section.keys() & {"delay", "timeout", "cooldown"}:
        section[key] = show_duration(section[key])
    return section


def _http(probe: HttpProbe) -> Section:
    section: Section = {
        key: value
        for key in ("path", "host", "method", "body", "version", "keepalive")
        if (value := getattr(probe, key)) != getattr(HttpProbe(), key)
    }
    if probe.headers:
        section["headers"] = dict(probe.headers)
    if probe.statuses != HttpProbe().statuses:
        section["status"] = [
            low if low == high else f"{low}-{high}" for low, high in probe.statuses
        ]
    return section
