"""The plane on a kernel and an nft in memory: one trouble stays where it belongs."""

import errno
import json
from contextlib import suppress

import pytest
from ipvs_kernel import Kernel

from lbctl.daemon.reading import _of_others
from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs import plane as planes
from lbctl.dataplane.ipvs.codec import Command, Dest, Svc, SyncDaemon, SyncRole
from lbctl.dataplane.ipvs.genl import attribute
from lbctl.dataplane.ipvs.operation import request_of
from lbctl.dataplane.ipvs.plane import IpvsPlane, SyncPlace
from lbctl.dataplane.port import AddServer, AddService, RemoveServer, RemoveService
from lbctl.dataplane.select import _empty
from lbctl.model import (
    Destination,
    Encapsulation,
    Endpoint,
    Forwarding,
    Listen,
    Mode,
    Scheduler,
    Table,
    Tunnel,
    VirtualService,
)

WEB, FULL = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.20:80/tcp")
APP1, APP2 = Endpoint.parse("198.51.100.1:80"), Endpoint.parse("198.51.100.2:80")
RR = VirtualService(Scheduler("rr"))
NFT = """#!/bin/sh
cd "$(dirname "$0")" || exit
test ! -e broken || { echo broken >&2; exit 1; }
case "$1" in
-f) cat > rules ;;
-j) cat listing 2>/dev/null || { echo 'No such file or directory' >&2; exit 1; } ;;
esac
"""


def served(frontend, mode, *servers):
    destinations = {one: Destination(1, Forwarding(mode)) for one in servers or (APP1, APP2)}
    return Table({frontend: VirtualService(Scheduler("rr"), destinations)})


def both(*tables):
    return Table({f: s for table in tables for f, s in table.services.items()})


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    made = Kernel(tmp_path / "sysctls")
    monkeypatch.setattr(planes, "open_ipvs", lambda: made)
    return made


class Nft:
    """A program of that name, first on the PATH: `missing`, `broken` or at work."""

    def __init__(self, where):
        self.where = where

    def install(self):
        (self.where / "nft").write_text(NFT)
        (self.where / "nft").chmod(0o755)

    def break_down(self):
        (self.where / "broken").touch()

    def mend(self):
        (self.where / "broken").unlink()

    def list(self, *comments):
        rules = [{"rule": {"comment": one}} for one in comments]
        (self.where / "listing").write_text(json.dumps({"nftables": rules}))

    @property
    def rules(self):
        return (self.where / "rules").read_text()


@pytest.fixture
def nft(tmp_path, monkeypatch):
    where = tmp_path / "bin"
    where.mkdir()
    monkeypatch.setenv("PATH", str(where))
    for name in ("sh", "cat", "dirname"):
        (where / name).symlink_to(f"/bin/{name}" if name != "dirname" else "/usr/bin/dirname")
    return Nft(where)


def opened(kernel, tmp_path):
    return IpvsPlane(tmp_path / "ipvs.json", sysctls=kernel.root)


# --- full NAT -------------------------------------------------------------------------------


def test_without_nft_only_full_nat_is_refused(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    goal = both(served(FULL, Mode.FULLNAT, APP1), served(WEB, Mode.NAT))
    (refusal,) = converge(plane, goal).refused
    assert refusal.op == AddServer(FULL, APP1, Destination(1, Forwarding(Mode.FULLNAT)))
    assert "nft is not installed" in str(refusal.error)
    assert plane.observe().services[WEB] == goal.services[WEB]
    nft.install()
    assert converge(plane, goal).refused == ()
    assert str(FULL) in nft.rules
    nft.list(str(FULL))
    assert plane.observe() == goal


def test_a_broken_nft_blocks_no_removal_and_is_tried_again(kernel, nft, tmp_path):
    nft.install()
    plane = opened(kernel, tmp_path)
    converge(plane, both(served(FULL, Mode.FULLNAT), served(WEB, Mode.NAT)))
    nft.list(str(FULL))
    nft.break_down()
    assert converge(plane, served(WEB, Mode.NAT)).refused == ()  # the listen goes
    assert plane.apply([RemoveServer(WEB, APP1)]) == []  # a dead server of another one
    (remark,) = plane.remarks()
    assert "nft refused its table: broken" in remark
    nft.mend()
    plane.tend()
    assert plane.remarks() == []
    assert "masquerade" not in nft.rules


def test_what_is_translated_already_goes_on_while_nft_is_broken(kernel, nft, tmp_path):
    nft.install()
    plane = opened(kernel, tmp_path)
    converge(plane, served(FULL, Mode.FULLNAT, APP1))
    nft.list(str(FULL))
    nft.break_down()
    assert converge(plane, served(FULL, Mode.FULLNAT)).refused == ()
    assert plane.observe() == served(FULL, Mode.FULLNAT)


def test_rules_that_a_process_before_us_left_are_found(kernel, nft, tmp_path):
    nft.install()
    nft.list(str(FULL))
    plane = opened(kernel, tmp_path)
    plane.tend()
    assert "masquerade" not in nft.rules


def test_full_nat_is_refused_where_the_kernel_cannot_keep_its_entries(kernel, nft, tmp_path):
    """A kernel without CONFIG_IP_VS_NFCT has no such switch."""
    nft.install()
    (kernel.root / "ipv4/vs/conntrack").unlink()
    plane = opened(kernel, tmp_path)
    refused = converge(plane, both(served(FULL, Mode.FULLNAT), served(WEB, Mode.NAT))).refused
    assert {one.op.frontend for one in refused} == {FULL}
    assert "net.ipv4.vs.conntrack: this kernel has no such switch" in str(refused[0].error)


def test_a_rule_that_somebody_else_put_there_stops_nothing(kernel, nft, tmp_path):
    nft.install()
    plane = opened(kernel, tmp_path)
    converge(plane, served(FULL, Mode.FULLNAT))
    nft.list(str(FULL), "somebody else's")
    assert plane.observe() == served(FULL, Mode.FULLNAT)
    (nft.where / "listing").write_text("{")
    assert plane.observe() == served(FULL, Mode.FULLNAT)
    plane.tend()
    assert "cannot read what nft lists" in plane.remarks()[0]
    nft.list(str(FULL))
    plane.observe()
    assert plane.remarks() == []


# --- what is not ours -----------------------------------------------------------------------


def test_a_server_of_an_unknown_kind_is_passed_over_and_left_alone(kernel, nft, tmp_path):
    """Another tool's, of a tunnel that this version does not know."""
    plane = opened(kernel, tmp_path)
    converge(plane, served(WEB, Mode.NAT, APP1))
    gre = Destination(1, Forwarding(Mode.TUN, Tunnel(Encapsulation.GRE)))
    kernel._take(*request_of(AddServer(WEB, APP2, gre)))
    (key,) = [one for one in kernel.servers[WEB] if one[0].startswith(APP2.address.packed)]
    known = bytes(kernel.servers[WEB][key])
    kind, unknown = (attribute(Dest.TUN_TYPE, number) for number in (b"\2", b"\x63"))
    kernel.servers[WEB][key] = memoryview(known.replace(kind, unknown))
    assert plane.observe() == served(WEB, Mode.NAT, APP1)
    (remark,) = plane.remarks()
    assert "192.0.2.10:80/tcp: left alone: " in remark
    assert "tunnel type 99" in remark
    (refusal,) = plane.apply([RemoveService(WEB)])
    assert "is another tool's" in str(refusal.error)
    assert key in kernel.servers[WEB]


def test_a_server_that_came_since_we_looked_keeps_its_service(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    converge(plane, served(WEB, Mode.NAT, APP1))
    kernel._take(*request_of(AddServer(WEB, APP2, Destination(7))))
    (refusal,) = plane.apply([RemoveService(WEB)])
    assert "server 198.51.100.2:80 is another tool's" in str(refusal.error)
    assert WEB in kernel.services
    kernel._take(*request_of(RemoveServer(WEB, APP2)))
    assert plane.apply([RemoveService(WEB)]) == []
    assert kernel.services == {}


class Killed(BaseException):
    """The process is gone."""


def test_who_dies_while_it_adds_does_not_own_what_another_tool_made(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    ops = [AddService(WEB, RR), AddServer(WEB, APP1, Destination(1))]
    kernel._take(*request_of(ops[0]))  # another tool's

    def die(_):
        raise Killed

    alive, kernel.write = kernel.write, die
    with suppress(Killed):
        refused = plane.apply(ops)
        assert [one.op for one in refused] == ops
        assert "the service is another tool's" in str(refused[0].error)
    kernel.write = alive
    assert opened(kernel, tmp_path).observe() == Table()


# --- a pair -----------------------------------------------------------------------------


EDGE, BACK = SyncPlace("eth0", 7), SyncPlace("eth1", 8)


def running(plane):
    return {str(one.role): (one.interface, one.id) for one in plane.sync_daemons()}


def test_a_gateway_joins_a_pair_moves_and_leaves(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    assert kernel.switch("ipv4/vs/sloppy_tcp") == 0
    plane.join(True, EDGE)
    assert kernel.switch("ipv4/vs/sloppy_tcp") == 1
    assert running(plane) == {"master": EDGE, "backup": EDGE}
    plane.join(True, BACK)
    assert running(plane) == {"master": BACK, "backup": BACK}
    plane.join(False, None)
    assert running(plane) == {}


def test_what_a_process_before_us_started_is_known(kernel, nft, tmp_path):
    first = opened(kernel, tmp_path)
    first.join(True, EDGE)
    IpvsPlane(tmp_path / "ipvs.json", True, BACK, kernel.root)
    assert running(first) == {"master": BACK, "backup": BACK}
    opened(kernel, tmp_path)
    assert running(first) == {}


def test_a_role_that_somebody_else_started_is_left_to_them(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    plane.start_sync(SyncDaemon(SyncRole.MASTER, "eth9", 1))
    plane.join(True, EDGE)
    assert running(plane) == {"master": ("eth9", 1), "backup": EDGE}
    plane.join(False, None)
    assert running(plane) == {"master": ("eth9", 1)}


def test_a_sync_daemon_that_cannot_run_is_told_and_tried_again(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    kernel.refuse[Command.NEW_DAEMON] = errno.ENODEV
    plane.join(True, EDGE)
    assert "start the sync master on eth0: No such device" in plane.remarks()[0]
    kernel.refuse.clear()
    plane.tend()
    assert plane.remarks() == []
    assert running(plane) == {"master": EDGE, "backup": EDGE}


def test_ipvs_that_another_data_path_replaced_tells_no_peer_any_more(kernel, nft, tmp_path):
    plane = opened(kernel, tmp_path)
    converge(plane, served(WEB, Mode.NAT))
    plane.join(True, EDGE)
    _empty(tmp_path / "ipvs.json", kernel.root)
    assert running(plane) == {}
    assert kernel.services == {}


# --- numbers --------------------------------------------------------------------------------


def test_a_services_numbers_stay_when_a_server_goes(kernel, tmp_path):
    plane = opened(kernel, tmp_path)
    converge(plane, served(WEB, Mode.NAT))
    kernel.connect(WEB, APP1, 1000)
    kernel.connect(WEB, APP2, 500)
    assert plane.stats().service(WEB).connections == 1500
    converge(plane, served(WEB, Mode.NAT, APP2))  # the other one failed its check
    assert plane.stats().service(WEB).connections == 1500
    kernel.connect(WEB, APP2, 1)
    stats = plane.stats()
    assert stats.service(WEB).connections == 1501
    assert stats.servers[WEB, APP2].connections == 501


# --- what other tools do --------------------------------------------------------------------


def test_a_service_of_a_kind_that_nobody_knows_hides_no_other(kernel, tmp_path):
    plane = opened(kernel, tmp_path)
    converge(plane, served(WEB, Mode.NAT))
    _, request = request_of(AddService(FULL, RR))
    plain = attribute(Svc.PROTOCOL, (6).to_bytes(2, "little"))
    assert plain in request
    kernel.services["odd"] = memoryview(
        request.replace(plain, attribute(Svc.PROTOCOL, (33).to_bytes(2, "little")))
    )
    assert plane.observe() == served(WEB, Mode.NAT)
    assert plane.stats().service(WEB).connections == 0
    assert plane.remarks() == ["a service: left alone: a service: KeyError(33)"]
    many = [served(Listen.parse(f"192.0.2.{n}:80/tcp"), Mode.NAT, APP1) for n in range(100, 120)]
    assert converge(plane, both(served(WEB, Mode.NAT), *many)).refused == ()


def test_a_foreign_server_behind_our_listen_is_told_by_its_name(kernel, tmp_path):
    plane = opened(kernel, tmp_path)
    converge(plane, served(WEB, Mode.NAT, APP1))
    kernel.write(
        [request_of(op) for op in (AddServer(WEB, APP2, Destination()), AddService(FULL, RR))]
    )
    plane.observe()
    assert list(_of_others(plane)) == [f"{WEB}: {APP2}", str(FULL)]
