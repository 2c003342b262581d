"""What the kernel holds, ready for JSON: the words of `GET /v1/ipvs`. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from lbctl.dataplane.ipvs.codec import (
    Info,
    ServerEntry,
    ServiceEntry,
    SyncDaemon,
    Timeouts,
    flag_names,
)
from lbctl.dataplane.port import Counters
from lbctl.model import FirewallMark, Frontend

Json = dict[str, Any]


def view(
    listing: Iterable[tuple[ServiceEntry, Sequence[ServerEntry]]],
    info: Info,
    timeouts: Timeouts,
    sync: Iterable[SyncDaemon],
) -> Json:
    return {
        "version": info.version,
        "size": info.size,
        "services": [_service(service, servers) for service, servers in listing],
        "timeouts": {"tcp": timeouts.tcp, "fin": timeouts.fin, "udp": timeouts.udp},
        "sync": [_sync(one) for one in sync],
    }


def _service(entry: ServiceEntry, servers: Sequence[ServerEntry]) -> Json:
    service, persistence = entry.service, entry.service.persistence
    return {
        **_frontend(entry.frontend),
        "frontend": str(entry.frontend),
        "scheduler": service.scheduler.name,
        "flags": [f for f in flag_names(service.scheduler.name) if f in service.scheduler.flags],
        "persistence": persistence
        and {
            "timeout": persistence.timeout,
            "prefix": persistence.prefix,
            "engine": persistence.engine,
        },
        "oneshot": service.oneshot,
        "counters": _numbers(entry.counters),
        "rates": entry.rates,
        "servers": [_server(one) for one in servers],
    }


def _numbers(counters: Counters) -> tuple[int, ...]:
    """In ipvsadm's order."""
    return (
        counters.connections,
        counters.packets_in,
        counters.packets_out,
        counters.bytes_in,
        counters.bytes_out,
    )


def _frontend(frontend: Frontend) -> Json:
    if isinstance(frontend, FirewallMark):
        place = {"proto": "fwmark", "address": "", "port": 0, "mark": frontend.mark}
    else:
        address = str(frontend.address)
        proto = str(frontend.proto)
        place = {"proto": proto, "address": address, "port": frontend.port, "mark": 0}
    return {**place, "family": str(frontend.family)}


def _server(entry: ServerEntry) -> Json:
    destination, tunnel = entry.destination, entry.destination.forwarding.tunnel
    return {
        "address": str(entry.endpoint.address),
        "port": entry.endpoint.port,
        "mode": str(destination.forwarding.mode),
        "tunnel": tunnel
        and {
            "type": str(tunnel.encapsulation),
            "port": tunnel.port,
            "flags": sorted(tunnel.flags),
        },
        "weight": destination.weight,
        "upper": destination.max_connections,
        "lower": destination.min_connections,
        "active": entry.active,
        "inactive": entry.inactive,
        "persistent": entry.persistent,
        "counters": _numbers(entry.counters),
        "rates": entry.rates,
    }


def _sync(one: SyncDaemon) -> Json:
    return {
        "role": str(one.role),
        "interface": one.interface,
        "id": one.id,
        "maxlen": one.maxlen,
        "group": str(one.group or ""),
        "port": one.port,
        "ttl": one.ttl,
    }
