"""What `lbctl ha peer` and the metrics make of replication."""

from ipaddress import ip_address

import msgspec

from lbctl.cli.ha import peer_lines
from lbctl.daemon.metrics import _replication
from lbctl.daemon.ownership import ownership
from lbctl.daemon.shapes import OwnerView, ReplicationView
from lbctl.messages import Role
from lbctl.model import Config, Gateway, Router, parse_frontend

from .stand import service

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
    owners=(
        OwnerView("edge", "g", ("10.0.0.9",), "active", "here", ("web 192.0.2.10:80/tcp",)),
        OwnerView("back", "g", ("198.51.100.1",), "active", "here", ()),
        OwnerView("cross", "", ("192.0.2.20",), "backup", "there", ("shop 192.0.2.20:80/tcp",)),
        OwnerView("new", "", ("192.0.2.30",), "", "", ()),
    ),
    same_file=True,
    same_table=False,
    differ=("web/app1: up there, down here",),
    lines=1,
    lost=1,
    copies=1,
    resyncs=2,
    faults={"corrupt": 2},
    cuts={"silent for 5 s": 1},
    trouble="",
)


OWNERS = [
    "  edge (10.0.0.9, group g): here, active here: web 192.0.2.10:80/tcp",
    "  back (198.51.100.1, group g): here, active here: the servers' way back",
    "  cross (192.0.2.20): at gw2, backup here: shop 192.0.2.20:80/tcp",
    "  new (192.0.2.30): nobody known, unheard here: the servers' way back",
]


def shown(**changed: object) -> list[str]:
    return [*peer_lines(msgspec.to_builtins(msgspec.structs.replace(VIEW, **changed)))]


def test_the_line_and_what_differs_are_shown() -> None:
    assert shown() == [
        "peer 10.0.0.2:7400: connected to gw2; in sync",
        "  lag: 0.012 s, 3 entries behind",
        "  ours: 192.0.2.10:80/tcp: 214 entries, 200 flows",
        "  theirs: nothing: 2 entries, 0 flows",
        *OWNERS,
        "  the table is not the same on both gateways",
        "  web/app1: up there, down here",
        "  full copies 1, resyncs 2, corrupt 2",
    ]


def test_a_line_that_is_down_says_why() -> None:
    assert shown(connected=False, lag=None)[0] == "peer 10.0.0.2:7400: no line: silent for 5 s"
    assert shown(connected=False, cuts={})[0] == "peer 10.0.0.2:7400: no line: not called yet"
    alone = ["no replication (gateway.replication in the file)", *OWNERS]
    assert shown(configured=False) == alone


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


CROSSED = Config(
    Gateway("front"),
    {"web": service(1), "shop": service(2, listens="192.0.2.20:80/tcp 192.0.2.10:81/tcp")},
    {
        name: Router(name, "front", vrid, (ip_address(address),), group=group)
        for name, vrid, address, group in (
            ("edge", 7, "192.0.2.10", "g"),
            ("back", 8, "198.51.100.1", "g"),
            ("cross", 9, "192.0.2.20", ""),
        )
    },
)
WEB, SHOP, SHOP_TOO = map(
    parse_frontend, ("192.0.2.10:80/tcp", "192.0.2.20:80/tcp", "192.0.2.10:81/tcp")
)


def owners_of(edge: Role, cross: Role) -> dict[str, str]:
    roles = {"edge": edge, "back": edge, "cross": cross}
    mine = {WEB, SHOP_TOO} if edge is Role.ACTIVE else set()
    mine |= {SHOP} if cross is Role.ACTIVE else set()
    found = ownership(CROSSED, roles, mine, {WEB, SHOP_TOO, SHOP} - mine)
    return {one.router: one.owner for one in found}


def test_each_virtual_router_has_an_owner_and_the_way_back_is_its_group_s() -> None:
    active, backup = Role.ACTIVE, Role.BACKUP
    assert owners_of(active, backup) == {"edge": "here", "back": "here", "cross": "there"}
    assert owners_of(backup, active) == {"edge": "there", "back": "there", "cross": "here"}


def test_a_service_whose_listens_lie_on_both_is_shown_with_each() -> None:
    found = {one.router: one.listens for one in ownership(CROSSED, {}, set(), set())}
    assert found["edge"] == ("shop 192.0.2.10:81/tcp", "web 192.0.2.10:80/tcp")
    assert (found["cross"], found["back"]) == (("shop 192.0.2.20:80/tcp",), ())


def test_without_a_word_from_either_nobody_owns_anything() -> None:
    assert {(one.owner, one.role) for one in ownership(CROSSED, {}, set(), set())} == {("", "")}
