"""The smaller parts of the IPVS data path, without a kernel."""

import errno
import json

from hypothesis import given
from hypothesis import settings as examples
from ipvs_tables import tables

from lbctl.dataplane.ipvs.operation import in_force, latest
from lbctl.dataplane.ipvs.refusal import explain
from lbctl.dataplane.ipvs.snat import frontends_in, ruleset
from lbctl.dataplane.ipvs.sysctls import ALWAYS, Setting, enforce, inspect, settings
from lbctl.dataplane.plan import plan
from lbctl.dataplane.port import (
    AddServer,
    AddService,
    RemoveServer,
    RemoveService,
    SetServer,
    Switch,
)
from lbctl.model import (
    Destination,
    Endpoint,
    Listen,
    Persistence,
    Scheduler,
    Table,
    VirtualService,
    parse_frontend,
)

WEB = Listen.parse("192.0.2.10:80/tcp")
SIX = Listen.parse("[2001:db8::10]:53/udp")
MARK = parse_frontend("fwmark:7/ipv6")
APP1, APP2 = Endpoint.parse("198.51.100.1:80"), Endpoint.parse("198.51.100.2:80")
RR = VirtualService(Scheduler("rr"))
ONE, TWO = Destination(1), Destination(2)


def undone(done, held):
    return [op for op in latest(done) if not in_force(op, held)]


# --- reading back ---------------------------------------------------------------------------


@examples(max_examples=25, deadline=None)
@given(tables(max_size=4), tables(max_size=4))
def test_what_was_done_is_in_force(goal, held):
    assert undone(plan(goal, held), goal) == []


@examples(max_examples=25, deadline=None)
@given(tables(min_size=1, max_size=4))
def test_what_is_not_there_was_undone(goal):
    adds = [op for op in plan(goal, Table()) if isinstance(op, AddService)]
    assert undone(adds, Table()) == adds


def test_only_the_last_operation_on_an_object_counts():
    held = Table({WEB: VirtualService(Scheduler("rr"), {APP1: TWO})})
    assert undone([AddServer(WEB, APP1, ONE), SetServer(WEB, APP1, TWO)], held) == []
    assert undone([SetServer(WEB, APP1, TWO), SetServer(WEB, APP1, ONE)], held) == [
        SetServer(WEB, APP1, ONE)
    ]


def test_servers_of_a_service_that_went_are_not_missed():
    done = [AddService(WEB, RR), AddServer(WEB, APP1, ONE), RemoveService(WEB)]
    assert undone(done, Table()) == []


def test_a_removed_server_that_is_still_there_is_told():
    held = Table({WEB: VirtualService(Scheduler("rr"), {APP1: ONE})})
    assert undone([RemoveServer(WEB, APP1)], held) == [RemoveServer(WEB, APP1)]
    assert undone([RemoveServer(WEB, APP2)], held) == []


# --- refusals -------------------------------------------------------------------------------


def test_a_missing_module_is_named():
    service = VirtualService(Scheduler("twos"), {}, Persistence(60, 32, "sip"))
    error = explain(AddService(WEB, service), errno.ENOENT)
    assert "no scheduler 'twos' (module ip_vs_twos)" in error.message
    assert "no persistence engine 'sip' (module ip_vs_pe_sip)" in error.message
    assert "modprobe ip_vs_twos ip_vs_pe_sip" in error.hint


def test_an_errno_means_something_else_for_a_server():
    assert "No such destination" in explain(SetServer(WEB, APP1, ONE), errno.ENOENT).message
    assert "No such service" in explain(SetServer(WEB, APP1, ONE), errno.ESRCH).message
    assert "unicast" in explain(AddServer(WEB, APP1, ONE), errno.EINVAL).hint
    assert "root" in explain(AddServer(WEB, APP1, ONE), errno.EPERM).hint


# --- full NAT -------------------------------------------------------------------------------


def test_the_rules_are_replaced_in_one_transaction():
    assert ruleset([SIX, WEB, MARK]).splitlines() == [
        "add table inet lbctl_fullnat",
        "delete table inet lbctl_fullnat",
        "add table inet lbctl_fullnat",
        "add chain inet lbctl_fullnat source"
        " { type nat hook postrouting priority srcnat; policy accept; }",
        "add rule inet lbctl_fullnat source meta nfproto ipv6 meta mark 7"
        ' masquerade comment "fwmark:7/ipv6"',
        "add rule inet lbctl_fullnat source ct original ip daddr 192.0.2.10"
        ' meta l4proto tcp ct original proto-dst 80 masquerade comment "192.0.2.10:80/tcp"',
        "add rule inet lbctl_fullnat source ct original ip6 daddr 2001:db8::10"
        ' meta l4proto udp ct original proto-dst 53 masquerade comment "[2001:db8::10]:53/udp"',
    ]


def test_without_a_listen_the_table_goes():
    assert ruleset([]).splitlines()[-1] == "delete table inet lbctl_fullnat"


def test_a_rules_comment_says_whose_it_is():
    rules = [{"rule": {"comment": str(one)}} for one in (WEB, SIX)]
    listing = json.dumps({"nftables": [{"metainfo": {}}, {"table": {}}, *rules, {"rule": {}}]})
    assert frontends_in(listing) == {WEB, SIX}


# --- switches -------------------------------------------------------------------------------


def test_each_role_has_its_switches_and_each_switch_its_reason():
    names = {one.sysctl for one in settings(pair=True, fullnat=True, routed_ipv4=True)}
    assert "net.ipv4.vs.sloppy_tcp" in names
    assert "net.ipv4.vs.conntrack" in names
    assert "net.ipv4.ip_forward" in names
    assert "net.ipv6.conf.all.forwarding" not in names
    assert settings() == ALWAYS
    assert all(one.reason for one in settings(True, True, True, True))


def test_what_differs_is_set_and_what_cannot_be_set_is_told(tmp_path):
    (tmp_path / "right").write_text("1\n")
    (tmp_path / "wrong").write_text("0\n")
    right, wrong, absent = (Setting(name, 1, "a reason") for name in ("right", "wrong", "absent"))
    assert enforce((right, wrong, absent), tmp_path) == {}
    assert inspect((right, wrong, absent), tmp_path) == [
        Switch("net.right", 1, 1, "a reason"),
        Switch("net.wrong", 1, 1, "a reason"),
        Switch("net.absent", 1, None, "a reason"),
    ]
