"""The VRRP process in the kernel: what it sets up, puts back, survives and explains."""

import json
import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lbctl.errors import LbctlError
from lbctl.lab import Host, eventually
from lbctl.messages import HandOver, Quorum, Resume, Routers, StandBy
from tests.lab.vrrp.speakers import Lbctl, Spec
from tests.lab.vrrp.stand import Stand
from tests.unit.vrrp.clauses import covers

pytestmark = pytest.mark.lab
VIP, VIP6 = "192.0.2.10", "2001:db8:1::10"
HIGH = Spec(VIP, priority=200, interval=0.1)
LOW = replace(HIGH, priority=100)
LINKS = ["ip", "-j", "link", "show", "type", "macvlan"]


def sysctl(host: Host, name: str) -> str:
    return host.run(["sysctl", "-n", f"net.ipv4.conf.front.{name}"]).stdout.strip()


def neighbour(host: Host, address: str) -> str:
    """The MAC that answers for `address`."""
    host.run(["ip", "neigh", "flush", "dev", "front"])
    probe = f"import socket; socket.create_connection(('{address}', 9), 1)"
    host.run(["python3", "-c", probe], check=False)
    words = host.run(["ip", "neigh", "show", address]).stdout.split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def filtered(stand: Stand) -> str:
    """What local programs do not get."""
    table = ["nft", "list", "table", "inet", "lbctl-vrrp"]
    return stand.lab.gateways[0].run(table, check=False).stdout


# --- addresses --------------------------------------------------------------------------


@covers("9568 6.4.3-7", "9568 8.1.2-1", "9568 8.2.2")
@pytest.mark.parametrize(("vip", "mac"), [(VIP, "00:00:5e:00:01:07"), (VIP6, "00:00:5e:00:02:07")])
def test_the_virtual_mac_answers(stand: Stand, vip: str, mac: str) -> None:
    stand.start(replace(HIGH, vip=vip), replace(LOW, vip=vip))
    eventually(lambda: neighbour(stand.lab.client, vip) == mac)


@covers("9568 6.4.2-7")
def test_a_backup_has_neither_the_addresses_nor_the_virtual_mac(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    states = [
        {one["ifname"]: one["operstate"] for one in json.loads(host.run(LINKS).stdout)}
        for host in stand.lab.gateways
    ]
    assert [set(one.values()) for one in states] == [{"UP"}, {"DOWN"}]
    assert [stand.holds(host, VIP) for host in stand.lab.gateways] == [True, False]


def test_the_own_mac_answers_where_that_is_wanted(stand: Stand) -> None:
    stand.start(replace(HIGH, own_mac=True))
    own = stand.lab.gateways[0].spec.nics[0].mac
    eventually(lambda: neighbour(stand.lab.client, VIP) == own)


def test_the_parent_does_not_answer_for_the_macvlan_and_its_settings_come_back(
    stand: Stand,
) -> None:
    gateway = stand.lab.gateways[0]
    before = sysctl(gateway, "arp_ignore"), sysctl(gateway, "arp_announce")
    stand.start(HIGH)
    assert (sysctl(gateway, "arp_ignore"), sysctl(gateway, "arp_announce")) == ("1", "2")
    stand.one.stop()
    assert (sysctl(gateway, "arp_ignore"), sysctl(gateway, "arp_announce")) == before
    assert "vr4-" not in gateway.run(["ip", "link"]).stdout


def test_what_a_killed_process_left_is_removed_by_the_next(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    stand.start(replace(HIGH, own_mac=True))
    stand.crash(stand.one)
    assert stand.holds(gateway, VIP)
    stand.one.start(replace(HIGH, extra={"hold": 60}))
    stand.expect(stand.one, "initialize")
    assert not stand.holds(gateway, VIP)
    stand.one.stop()
    stand.start(HIGH)
    stand.crash(stand.one)
    stand.one.start(replace(HIGH, extra={"hold": 60}))
    stand.expect(stand.one, "initialize")
    assert not stand.holds(gateway, VIP)
    stand.one.stop()
    assert sysctl(gateway, "arp_ignore") == "0"


def test_an_address_of_somebody_else_is_a_fault_with_the_mend(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    gateway.run(["ip", "address", "add", f"{VIP}/32", "dev", "front"])
    before = stand.one.log().count("web: active")
    try:
        stand.one.start(replace(HIGH, own_mac=True))
        found = stand.expect(stand.one, "fault")
        assert f"{VIP} is on front already, and not lbctl's" in found.why[0]
        eventually(lambda: "web: fault" in stand.one.log())
        assert stand.one.log().count("web: active") == before, "it never was"
    finally:
        gateway.run(["ip", "address", "del", f"{VIP}/32", "dev", "front"])


@covers("9568 6.1-4")
def test_without_accept_local_programs_get_nothing(stand: Stand) -> None:
    gateway, client = stand.lab.gateways[0], stand.lab.client
    ask = ["python3", "-c", f"import socket; socket.create_connection(('{VIP}', 9), 1)"]
    stand.start(replace(HIGH, extra={"accept": False}))

    def deaf() -> bool:
        said = client.run(ask, check=False).stderr
        assert "timed out" in said or "TimeoutError" in said, said
        return True

    eventually(deaf)
    stand.one.write(HIGH)
    stand.one.processes[0].kill(signal.SIGHUP)
    eventually(lambda: "refused" in client.run(ask, check=False).stderr.lower())
    assert "lbctl-vrrp" not in gateway.run(["nft", "list", "tables"]).stdout


@covers("9568 6.1-4")
def test_what_a_killed_process_filtered_passes_again(stand: Stand) -> None:
    stand.start(replace(HIGH, extra={"accept": False}))
    eventually(lambda: VIP in filtered(stand))
    stand.crash(stand.one)
    assert VIP in filtered(stand)
    stand.start(HIGH)
    eventually(lambda: filtered(stand) == "")


def test_one_that_waited_for_another_to_leave_gets_all_that_is_its_own(stand: Stand) -> None:
    """Another VRID under the old name: the old router leaves first."""
    script = {"type": "script", "subject": "false", "interval": 0.1}
    stand.start(replace(HIGH, extra={"accept": False}))
    eventually(lambda: VIP in filtered(stand))
    other = replace(HIGH, vip="192.0.2.11", vrid=9, extra={"accept": False, "trackers": [script]})
    stand.one.write(other)
    stand.one.processes[0].kill(signal.SIGHUP)
    assert "script false: exit code 1" in stand.expect(stand.one, "fault").why[0]
    eventually(lambda: "192.0.2.11" in filtered(stand))
    assert VIP not in filtered(stand)


# --- interfaces -------------------------------------------------------------------------


def test_an_interface_that_goes_down_is_a_fault(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    stand.plug("lb1-front", False)
    found = stand.expect(stand.one, "fault")
    assert "front has no carrier" in found.why[0]
    stand.expect(stand.two, "active")
    stand.plug("lb1-front", True)
    stand.expect(stand.one, "active")
    stand.expect(stand.two, "backup")


def test_an_interface_that_is_renamed_is_a_fault_until_it_is_back(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    stand.start(HIGH, LOW)
    for old, new in (("front", "elsewhere"), ("elsewhere", "front")):
        gateway.run(["ip", "link", "set", old, "down"])
        gateway.run(["ip", "link", "set", old, "name", new])
        gateway.run(["ip", "link", "set", new, "up"])
        if new == "elsewhere":
            assert "front: no such interface" in stand.expect(stand.one, "fault").why[0]
            stand.expect(stand.two, "active")
    stand.expect(stand.one, "active")


def test_an_interface_that_is_deleted_is_a_fault_until_there_is_another(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]

    def make() -> None:
        gateway.run(["ip", "link", "add", "edge", "type", "veth", "peer", "name", "edge-peer"])
        gateway.run(["ip", "address", "add", "203.0.113.2/24", "dev", "edge"])
        for end in ("edge", "edge-peer"):
            gateway.run(["ip", "link", "set", end, "up"])

    make()
    try:
        on_edge = replace(HIGH, vip="203.0.113.10", vrid=9, extra={"interface": "edge"})
        stand.one.start(HIGH, on_edge)
        stand.expect(stand.one, "active", "web2")
        since = time.monotonic()
        gateway.run(["ip", "link", "delete", "edge"])
        assert "edge: no such interface" in stand.expect(stand.one, "fault", "web2").why[0]
        make()
        stand.expect(stand.one, "active", "web2")
        assert max(stand.gaps("192.0.2.2", since)) < 0.15, "the other router has not noticed"
    finally:
        gateway.run(["ip", "link", "delete", "edge"], check=False)


def test_another_address_on_the_interface_is_the_next_advert_s_source(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    stand.start(HIGH)
    gateway.run(["ip", "address", "add", "192.0.2.77/25", "dev", "front"])
    gateway.run(["ip", "address", "del", "192.0.2.2/24", "dev", "front"])
    try:
        eventually(lambda: stand.ear.active(0.15) == {"192.0.2.77"})
        gateway.run(["ip", "address", "del", "192.0.2.77/25", "dev", "front"])
        assert "no IPv4 address" in stand.expect(stand.one, "fault").why[0]
    finally:
        gateway.run(["ip", "address", "replace", "192.0.2.2/24", "dev", "front"])
    stand.expect(stand.one, "active")


def test_one_peer_that_cannot_be_sent_to_is_told_and_moves_nothing(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    peers = {"peers": ["192.0.2.3", "192.0.2.77"]}
    cut = "table inet cut { chain out { type filter hook output priority 0 ;"
    gateway.run(["nft", f"add {cut} ip daddr 192.0.2.77 drop ; }} ; }}"])
    try:
        stand.start(replace(HIGH, extra=peers), replace(LOW, peer="192.0.2.2", source="192.0.2.3"))
        stand.listen(1.0)
        one, two = stand.standing(stand.one), stand.standing(stand.two)
        assert (one.role, two.role) == ("active", "backup")
        assert one.counts["active_transitions"] == 1
        (line,) = [line for line in one.why if "cannot be sent" in line]
        assert "192.0.2.77: Operation not permitted (nft list ruleset" in line
    finally:
        gateway.run(["nft", "delete table inet cut"])
    eventually(lambda: not any("cannot be sent" in w for w in stand.standing(stand.one).why))


def test_a_tracked_interface_takes_from_the_priority(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    track = {"trackers": [{"type": "interface", "subject": "back", "weight": -150}]}
    stand.start(replace(HIGH, extra=track), LOW)
    gateway.run(["ip", "link", "set", "back", "down"])
    try:
        stand.expect(stand.two, "active")
        found = stand.expect(stand.one, "backup")
        assert "priority 50: configured 200, -150 as interface back fails" in found.why
    finally:
        gateway.run(["ip", "link", "set", "back", "up"])
    stand.expect(stand.one, "active")


# --- policy -----------------------------------------------------------------------------


def test_orders_are_obeyed_explained_and_outlive_the_process(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    stand.ask(stand.one, HandOver("web", "test"))
    stand.expect(stand.two, "active")
    found = stand.expect(stand.one, "backup")
    stand.listen(0.5)
    assert "failover was ordered" in " ".join(stand.standing(stand.one).why), found.why
    stand.ask(stand.one, Resume("web"))
    stand.expect(stand.one, "active")
    stand.ask(stand.one, StandBy("web", "disk"))
    assert "standby ordered: disk" in stand.expect(stand.one, "initialize").why[0]
    saved = stand.one.home / "state" / "vrrp.json"
    eventually(lambda: "standby ordered: disk" in saved.read_text())
    stand.crash(stand.one)
    stand.one.start(HIGH)
    assert "standby ordered: disk" in stand.expect(stand.one, "initialize").why[0]
    stand.ask(stand.one, Resume("web"))
    stand.expect(stand.one, "active")


def test_failover_of_what_is_not_active_is_refused(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    with pytest.raises(LbctlError, match="web: cannot hand over: it is not active here"):
        stand.ask(stand.two, HandOver("web"))
    with pytest.raises(LbctlError, match="no such virtual router"):
        stand.ask(stand.two, HandOver("wep"))


def test_a_quorum_that_is_lost_is_a_fault_and_hands_over(stand: Stand) -> None:
    track = {"trackers": [{"type": "quorum", "subject": "shop"}]}
    stand.start(replace(HIGH, extra=track), LOW)
    stand.ask(stand.one, Quorum("shop", False))
    assert "too few servers are up" in stand.expect(stand.one, "fault").why[0]
    stand.expect(stand.two, "active")
    stand.ask(stand.one, Quorum("shop", True))
    stand.expect(stand.one, "active")


def test_a_script_counts_after_fall_failures(stand: Stand, tmp_path: Path) -> None:
    flag = tmp_path / "well"
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o055)
    flag.touch()
    script = {"type": "script", "subject": f"test -e {flag}", "interval": 0.1, "fall": 2}
    stand.start(replace(HIGH, extra={"trackers": [script]}), LOW)
    flag.unlink()
    assert "exit code 1" in stand.expect(stand.one, "fault").why[0]
    flag.touch()
    stand.expect(stand.one, "active")


def test_notify_commands_come_in_order_with_keepalived_s_arguments(
    stand: Stand, tmp_path: Path
) -> None:
    script, heard = tmp_path / "notify", tmp_path / "heard"
    # The first call is the slowest: order is not luck.
    script.write_text(f'#!/bin/sh\n[ "$3" = BACKUP ] && sleep 0.3\necho "$@" >> {heard}\n')
    script.chmod(0o755)
    notify = {"notify": {"command": str(script), "keepalived": True, "user": "root"}}
    stand.start(replace(HIGH, extra=notify))
    stand.ask(stand.one, StandBy("web"))
    stand.expect(stand.one, "initialize")
    stand.ask(stand.one, Resume("web"))
    stand.expect(stand.one, "active")
    states = ["BACKUP", "MASTER", "STOP", "BACKUP", "MASTER"]
    lines = [f"INSTANCE web {state} 200" for state in states]
    eventually(lambda: heard.exists() and heard.read_text().splitlines() == lines)
    stand.one.stop()  # the process ends after its helper, which ends after the last command
    assert heard.read_text().splitlines() == [*lines, "INSTANCE web STOP 200"]


def test_a_sync_group_moves_as_one(stand: Stand) -> None:
    group = {"group": "edge"}
    other = replace(HIGH, vip="192.0.2.11", vrid=8)
    ones = [replace(s, extra=group) for s in (HIGH, other)]
    twos = [replace(s, priority=100, extra=group) for s in (HIGH, other)]
    stand.one.start(*ones)
    stand.two.start(*twos)
    for name in ("web", "web2"):
        stand.expect(stand.one, "active", name)
        stand.expect(stand.two, "backup", name)
    stand.ask(stand.one, HandOver("web"))
    for name in ("web", "web2"):
        stand.expect(stand.two, "active", name)
        stand.expect(stand.one, "backup", name)


def test_both_gateways_are_active_for_one_address_each(stand: Stand) -> None:
    other = replace(HIGH, vip="192.0.2.11", vrid=8)
    stand.one.start(HIGH, replace(other, priority=100))
    stand.two.start(LOW, other)
    for speaker, roles in ((stand.one, ("active", "backup")), (stand.two, ("backup", "active"))):
        for name, role in zip(("web", "web2"), roles, strict=True):
            stand.expect(speaker, role, name)
    stand.crash(stand.two)
    stand.expect(stand.one, "active", "web2")


def test_two_actives_are_told_and_healed(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    # The second hears nothing from the first, and the other way round.
    for gateway in stand.lab.gateways:
        gateway.run(["nft", "add table inet cut; add chain inet cut in { type filter hook"
                     " prerouting priority -300 ; } ; add rule inet cut in meta l4proto vrrp"
                     " drop"])  # fmt: skip
    try:
        stand.expect(stand.two, "active")
        stand.expect(stand.one, "active")
        # The first hears the second again, and is not heard.
        stand.lab.gateways[0].run(["nft", "delete table inet cut"])
        eventually(lambda: "192.0.2.3 is active too, with priority 100" in stand.one.log())
        assert "TWO ACTIVES: 192.0.2.3" in " ".join(stand.standing(stand.one).why)
    finally:
        for gateway in stand.lab.gateways:
            gateway.run(["nft", "delete table inet cut"], check=False)
    stand.expect(stand.two, "backup")
    assert stand.standing(stand.one).counts["two_actives"] > 0
    eventually(lambda: "the other active is silent now" in stand.one.log())


# --- the process ------------------------------------------------------------------------


def test_without_a_real_time_scheduler_fast_adverts_are_refused(stand: Stand) -> None:
    class Ordinary(Lbctl):
        def _run(self, argv: list[str], log: str) -> None:
            super()._run(["setpriv", "--bounding-set", "-sys_nice", *argv], log)

    stand.one = Ordinary(stand.lab.gateways[0])
    stand.one.start(replace(HIGH, interval=0.01))
    found = stand.expect(stand.one, "fault")
    assert "adverts faster than 100 ms need SCHED_FIFO" in found.why[0]
    assert any("SCHED_FIFO 50 is not granted" in line for line in found.why)
    eventually(lambda: "SCHED_FIFO 50 is not granted" in stand.one.log())
    stand.one.write(HIGH)
    stand.one.processes[0].kill(signal.SIGHUP)
    stand.expect(stand.one, "active")


def test_the_process_is_real_time_and_its_helper_is_not(stand: Stand) -> None:
    stand.start(HIGH)
    group = stand.one.processes[0].pid
    rows = stand.lab.gateways[0].run(["ps", "-o", "cls=,args=", "--sid", str(group)], check=False)
    classes = {
        ("watch" if "vrrp.watch" in row else "run"): row.split()[0]
        for row in rows.stdout.splitlines()
    }
    assert classes == {"run": "FF", "watch": "TS"}


def test_all_its_threads_are_real_time(stand: Stand) -> None:
    """An ordinary one that holds the interpreter's lock would stop the loop."""
    stand.start(HIGH)
    tasks = list(Path(f"/proc/{stand.one.processes[0].pid}/task").iterdir())
    policies = [os.sched_getscheduler(int(task.name)) for task in tasks]
    assert [one & ~os.SCHED_RESET_ON_FORK for one in policies] == [os.SCHED_FIFO] * len(tasks)
    assert len(tasks) > 1


def test_a_second_sigterm_ends_it_at_once(stand: Stand) -> None:
    stand.start(HIGH)
    process, since = stand.one.processes[0], time.monotonic()
    process.kill(signal.SIGTERM)
    eventually(lambda: "active, handing over" in stand.standing(stand.one).why[0])
    with pytest.raises(LbctlError, match="is stopping"):
        stand.ask(stand.one, Routers(()))
    process.kill(signal.SIGTERM)
    eventually(lambda: not stand.holds(stand.lab.gateways[0], VIP))
    assert time.monotonic() - since < 2.5, "it waited for a successor"
    process.wait()
    assert not stand.holds(stand.lab.gateways[0], VIP)


def test_a_helper_that_dies_is_replaced(stand: Stand) -> None:
    stand.start(HIGH)
    helpers = [p for p in stand.lab.gateways[0].processes() if "vrrp.watch" in p.command]
    (helper,) = helpers
    helper_pid = helper.pid
    os.kill(helper_pid, signal.SIGKILL)

    def another() -> bool:
        return any(
            "vrrp.watch" in p.command and p.pid != helper_pid
            for p in stand.lab.gateways[0].processes()
        )

    eventually(another)
    assert stand.standing(stand.one).role == "active"


def test_a_reload_with_many_routers_lets_no_advert_wait_for_all_of_them(stand: Stand) -> None:
    fast = replace(HIGH, interval=0.05)
    others = [replace(HIGH, vip=f"192.0.2.{100 + n}", vrid=20 + n) for n in range(40)]
    stand.start(fast, replace(fast, priority=100))
    for routers in ([fast, *others], [fast]):
        since = time.monotonic()
        stand.one.write(*routers)
        stand.one.processes[0].kill(signal.SIGHUP)
        eventually(partial(stand.has, stand.one, len(routers)), timeout=15)
        if len(routers) > 1:
            stand.expect(stand.one, "active", "web41")
        assert max(stand.gaps("192.0.2.2", since)) < 0.15
    assert "late_sender" not in stand.standing(stand.one).counts
    assert stand.standing(stand.two).role == "backup"


def test_a_file_that_is_wrong_changes_nothing(stand: Stand) -> None:
    stand.start(HIGH)
    settings = stand.one.home / "settings.json"
    broken = json.loads(settings.read_text())
    broken["routers"][0]["vrid"] = 999
    settings.write_text(json.dumps(broken))
    stand.one.processes[0].kill(signal.SIGHUP)
    eventually(lambda: "vrid 999: 1 to 255" in stand.one.log())
    assert stand.standing(stand.one).role == "active"


def test_a_reload_neither_moves_the_address_nor_misses_an_advert(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    before = stand.standing(stand.two).counts.get("active_transitions", 0)
    since = time.monotonic()
    for priority in (210, 220, 230):
        stand.one.write(replace(HIGH, priority=priority))
        stand.one.processes[0].kill(signal.SIGHUP)
        eventually(lambda p=priority: stand.standing(stand.one).priority == p)
    stand.listen(0.3)
    assert max(stand.gaps("192.0.2.2", since)) < 0.15
    assert stand.standing(stand.two).counts.get("active_transitions", 0) == before
