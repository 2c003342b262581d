"""What `lbctl ha peer` and the metrics make of replication."""

import msgspec

from lbctl.cli.ha import peer_lines
from lbctl.daemon.metrics import _replication
from lbctl.daemon.shapes import ReplicationView

VIEW = ReplicationView(
    configured=True,
    peer="10.0.0.2:7400",
    node="gw2",
    connected=True,
    synced=True,
    copied=True,
    lag=0.012,
    lag_p99=0.06,
    behind=3,
    entries=214,
    held=2,
    flows=200,
    held_flows=0,
    own=("192.0.2.10:80/tcp",),
    theirs=(),
    same_file=True,
    same_table=False,
    differ=("web/app1: up there, down here",),
    lines=1,
    copies=1,
    resyncs=2,
    faults={"corrupt": 2},
    cuts={"silent for 5 s": 1},
    trouble="",
)


def shown(**changed: object) -> list[str]:
    return [*peer_lines(msgspec.to_builtins(msgspec.structs.replace(VIEW, **changed)))]


def test_the_line_and_what_differs_are_shown() -> None:
    assert shown() == [
        "peer 10.0.0.2:7400: connected to gw2; in sync",
        "  lag: 0.012 s, 3 entries behind",
        "  ours: 192.0.2.10:80/tcp: 214 entries, 200 flows",
        "  theirs: nothing: 2 entries, 0 flows",
        "  the table is not the same on both gateways",
        "  web/app1: up there, down here",
        "  full copies 1, resyncs 2, corrupt 2",
    ]


def test_a_line_that_is_down_says_why() -> None:
    assert shown(connected=False, lag=None)[0] == "peer 10.0.0.2:7400: no line: silent for 5 s"
    assert shown(connected=False, cuts={})[0] == "peer 10.0.0.2:7400: no line: not called yet"
    assert shown(configured=False) == ["no replication (gateway.replication in the file)"]


def test_metrics() -> None:
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in _replication(VIEW)
        for sample in metric.samples
    }
    assert found["lbctl_replication_up",] == 1
    assert found["lbctl_replication_lag_seconds",] == 0.012
    assert found["lbctl_replication_entries", "own"] == 214
    assert found["lbctl_replication_same_table",] == 0
    assert found["lbctl_replication_faults_total",] == 2
    assert found["lbctl_replication_lost_lines_total",] == 1
