"""What Prometheus gets is what docs/api.md says: names, types, labels."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from lbctl.daemon.metrics import exposition
from lbctl.daemon.shapes import DatapathView, Snapshot, StatusView, StuckView, Sums, WorkerView
from lbctl.daemon.views import Show
from lbctl.dataplane.port import Active, Counters, Stats
from lbctl.health.judge import Health
from lbctl.model import Check, Endpoint, Listen, TcpProbe
from lbctl.world import Admin

from .stand import Stand, VirtualTime, service, stand
from .test_replication_view import VIEW

DOCS = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
LISTEN = Listen.parse("192.0.2.10:80/tcp")
ROW = re.compile(r"^\| (`lbctl_[^|]*) \| (\w+) \| ([^|]*)\|", re.MULTILINE)
BOUNDED = {"service", "server", "proto", "verdict", "instance"}
EXPLAINED = {
    "state",
    "hook",
    "result",
    "author",
    "datapath",
    "kind",
    "version",
}  # below the table in docs/api.md


def status() -> StatusView:
    stuck = StuckView("192.0.2.10: add VIP", "no", 1, 0.0, 1.0)
    return StatusView(
        version="1",
        pid=1,
        uptime=1.0,
        datapath=DatapathView("fake", "", ""),
        file="f",
        generation=3,
        origin="f",
        services=1,
        servers=2,
        overrides=1,
        stale=(),
        warnings=(),
        refused=(stuck,),
        state="saved",
        passes=7,
        operations=9,
        writes={},
        worker=WorkerView(1, 2, 30, 0.001),
        workers=(),
    )


def busy() -> Stand:
    one = stand(web=replace(service(1, 2), check=Check(TcpProbe())))
    one.turn()
    one.see("web/app1", Health.UP)
    one.see("web/app2", Health.DOWN)
    one.order("web/app1", Admin.READY)
    return one


def snapshot(one: Stand, stats: Stats) -> Snapshot:
    show = Show(one.world, one.reconciler, stats, VirtualTime().clock)
    views = tuple(show.services()), tuple(show.servers())
    runs = {("web/app2", "on_down", "done"): 1}
    return Snapshot(status(), *views, show.stats(0.0), runs, VIEW)


def counted(*numbers: int, past: int = 0) -> Stats:
    """Servers app1, app2, ... that have counted so many of everything."""
    places = [(LISTEN, Endpoint.parse(f"198.51.100.{i}:8080")) for i, _ in enumerate(numbers, 1)]
    return Stats(
        servers={p: Counters(n, n, n, n, n) for p, n in zip(places, numbers, strict=True)},
        active={places[0]: Active(3, "records")},
        past={LISTEN: Counters(past, past, past, past, past)},
        verdicts={"forward": 5},
        writes={"servers": 2},
    )


def exported(data: bytes) -> dict[str, tuple[str, set[str]]]:
    """Each metric with its type and labels, by the name that its samples have."""
    found = {}
    for family in text_string_to_metric_families(data.decode()):
        assert family.documentation, family.name
        assert family.samples, f"{family.name}: a snapshot that has all should show it"
        for sample in family.samples:
            found[sample.name] = family.type, set(sample.labels)
    return found


def documented() -> dict[str, tuple[str, set[str]]]:
    found = {}
    for names, kind, labels in ROW.findall(DOCS):
        first, *rest = re.findall(r"`([^`]+)`", names)
        stem = re.match(r"lbctl_(server|service|replication)", first)
        for name in (first, *rest):
            whole = f"{stem[0]}{name}" if stem and name.startswith("_") else name
            found[whole] = kind, {label for label in labels.replace(",", " ").split() if label}
    return found


def test_what_is_exported_is_what_is_documented() -> None:
    assert exported(exposition(snapshot(busy(), counted(1, 2)))) == documented()


def test_labels_are_those_whose_values_have_a_bound() -> None:
    labels = set().union(*(found for _, found in documented().values()))
    assert labels <= BOUNDED | EXPLAINED
    bound = DOCS.partition("People name what `service`")[2]
    assert all(f"`{label}`" in bound for label in labels & EXPLAINED)


def test_a_services_totals_never_fall_when_a_server_goes() -> None:
    one = busy()
    stories = [counted(100, 50), counted(110, past=50), counted(120, past=50)]
    seen = []
    for stats in stories:
        families = text_string_to_metric_families(exposition(snapshot(one, stats)).decode())
        samples = {s.name: s.value for f in families for s in f.samples if "service_" in s.name}
        seen.append(samples["lbctl_service_packets_in_total"])
    assert seen == [150, 160, 170]
    assert all(before <= after for before, after in pairwise(seen))


def test_what_cannot_be_known_is_not_there() -> None:
    bare = replace(counted(1, 2), active={})
    metrics = exported_names(exposition(snapshot(busy(), bare)))
    assert "lbctl_server_active_connections" not in metrics
    assert "lbctl_service_active_connections" not in metrics


def exported_names(data: bytes) -> set[str]:
    families = text_string_to_metric_families(data.decode())
    return {sample.name for family in families for sample in family.samples}


def test_a_sum_has_a_metric_or_is_a_gauge_of_now() -> None:
    names = {name.removeprefix("lbctl_service_").removesuffix("_total") for name in documented()}
    counters = set(Sums.__struct_fields__) - {"established", "embryonic", "closing", "source"}
    assert counters <= names
