"""The IPVS plane on a real kernel."""

import errno
import json
import subprocess
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.codec import Command, SyncDaemon, SyncRole, Timeouts
from lbctl.dataplane.ipvs.genl import CONTROL, message
from lbctl.dataplane.ipvs.netlink import open_ipvs
from lbctl.dataplane.ipvs.operation import request_of
from lbctl.dataplane.ipvs.plane import IpvsPlane, SyncPlace
from lbctl.dataplane.port import AddServer, AddService, RemoveServer, RemoveService, SetServer
from lbctl.model import (
    Destination,
    Endpoint,
    Forwarding,
    Listen,
    Mode,
    Persistence,
    Scheduler,
    Table,
    VirtualService,
)
from tests.vm.random_table import random_table

pytestmark = pytest.mark.ipvs

WEB = Listen.parse("192.0.2.10:80/tcp")
APP1, APP2 = Endpoint.parse("198.51.100.1:80"), Endpoint.parse("198.51.100.2:80")


NAT = Forwarding()


def web(scheduler="rr", forwarding=NAT, **weights):
    servers = {"app1": APP1, "app2": APP2}
    destinations = {servers[name]: Destination(w, forwarding) for name, w in weights.items()}
    return Table({WEB: VirtualService(Scheduler(scheduler), destinations)})


def ipvsadm(*arguments):
    done = subprocess.run(["ipvsadm", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def nft_rules():
    done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
    return done.stdout


@settings(
    max_examples=2,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**64))
def test_two_hundred_random_services_are_read_back_as_written(plane, seed):
    """And then turned into two hundred others."""
    table = random_table(seed, 200)
    assert [str(one.error) for one in converge(plane, table).refused] == []
    assert plane.observe() == table
    assert converge(plane, table).asked == ()


def test_adopting_a_table_writes_nothing(plane, intent):
    table = web(app1=1, app2=5)
    converge(plane, table)
    again = IpvsPlane(intent)
    assert converge(again, table).asked == ()
    assert set(again.stats().writes.values()) == {0}
    again.close()


def test_one_changed_weight_is_one_write(plane):
    converge(plane, web(app1=1, app2=5))
    before = plane.stats().writes
    converge(plane, web(app1=1, app2=6), web(app1=1, app2=5))
    after = plane.stats().writes
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert changed == {"servers changed": 1}


def test_drift_is_seen_and_healed(plane):
    converge(plane, web(app1=1, app2=5))
    ipvsadm("-d", "-t", "192.0.2.10:80", "-r", "198.51.100.1:80")
    ipvsadm("-e", "-t", "192.0.2.10:80", "-r", "198.51.100.2:80", "-g", "-w", "1", "-x", "9")
    ipvsadm("-E", "-t", "192.0.2.10:80", "-s", "wlc")
    report = converge(plane, web(app1=1, app2=5))
    assert len(report.applied) == 3
    assert plane.observe() == web(app1=1, app2=5)


# --- what is not ours -------------------------------------------------------------------


def test_foreign_services_are_shown_and_left_alone(plane):
    ipvsadm("-A", "-t", "192.0.2.99:80", "-s", "wlc")
    ipvsadm("-a", "-t", "192.0.2.99:80", "-r", "198.51.100.9:80", "-m")
    theirs = ipvsadm("-Sn")
    assert plane.observe() == Table()
    assert list(plane.foreign()) == [Listen.parse("192.0.2.99:80/tcp")]
    converge(plane, web(app1=1))
    converge(plane, Table())
    assert ipvsadm("-Sn") == theirs


def test_a_service_that_another_tool_made_is_not_taken_over(plane):
    """Seen before, or made between our look and our write: its servers stay its own."""
    for seen in (True, False):
        ipvsadm("-A", "-t", "192.0.2.10:80", "-s", "wlc")
        if seen:
            plane.observe()
        theirs = ipvsadm("-Sn")
        refused = converge(plane, web(app1=1), Table()).refused
        assert [str(one.op) for one in refused] == [
            "192.0.2.10:80/tcp: add service (rr)",
            "192.0.2.10:80/tcp: add 198.51.100.1:80 weight 1",
        ]
        assert "another tool" in str(refused[0].error)
        assert ipvsadm("-Sn") == theirs
        assert plane.observe() == Table()
        ipvsadm("-C")
        plane.observe()


def test_a_foreign_server_in_our_service_is_left_alone(plane):
    converge(plane, web(app1=1))
    ipvsadm("-a", "-t", "192.0.2.10:80", "-r", "198.51.100.2:80", "-m", "-w", "7")
    assert plane.observe() == web(app1=1)
    assert plane.foreign() == web(app2=7)
    (refusal,) = converge(plane, web(app1=1, app2=1)).refused
    assert "server is another tool's" in str(refusal.error)
    (refusal,) = converge(plane, Table()).refused
    assert refusal.op == RemoveService(WEB)
    assert "198.51.100.2:80" in ipvsadm("-Sn")


def test_an_intent_of_another_boot_makes_nothing_ours(own_namespace, intent):
    first = IpvsPlane(intent)
    converge(first, web(app1=1))
    first.close()
    document = json.loads(intent.read_text())
    document["place"][0] = "another-boot"
    intent.write_text(json.dumps(document))
    second = IpvsPlane(intent)
    assert second.observe() == Table()
    assert second.foreign() == web(app1=1)
    second.close()


# --- what the kernel refuses ------------------------------------------------------------


def test_a_scheduler_that_the_kernel_lacks_is_named_and_the_rest_is_done(plane):
    other = Listen.parse("192.0.2.11:80/tcp")
    table = Table({other: web("twos", app1=1).services[WEB], **web(app1=1).services})
    refused = converge(plane, table).refused
    assert "this kernel has no scheduler 'twos' (module ip_vs_twos)" in str(refused[0].error)
    assert plane.observe() == web(app1=1)


def test_an_engine_that_the_kernel_lacks_is_named(plane):
    service = VirtualService(Scheduler("rr"), {}, Persistence(60, 32, "none_such"))
    (refusal,) = plane.apply([AddService(WEB, service)])
    assert "ip_vs_pe_none_such" in str(refusal.error)


def test_what_another_tool_removed_is_refused_and_made_again(plane):
    held = web(app1=1, app2=5)
    converge(plane, held)
    ipvsadm("-d", "-t", "192.0.2.10:80", "-r", "198.51.100.1:80")
    (refusal,) = converge(plane, web(app1=2, app2=5), held).refused
    assert "No such destination" in str(refusal.error)
    ipvsadm("-C")
    (refusal,) = converge(plane, web(app1=2, app2=5), held).refused
    assert "No such service" in str(refusal.error)
    assert converge(plane, web(app1=2, app2=5)).refused == ()
    assert plane.observe() == web(app1=2, app2=5)


def test_what_is_there_already_is_refused(plane):
    converge(plane, web(app1=1))
    add = AddServer(WEB, APP1, Destination(3))
    (refusal,) = plane.apply([add])
    assert "File exists" in str(refusal.error)
    assert plane.observe() == web(app1=1)


def test_a_limit_below_its_lower_threshold_is_refused(plane):
    converge(plane, web(app1=1))
    (refusal,) = plane.apply([SetServer(WEB, APP1, Destination(1, Forwarding(), 5, 9))])
    assert refusal.op == SetServer(WEB, APP1, Destination(1, Forwarding(), 5, 9))


def test_ten_thousand_refusals_in_one_batch_are_all_told(plane):
    """Each is an answer that the kernel queues before we read the first."""
    netlink = open_ipvs()
    requests = [request_of(RemoveServer(WEB, APP1))] * 10_000
    assert netlink.write(requests) == [errno.ESRCH] * 10_000
    netlink.close()


def test_an_overrun_in_the_middle_of_a_dump_is_read_again(plane):
    converge(plane, web(app1=1, app2=5))
    netlink = open_ipvs()
    flood(netlink)
    assert len(netlink.dump(Command.GET_SERVICE)) == 1
    netlink.close()


def flood(netlink):
    """More answers than the socket has room for, and nobody who reads them."""
    link = netlink._socket
    wrong = message(CONTROL + 1, 0, 1, 99, b"")
    for _ in range(200):
        link.send(wrong * 2000)


# --- beyond services --------------------------------------------------------------------


def test_full_nat_is_a_rule_of_our_own_table_and_read_back(plane, intent):
    table = web(forwarding=Forwarding(Mode.FULLNAT), app1=1)
    assert converge(plane, table).refused == ()
    assert plane.observe() == table
    assert 'masquerade comment "192.0.2.10:80/tcp"' in nft_rules()
    again = IpvsPlane(intent)
    assert again.observe() == table
    again.close()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert plane.observe() == web(app1=1)  # which differs, and so is healed:
    converge(plane, table)
    assert plane.observe() == table
    converge(plane, web(app1=1))
    assert plane.observe() == web(app1=1)
    assert "lbctl" not in nft_rules()


def test_switches_are_set_with_their_reasons_and_kept(plane):
    table = web(forwarding=Forwarding(Mode.FULLNAT), app1=1)
    converge(plane, table)
    names = {one.name for one in plane.switches()}
    assert {"net.ipv4.vs.expire_nodest_conn", "net.ipv4.vs.conntrack"} <= names
    subprocess.run(["sysctl", "-q", "net.ipv4.vs.expire_nodest_conn=0"], check=True)
    wrong = [one.name for one in plane.switches() if one.found != one.wanted]
    assert wrong == ["net.ipv4.vs.expire_nodest_conn"]
    plane.tend()
    assert all(one.found == one.wanted for one in plane.switches())


def test_a_gateway_of_a_pair_takes_connections_from_their_middle(own_namespace, intent):
    plane = IpvsPlane(intent, pair=True)
    values = {one.name: one.found for one in plane.switches()}
    assert values["net.ipv4.vs.sloppy_tcp"] == 1
    plane.close()


def test_timeouts_are_set_and_read(plane):
    plane.set_timeouts(Timeouts(600, 0, 30))
    assert plane.timeouts() == Timeouts(600, 120, 30)
    assert "Timeout (tcp tcpfin udp): 600 120 30" in ipvsadm("-L", "--timeout")


def test_the_sync_daemon_runs_in_both_roles_at_once(plane):
    for command in ("link add d0 type dummy", "addr add 198.18.0.1/24 dev d0", "link set d0 up"):
        subprocess.run(["ip", *command.split()], check=True)
    assert plane.sync_daemons() == []
    for role in SyncRole:
        plane.start_sync(SyncDaemon(role, "d0", 7))
    assert [(one.role, one.interface, one.id) for one in plane.sync_daemons()] == [
        (SyncRole.MASTER, "d0", 7),
        (SyncRole.BACKUP, "d0", 7),
    ]
    plane.stop_sync(SyncRole.MASTER)
    assert [one.role for one in plane.sync_daemons()] == [SyncRole.BACKUP]
    plane.stop_sync(SyncRole.BACKUP)
    assert plane.sync_daemons() == []
    for _ in range(5):  # at once, mostly before its thread ever ran
        plane.start_sync(SyncDaemon(SyncRole.BACKUP, "d0", 7))
        plane.stop_sync(SyncRole.BACKUP)
    assert plane.sync_daemons() == []


def test_a_pair_whose_sync_daemon_cannot_run_says_so(own_namespace, intent):
    plane = IpvsPlane(intent, pair=True, sync=SyncPlace("nowhere", 7))
    (remark,) = plane.remarks()
    assert "not told to the peer: " in remark
    assert "start the sync master on nowhere" in remark
    plane.close()


def test_a_service_keeps_its_servers_when_its_scheduler_changes(plane):
    converge(plane, web("rr", app1=1, app2=5))
    report = converge(plane, web("wlc", app1=1, app2=5))
    assert len(report.applied) == 1
    assert plane.observe() == web("wlc", app1=1, app2=5)


def test_flags_and_persistence_that_are_dropped_are_gone(plane):
    full = VirtualService(
        Scheduler("sh", frozenset({"sh-port"})), {}, Persistence(60, 24), oneshot=False
    )
    for service in (full, replace(full, scheduler=Scheduler("sh"), persistence=None)):
        table = Table({WEB: service})
        assert converge(plane, table).refused == ()
        assert plane.observe() == table
