"""Metrics for Prometheus: one snapshot of the daemon, in the text format.

Base units, `_total` counters, and labels whose values people named (`service`, `server`) or
the program did (`verdict`, and the few of docs/api.md): a client's address is never one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from lbctl.daemon.shapes import ReplicationView, Snapshot, Sums

COUNTED: Mapping[str, tuple[str, Callable[[Sums], int]]] = {
    "connections": ("Connections taken", lambda sums: sums.connections),
    "packets_in": ("Packets from clients", lambda sums: sums.packets_in),
    "packets_out": ("Packets to clients", lambda sums: sums.packets_out),
    "bytes_in": ("Bytes from clients", lambda sums: sums.bytes_in),
    "bytes_out": ("Bytes to clients", lambda sums: sums.bytes_out),
    "refused": ("Packets that say that a server refuses", lambda sums: sums.refused),
}


def exposition(snapshot: Snapshot) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Snapshot(snapshot))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        yield from _servers(self._snapshot)
        yield from _services(self._snapshot)
        yield from _data_path(self._snapshot)
        yield from _daemon(self._snapshot)
        if (pair := self._snapshot.replication) is not None and pair.configured:
            yield from _replication(pair)


def _servers(snapshot: Snapshot) -> Iterator[Metric]:
    up = GaugeMetricFamily("lbctl_server_up", "1: up; 0: down; absent: no verdict", None, SERVER)
    weight = GaugeMetricFamily("lbctl_server_weight", "Weight in the data path", None, SERVER)
    admin = GaugeMetricFamily(
        "lbctl_server_admin_state", "1 for the state it is in", None, (*SERVER, "state")
    )
    for view in snapshot.servers:
        labels = view.name.split("/")
        if view.health in ("up", "down"):
            up.add_metric(labels, float(view.health == "up"))
        if view.weight is not None:
            weight.add_metric(labels, view.weight)
        admin.add_metric([*labels, str(view.admin)], 1.0)
    yield from (up, weight, admin)
    rows = [(server.split("/"), sums) for server, sums in snapshot.stats.servers.items()]
    yield from _counted("server", SERVER, rows)
    yield _gauge(
        "lbctl_server_active_connections",
        "Connections open now, where they can be known",
        SERVER,
        (
            (server.split("/"), sums.established)
            for server, sums in snapshot.stats.servers.items()
            if sums.established is not None
        ),
    )


SERVER = ("service", "server")


def _counted(
    of: str, labels: tuple[str, ...], rows: Iterable[tuple[list[str], Sums]]
) -> Iterator[Metric]:
    """Its totals. A service's never fall: what servers that are gone had counted stays in."""
    for name, (text, value) in COUNTED.items():
        counter = CounterMetricFamily(f"lbctl_{of}_{name}", text, None, labels)
        for values, sums in rows:
            counter.add_metric(values, value(sums))
        yield counter


def _services(snapshot: Snapshot) -> Iterator[Metric]:
    counts = [([name], sums) for name, sums in snapshot.stats.services.items()]
    yield from _counted("service", ("service",), counts)
    yield _gauge(
        "lbctl_service_active_connections",
        "Connections open now, where they can be known",
        ("service",),
        ((name, sums.established) for name, sums in counts if sums.established is not None),
    )
    rows = snapshot.services
    yield _gauge(
        "lbctl_service_servers",
        "Servers configured",
        ("service",),
        (([row.name], row.servers) for row in rows),
    )
    yield _gauge(
        "lbctl_service_scheduled_servers",
        "Servers that take new flows",
        ("service",),
        (([row.name], row.scheduled) for row in rows),
    )
    yield _gauge(
        "lbctl_service_serving",
        "1: at least one server takes new flows, without the last resort",
        ("service",),
        (([row.name], row.state in ("serving", "overloaded", "without quorum")) for row in rows),
    )


def _data_path(snapshot: Snapshot) -> Iterator[Metric]:
    verdicts = CounterMetricFamily(
        "lbctl_verdict_packets", "Packets by the verdict they ended in", None, ("verdict",)
    )
    for name, packets in snapshot.stats.verdicts.items():
        verdicts.add_metric([name], packets)
    writes = CounterMetricFamily(
        "lbctl_datapath_writes", "What this process changed in the kernel", None, ("kind",)
    )
    for kind, number in snapshot.stats.writes.items():
        writes.add_metric([kind], number)
    yield from (verdicts, writes)
    status = snapshot.status
    name, why = status.datapath.name, status.datapath.trouble
    yield _gauge("lbctl_datapath_up", "1: it answers", ("datapath",), [([name], not why)])
    yield _gauge(
        "lbctl_refused_operations",
        "Operations that wait for a new try",
        (),
        [([], len(status.refused))],
    )


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    status = snapshot.status
    yield _gauge("lbctl_build_info", "1", ("version",), [([status.version], 1)])
    yield _gauge("lbctl_config_generation", "The one that runs", (), [([], status.generation)])
    yield _gauge("lbctl_overrides", "Changes made live", (), [([], status.overrides)])
    yield _counter("lbctl_reconcile_passes", "Passes of the loop", status.passes)
    yield _counter("lbctl_datapath_operations", "Operations done", status.operations)
    hooks = CounterMetricFamily(
        "lbctl_hook_runs", "Hooks that ended", None, ("service", "server", "hook", "result")
    )
    for (name, hook, result), number in snapshot.hooks.items():
        hooks.add_metric([*name.split("/"), hook, result], number)
    yield hooks
    yield _counter("lbctl_probes", "Checks run", status.worker.probes)
    yield _gauge("lbctl_checks", "Checks that run", (), [([], status.worker.checks)])
    if status.worker.late_p99 is not None:
        late = "How late checks start, 99th percentile"
        yield _gauge("lbctl_probe_late_seconds", late, (), [([], status.worker.late_p99)])


def _replication(view: ReplicationView) -> Iterator[Metric]:
    yield _gauge("lbctl_replication_up", "1: the peer answers", (), [([], view.connected)])
    yield _gauge(
        "lbctl_replication_synced", "1: all the peer remembers is here", (), [([], view.synced)]
    )
    if view.lag is not None:
        text = "For how long the peer has not had all there is"
        yield _gauge("lbctl_replication_lag_seconds", text, (), [([], view.lag)])
    behind = "Keys that the peer may not have as they are"
    yield _gauge("lbctl_replication_behind_entries", behind, (), [([], view.behind)])
    rows = [(["own"], float(view.entries)), (["peer"], float(view.held))]
    yield _gauge("lbctl_replication_entries", "Keys, by author", ("author",), rows)
    for what, same in (("file", view.same_file), ("table", view.same_table)):
        if same is not None:
            text = f"1: both gateways have the same {what}"
            yield _gauge(f"lbctl_replication_same_{what}", text, (), [([], same)])
    yield _counter("lbctl_replication_full_copies", "Sent to the peer", view.copies)
    yield _counter("lbctl_replication_resyncs", "Copies the peer asked for", view.resyncs)
    faults = sum(view.faults.values())
    yield _counter("lbctl_replication_faults", "Messages that could not be right", faults)
    yield _counter("lbctl_replication_lost_lines", "Lines lost", view.lost)


def _gauge(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[list[str], float]]
) -> Metric:
    gauge = GaugeMetricFamily(name, text, None, labels)
    for values, number in rows:
        gauge.add_metric(values, float(number))
    return gauge


def _counter(name: str, text: str, number: float) -> Metric:
    return CounterMetricFamily(name, text, number)
