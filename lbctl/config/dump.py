"""A `Config` as a file: what `lbctl export` writes."""

import dataclasses
from typing import Any

import yaml

from lbctl.config.duration import show_duration
from lbctl.config.ha import written
from lbctl.config.scalar import resolve
from lbctl.config.shorthand import Raw
from lbctl.model import (
    Check,
    Config,
    Drain,
    Gateway,
    HttpProbe,
    Mode,
    Persistence,
    Server,
    Service,
    Timing,
    Tunnel,
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
    document: Section = {"apiVersion": "lbctl/v1", "gateway": _gateway(config.gateway)}
    if config.services:
        document["services"] = {name: _service(one) for name, one in config.services.items()}
    if config.routers:
        document["virtual_routers"] = {n: written(one) for n, one in config.routers.items()}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _gateway(gateway: Gateway) -> Section:
    section = _changed(gateway, Gateway(""), front=gateway.front, back=list(gateway.back))
    section["direct"] = [str(network) for network in gateway.direct]
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


def _service(service: Service) -> Section:
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
    section: Section = {"type": "tcp"}
    if isinstance(check.probe, HttpProbe):
        section = {"type": "http", **_http(check.probe)}
    if check.port is not None:
        section["port"] = check.port
    if check.address is not None:
        section["address"] = str(check.address)
    timing = _changed(check.timing, Timing())
    for key in timing.keys() & {"interval", "timeout", "fast_interval"}:
        timing[key] = show_duration(timing[key])
    return section | timing


def _http(probe: HttpProbe) -> Section:
    section: Section = {
        key: value
        for key in ("path", "host", "method", "body")
        if (value := getattr(probe, key)) != getattr(HttpProbe(), key)
    }
    if probe.headers:
        section["headers"] = dict(probe.headers)
    if probe.statuses != HttpProbe().statuses:
        section["status"] = [
            low if low == high else f"{low}-{high}" for low, high in probe.statuses
        ]
    return section
