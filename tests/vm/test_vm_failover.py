"""600 connections through two gateways on IPVS, whose state only the kernel's sync daemon
carries: how many are lost by what happens to the pair. Half of them are idle all the time.
lbctl's data path, and keepalived with its lvs_sync_daemon beside it.

Who is Active is played here by routes (keepalived's VRRP follows, as its sync daemon has the
role of it); a gateway that crashes is a namespace that goes, with
its table, its connections and its address, and one that comes back is a new one.
"""

import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.plane import IpvsPlane, SyncPlace
from lbctl.lab.waiting import eventually
from lbctl.model import (
    Destination,
    Endpoint,
    Family,
    Forwarding,
    Listen,
    Mode,
    Proto,
    Scheduler,
    Table,
    VirtualService,
)
from tests.vm.keepalived_lvs import FIRST, SECOND, Keepalived
from tests.vm.namespaces import cable
from tests.vm.test_vm_traffic import NETS, Site, bare

pytestmark = [pytest.mark.ipvs, pytest.mark.long]
TALK = Path(__file__).parents[1] / "lab" / "talk.py"
COUNT, PORT, PATIENCE = 600, 9000, 30.0
AGAIN = 50  # packets after which the kernel tells a connection once more
FRONT, BACK, VIP = NETS[Family.IPV4]


class Lbctl:
    """Our data path on one gateway; both roles of the sync daemon at once."""

    def __init__(self, host, home):
        self.host = host
        home.mkdir()
        with host.inside():
            self._plane = IpvsPlane(home / "ipvs.json", pair=True, sync=SyncPlace("back", 7))

    def apply(self, service):
        vip, port, scheduler, weights = service
        servers = {
            Endpoint(ip_address(one), port): Destination(weight, Forwarding(Mode.NAT))
            for one, weight in weights.items()
        }
        listen = Listen(ip_address(vip), port, Proto.TCP)
        with self.host.inside():
            table = Table({listen: VirtualService(scheduler, servers)})
            assert converge(self._plane, table).refused == ()

    def close(self):
        with self.host.inside():
            self._plane.close()


class Pair(Site):
    """weights: of both servers. gateways: those that run, by name."""

    def __init__(self, scheduler, home):
        super().__init__()
        self.scheduler, self.home = scheduler, home
        self.weights, self.gateways = [1, 1], {}

    def start(self, host):
        host.sysctl(net__ipv4__ip_forward=1)
        home = self.home / f"{host.short}-{len(list(self.home.iterdir()))}"
        self.gateways[host.short] = self.gateway(host, home)
        self.apply()

    def gateway(self, host, home):
        return Lbctl(host, home)

    def apply(self):
        weights = {bare(BACK, n): weight for n, weight in enumerate(self.weights, 1)}
        for gateway in self.gateways.values():
            gateway.apply((VIP, PORT, self.scheduler, weights))

    def active(self, number):
        """Gateway 1 or 2 has the addresses."""
        near, far = bare(FRONT, number), bare(BACK, 255 - number)
        self.client.ip(f"route replace {VIP} via {near} dev g{number} src {bare(FRONT, 100)}")
        for server in self.servers:
            server.ip(f"route replace {FRONT.format(0)} via {far}")

    def crash_two(self):
        self.gateways.pop("g2").close()
        self.g2.__exit__()

    def return_two(self):
        """Empty."""
        self.g2.__enter__()

        def wired():
            made = ["ip", "-n", self.g1.name, "link", "add", "to-g2", "type", "veth"]
            made += ["peer", "name", "back", "netns", self.g2.name]
            done = subprocess.run(made, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr  # the old one goes in its own time
            return True

        eventually(wired, PATIENCE)
        self.g1.ip("link set to-g2 up master back")
        self.g2.ip("link set back up")
        eventually(lambda: self._cabled(), PATIENCE)
        self.g2.ip(f"addr add {BACK.format(253)} dev back nodad")
        self.g2.ip(f"addr add {FRONT.format(2)} dev c nodad", f"addr add {VIP} dev lo nodad")
        self.g2.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__default__rp_filter=0)
        self.start(self.g2)

    def _cabled(self):
        try:
            cable(self.client, self.g2)
        except subprocess.CalledProcessError as error:
            raise AssertionError(str(error)) from None
        self.client.ip(f"route replace {bare(FRONT, 2)} dev g2")
        self.g2.ip(f"route replace {bare(FRONT, 100)} dev c")
        return True


class KeepalivedPair(Pair):
    """Its sync daemon is the master's where its VRRP is, and else the backup's."""

    def gateway(self, host, home):
        host.sysctl(net__ipv4__vs__sloppy_tcp=1)
        return Keepalived(host, home, FIRST if host is self.g1 else SECOND)

    def active(self, number):
        if "g2" in self.gateways:
            self.gateways["g2"].lead(number == 2)
        for name, gateway in self.gateways.items():
            gateway.expect("master" if name == f"g{number}" else "backup")
        super().active(number)


class Connections:
    """Those that ask, and those that are idle."""

    def __init__(self, site):
        self.site = site
        self.busy, self.idle = [], []

    def fill(self):
        """As many as there were before some were lost; each with a few packets."""
        while len(self.busy) + len(self.idle) < COUNT:
            few = self.busy if len(self.busy) <= len(self.idle) else self.idle
            one = self.site.client.socket(socket.AF_INET, socket.SOCK_STREAM)
            one.settimeout(PATIENCE)
            one.connect((VIP, PORT))
            few.append(one)
        for _ in range(3):
            assert self.lost(self.busy) == self.lost(self.idle) == 0

    def lost(self, some):
        """How many are not answered; they are closed."""
        good, end = [], time.monotonic() + PATIENCE
        for one in some:
            with suppress(OSError):
                one.send(b"?\n")
        for one in some:
            one.settimeout(max(0.05, end - time.monotonic()))
            try:
                assert one.recv(100)
                good.append(one)
            except (OSError, AssertionError):
                one.close()
        lost, some[:] = len(some) - len(good), good
        return lost

    def told_again(self):
        """Time passes for those that are not idle."""
        for _ in range(AGAIN):
            assert self.lost(self.busy) == 0

    def close(self):
        for one in (*self.busy, *self.idle):
            one.close()


# Without mh-port all connections of a client go to one server.
SCHEDULERS = [Scheduler("mh", frozenset({"mh-port"})), Scheduler("rr")]


PRODUCTS = {"lbctl": Pair, "keepalived": KeepalivedPair}


@pytest.fixture(params=SCHEDULERS, ids=str)
def scheduler(request):
    return request.param


@pytest.fixture(params=PRODUCTS)
def pair(request, scheduler, tmp_path):
    with ExitStack() as stack:
        site = stack.enter_context(PRODUCTS[request.param](scheduler, tmp_path))
        site.product = request.param
        site.prepare(Mode.NAT, Family.IPV4)
        site.client.ip(f"route replace {bare(FRONT, 2)} dev g2")
        site.g2.ip(f"route replace {bare(FRONT, 100)} dev c")
        for server in site.servers:
            with server.inside():
                words = [sys.executable, TALK, "serve", server.short, str(PORT)]
                process = subprocess.Popen(words)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for host in (site.g1, site.g2):
            site.start(host)
        site.active(2)
        yield site
        if "g2" not in site.gateways:  # its end is the site's business
            site.g2.__enter__()
        for gateway in site.gateways.values():
            gateway.close()


def test_what_the_sync_daemon_carries(pair):
    """Those that the successor was told of are never lost. Of keepalived it is only told."""
    connections = Connections(pair)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    eventually(lambda: reached(pair), PATIENCE)
    connections.fill()
    lost = {}

    def after(act):
        lost[act] = (connections.lost(connections.busy), connections.lost(connections.idle))
        print(f"{pair.product}, {pair.scheduler}: {act}: busy, idle lost: {lost[act]}", flush=True)
        connections.fill()

    def crash():
        known(pair, connections)
        pair.crash_two()
        pair.active(1)

    def comes_back():
        pair.return_two()
        connections.told_again()
        pair.active(2)

    crash()
    after("a crash")
    comes_back()
    after("a return")
    pair.active(1)
    after("a graceful stop")
    pair.active(2)
    after("a return with what it had")
    pair.weights = [3, 1]
    pair.apply()
    crash()
    after("a change of the pool and a crash")
    comes_back()
    after("a return after it")
    pair.weights = [3, 0]
    pair.apply()
    crash()
    after("a crash in the middle of a drain")
    connections.close()
    if pair.product != "lbctl":
        return
    crashes = [act for act in lost if "crash" in act or "stop" in act]
    assert {act: lost[act] for act in crashes} == dict.fromkeys(crashes, (0, 0))
    assert all(busy == 0 for busy, _ in lost.values()), lost


def reached(pair):
    """Both servers, several times."""
    for _ in range(6):
        with pair.client.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.settimeout(1.0)
            try:
                one.connect((VIP, PORT))
            except OSError as error:
                raise AssertionError(str(error)) from None
    return True


def known(pair, connections):
    """Until the first gateway was told of every one that there is."""
    wanted = {f"{s.getsockname()[1]:04X}" for s in (*connections.busy, *connections.idle)}

    def told():
        with pair.g1.inside():
            rows = [line.split() for line in Path("/proc/net/ip_vs_conn").read_text().splitlines()]
        assert not (lacking := wanted - {row[2] for row in rows}), len(lacking)
        return True

    eventually(told, PATIENCE)
