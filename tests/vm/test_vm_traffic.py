"""Real connections through IPVS: a client, two gateways and two servers.

    client 203.0.113.100 ---- g1 .1 ---+--- 198.51.100.254 g1
           203.0.113.100 ---- g2 .2 ---|--- 198.51.100.253 g2   the back bridge is in g1
           198.51.100.100 -------------+--- 198.51.100.1, .2    servers s1, s2

The client reaches the VIP through g1's front for NAT, and through the back network for the
modes in which servers answer it directly.
"""

import socket
import subprocess
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.codec import SyncRole
from lbctl.dataplane.ipvs.plane import IpvsPlane, SyncPlace
from lbctl.desired import as_served
from lbctl.lab.waiting import eventually
from lbctl.model import (
    Config,
    Destination,
    Encapsulation,
    Endpoint,
    Family,
    Forwarding,
    Gateway,
    Listen,
    Mode,
    Proto,
    Scheduler,
    Table,
    Tunnel,
    VirtualService,
    parse_frontend,
)
from lbctl.world import World
from tests.vm.namespaces import Host, cable

pytestmark = pytest.mark.ipvs

PORT = 80
NETS = {
    Family.IPV4: ("203.0.113.{}/24", "198.51.100.{}/24", "192.0.2.10"),
    Family.IPV6: ("2001:db8:c::{}/64", "2001:db8:5::{}/64", "2001:db8::10"),
}
AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
ROUTED = (Mode.NAT, Mode.FULLNAT)
RR = Scheduler("rr")
WORLD = World(Config(Gateway("lo")), datapath=IpvsPlane.name)
PATIENCE = 20  # seconds, on a machine that is twenty times slower


class Site:
    """The hosts, wired and addressed, from `with` to its end."""

    def __init__(self):
        self.client, self.g1, self.g2 = Host("c"), Host("g1"), Host("g2")
        self.servers = [Host("s1"), Host("s2")]

    def __enter__(self):
        with ExitStack() as stack:
            for host in (self.client, self.g1, self.g2, *self.servers):
                stack.enter_context(host)
            self._wire()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *failure):
        return self._open.__exit__(*failure)

    def _wire(self):
        g1, g2, client = self.g1, self.g2, self.client
        g1.ip("link add back type bridge mcast_snooping 0", "link set back up")
        for host in (client, g2, *self.servers):
            g1.ip(f"link add to-{host.short} type veth peer name back netns {host.name}")
            g1.ip(f"link set to-{host.short} up master back")
            host.ip("link set back up")
        cable(client, g1)
        cable(client, g2)
        for front, back, vip in NETS.values():
            g1.ip(f"addr add {back.format(254)} dev back nodad")
            g2.ip(f"addr add {back.format(253)} dev back nodad")
            client.ip(f"addr add {back.format(100)} dev back nodad")
            client.ip(f"addr add {front.format(100)} dev g1 nodad")
            g1.ip(f"addr add {front.format(1)} dev c nodad", f"addr add {vip} dev lo nodad")
            g2.ip(f"addr add {front.format(2)} dev c nodad", f"addr add {vip} dev lo nodad")
            for number, server in enumerate(self.servers, 1):
                server.ip(f"addr add {back.format(number)} dev back nodad")
        for host in (client, g1, g2, *self.servers):
            host.sysctl(net__ipv4__conf__all__rp_filter=0, net__ipv4__conf__default__rp_filter=0)

    def prepare(self, mode, family):
        """Routes and addresses as `mode` wants them."""
        front, back, vip = NETS[family]
        if mode in ROUTED:
            self.client.ip(f"route replace {vip} via {bare(front, 1)} dev g1")
        else:
            self.client.ip(f"route replace {vip} via {bare(back, 254)} dev back")
        for server in self.servers:
            if mode is Mode.NAT:
                server.ip(f"route replace {front.format(0)} via {bare(back, 254)}")
            if mode is Mode.DR:
                server.ip(f"addr replace {vip} dev lo nodad")
            if mode is Mode.TUN:
                device = "tunl0" if family is Family.IPV4 else "ip6tnl0"
                server.ip(f"link set {device} up", f"addr replace {vip} dev {device} nodad")
            server.sysctl(
                net__ipv4__conf__all__arp_ignore=1,
                net__ipv4__conf__all__rp_filter=0,
                **({"net__ipv4__conf__tunl0__rp_filter": 0} if mode is Mode.TUN else {}),
            )

    def undo(self, mode, family):
        front, _, vip = NETS[family]
        for server in self.servers:
            if mode is Mode.NAT:
                server.ip(f"route del {front.format(0)}")
            if mode is Mode.DR:
                server.ip(f"addr del {vip} dev lo")
            if mode is Mode.TUN:
                device = "tunl0" if family is Family.IPV4 else "ip6tnl0"
                server.ip(f"addr del {vip} dev {device}")


def bare(form, number):
    return form.format(number).split("/")[0]


@pytest.fixture(scope="module")
def site():
    subprocess.run(["modprobe", "-a", "ipip", "ip6_tunnel"], check=True)
    with Site() as site:
        yield site


class Balanced:
    """A service on g1 over s1 and s2, in one mode and family, and those who talk."""

    def __init__(self, site, plane, mode, family, scheduler=RR):
        self.site, self.plane, self.mode, self.family = site, plane, mode, family
        self.scheduler = scheduler
        _, self.back, vip = NETS[family]
        self.listen = Listen(ip_address(vip), PORT, Proto.TCP)
        self.endpoints = [Endpoint(ip_address(bare(self.back, n)), PORT) for n in (1, 2)]
        self._sockets = ExitStack()
        self.listeners = [self._listener(server) for server in site.servers]

    def _listener(self, server):
        listener = self.keep(server.socket(AF[self.family], socket.SOCK_STREAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", PORT))
        listener.listen()
        listener.settimeout(PATIENCE)
        return listener

    def keep(self, one):
        """`one`, closed when this is."""
        return self._sockets.enter_context(one)

    def table(self, *weights):
        """`None`: the server is not in it."""
        forwarding = Forwarding(self.mode)
        pairs = zip(self.endpoints, weights, strict=True)
        held = {e: Destination(w, forwarding) for e, w in pairs if w is not None}
        service = VirtualService(self.scheduler, held)
        return Table(as_served(WORLD, {self.listen: service}))

    def serve(self, *weights):
        assert converge(self.plane, self.table(*weights)).refused == ()

    def connect(self):
        """A new connection: the client's end, the server's end, the server's number, and
        the address that the server sees."""
        near = self.keep(self.site.client.socket(AF[self.family], socket.SOCK_STREAM))
        near.settimeout(PATIENCE)
        near.connect((str(self.listen.address), PORT))
        for number, listener in enumerate(self.listeners, 1):
            listener.settimeout(0.2 if number == 1 else PATIENCE)
            try:
                far, peer = listener.accept()
            except TimeoutError:
                continue
            self.keep(far).settimeout(PATIENCE)
            return near, far, number, peer[0]
        raise AssertionError("nobody accepted")

    def connect_to(self, server):
        """A connection that server number `server` has; those on the way to it stay open."""
        for _ in range(4):
            near, far, number, source = self.connect()
            if number == server:
                return near, far, source
        raise AssertionError(f"four connections, and none at server {server}")

    def who(self, count):
        """The servers of `count` new connections."""
        numbers = []
        for _ in range(count):
            near, far, number, _ = self.connect()
            near.close()
            far.close()
            numbers.append(number)
        return numbers

    def close(self):
        converge(self.plane, Table())
        self._sockets.close()


CASES = [(mode, family) for mode in Mode for family in Family]


@pytest.fixture(params=CASES, ids=[f"{mode}-{family}" for mode, family in CASES])
def balanced(request, site, tmp_path):
    mode, family = request.param
    site.prepare(mode, family)
    with site.g1.inside():
        plane = IpvsPlane(tmp_path / "ipvs.json")
        balanced = Balanced(site, plane, mode, family)
        yield balanced
        balanced.close()
        plane.close()
    site.undo(mode, family)


def echo(near, far, text=b"hello"):
    near.sendall(text)
    assert far.recv(100) == text
    far.sendall(text)
    assert near.recv(100) == text


def test_connections_through_every_mode(balanced):
    """The whole life of a service: right server, right source, drain, removal."""
    balanced.serve(1, 1)
    assert sorted(balanced.who(4)) == [1, 1, 2, 2]
    near, far, source = balanced.connect_to(1)
    echo(near, far)
    front = NETS[balanced.family][0] if balanced.mode is Mode.NAT else balanced.back
    expected = 254 if balanced.mode is Mode.FULLNAT else 100
    assert source == bare(front, expected)

    balanced.serve(0, 1)
    assert balanced.who(3) == [2, 2, 2]
    echo(near, far, b"still here")
    transfer(far, near, 300_000)

    balanced.serve(None, 1)
    assert balanced.who(2) == [2, 2]
    # Whoever still talks to the server that left is told at once, and does not hang.
    near.sendall(b"are you there?")
    with pytest.raises(ConnectionResetError):
        near.recv(100)


@pytest.mark.parametrize("name", ["mh", "sh"])
def test_new_connections_find_another_server_where_the_hash_leads_to_one_that_drains(
    site, tmp_path, name
):
    site.prepare(Mode.NAT, Family.IPV4)
    with site.g1.inside():
        plane = IpvsPlane(tmp_path / "ipvs.json")
        scheduler = Scheduler(name, frozenset({f"{name}-port"}))
        balanced = Balanced(site, plane, Mode.NAT, Family.IPV4, scheduler)
        balanced.serve(1, 1)
        for _ in range(16):
            near, far, number, _ = balanced.connect()
            if number == 1:
                break
        assert number == 1
        balanced.serve(0, 1)
        assert balanced.who(10) == [2] * 10
        echo(near, far, b"still here")
        assert plane.observe() == balanced.table(0, 1)
        balanced.close()
        plane.close()
    site.undo(Mode.NAT, Family.IPV4)


def transfer(sender, receiver, size):
    """`size` bytes, although the sender drains."""
    sender.setblocking(False)
    sent = received = 0
    while received < size:
        if sent < size:
            with suppress(BlockingIOError):
                sent += sender.send(bytes(min(size - sent, 65536)))
        received += len(receiver.recv(65536))
    assert received == size
    sender.settimeout(PATIENCE)


@pytest.mark.parametrize("oneshot", [False, True])
def test_udp_goes_to_every_server_and_back(site, tmp_path, oneshot):
    """`oneshot` balances one socket's packets; without it each socket has one server."""
    site.prepare(Mode.NAT, Family.IPV4)
    listen = Listen(ip_address(NETS[Family.IPV4][2]), 53, Proto.UDP)
    servers = {Endpoint(ip_address(f"198.51.100.{n}"), 53): Destination(1) for n in (1, 2)}
    table = Table({listen: VirtualService(Scheduler("rr"), servers, None, oneshot)})
    with ExitStack() as stack:
        far = [stack.enter_context(datagrams(server)) for server in site.servers]
        one = stack.enter_context(datagrams(site.client))
        other = one if oneshot else stack.enter_context(datagrams(site.client))
        for server in far:
            server.bind(("", 53))
        stack.enter_context(site.g1.inside())
        plane = stack.enter_context(closing(IpvsPlane(tmp_path / "ipvs.json")))
        assert converge(plane, table).refused == ()
        for asking, question in ((one, b"one"), (other, b"two")):
            asking.connect((str(listen.address), 53))
            asking.send(question)
        asked = [server.recvfrom(100) for server in far]
        assert {question for question, _ in asked} == {b"one", b"two"}
        assert {peer[0] for _, peer in asked} == {"203.0.113.100"}
        if not oneshot:  # with NAT the answers of `oneshot` come from the wrong address
            for server, (question, peer) in zip(far, asked, strict=True):
                server.sendto(b"answer to " + question, peer)
            assert (one.recv(100), other.recv(100)) == (b"answer to one", b"answer to two")
        # The kernel adds counters up about every two seconds.
        eventually(lambda: plane.stats().service(listen).connections == 2, PATIENCE)
        remaining = dict([*servers.items()][:1])
        service = VirtualService(Scheduler("rr"), remaining, None, oneshot)
        assert converge(plane, Table({listen: service})).refused == ()
        assert plane.stats().service(listen).connections == 2  # what is gone was counted
        converge(plane, Table())
    site.undo(Mode.NAT, Family.IPV4)


def datagrams(host):
    one = host.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(PATIENCE)
    return one


def test_a_full_server_takes_no_more(site, tmp_path):
    site.prepare(Mode.NAT, Family.IPV4)
    with site.g1.inside():
        plane = IpvsPlane(tmp_path / "ipvs.json")
        balanced = Balanced(site, plane, Mode.NAT, Family.IPV4)
        table = balanced.table(1, 1)
        service = table.services[balanced.listen]
        limited = dict(service.destinations)
        limited[balanced.endpoints[0]] = replace(limited[balanced.endpoints[0]], max_connections=1)
        table = Table({balanced.listen: replace(service, destinations=limited)})
        assert converge(plane, table).refused == ()
        numbers = [balanced.connect()[2] for _ in range(4)]
        assert numbers.count(1) == 1
        balanced.close()
        plane.close()
    site.undo(Mode.NAT, Family.IPV4)


def test_a_peers_connections_are_known_here_and_go_on_here(site, tmp_path):
    """The sync daemon of a pair, both ways at once: g1's connection goes on through g2."""
    site.prepare(Mode.NAT, Family.IPV4)
    with site.g1.inside():
        first = IpvsPlane(tmp_path / "first.json", pair=True, sync=SyncPlace("back", 7))
        balanced = Balanced(site, first, Mode.NAT, Family.IPV4)
        balanced.serve(1, 1)
        assert {one.role for one in first.sync_daemons()} == {*SyncRole}
    with site.g2.inside():
        second = IpvsPlane(tmp_path / "second.json", pair=True, sync=SyncPlace("back", 7))
        converge(second, balanced.table(1, 1))
        second.tend()  # what runs is left as it is
        assert second.remarks() == []
    near, far, *_ = balanced.connect()
    for _ in range(5):
        echo(near, far)
    with site.g2.inside():
        port = f"{near.getsockname()[1]:04X}"
        eventually(lambda: port in Path("/proc/net/ip_vs_conn").read_text(), PATIENCE)
    front, back, vip = NETS[Family.IPV4]
    site.client.ip(
        f"route replace {bare(front, 2)} dev g2",
        f"route replace {vip} via {bare(front, 2)} dev g2 src {bare(front, 100)}",
    )
    for server in site.servers:
        server.ip(f"route replace {front.format(0)} via {bare(back, 253)}")
    site.g2.ip(f"route replace {bare(front, 100)} dev c")
    echo(near, far, b"through the other gateway")
    with site.g2.inside():
        for role in SyncRole:
            second.stop_sync(role)
        converge(second, Table())
        second.close()
    with site.g1.inside():
        for role in SyncRole:
            first.stop_sync(role)
        balanced.close()
        first.close()
    site.undo(Mode.NAT, Family.IPV4)


@pytest.mark.long
def test_a_gue_tunnel_reaches_its_server(site, tmp_path):
    """IPIP inside UDP, taken apart by the server's kernel (fou, then tunl0)."""
    subprocess.run(["modprobe", "fou"], check=True)
    site.prepare(Mode.TUN, Family.IPV4)
    for server in site.servers:
        server.ip("fou add port 6080 gue")
    with site.g1.inside():
        plane = IpvsPlane(tmp_path / "ipvs.json")
        balanced = Balanced(site, plane, Mode.TUN, Family.IPV4)
        tunnel = Forwarding(Mode.TUN, Tunnel(Encapsulation.GUE, 6080))
        servers = {endpoint: Destination(1, tunnel) for endpoint in balanced.endpoints}
        table = Table({balanced.listen: VirtualService(Scheduler("rr"), servers)})
        assert converge(plane, table).refused == ()
        assert sorted(balanced.who(4)) == [1, 1, 2, 2]
        near, far, source = balanced.connect_to(1)
        echo(near, far)
        assert source == bare(balanced.back, 100)
        balanced.close()
        plane.close()
    for server in site.servers:
        server.ip("fou del port 6080")
    site.undo(Mode.TUN, Family.IPV4)


MARKS = """
table ip mark_dns {
    chain before {
        type filter hook prerouting priority mangle
        ip daddr 192.0.2.10 udp dport 53 meta mark set 7
    }
}
"""


@pytest.mark.long
@pytest.mark.parametrize("frontend", ["192.0.2.10:53/udp", "fwmark:7/ipv4"])
def test_full_nat_translates_datagrams_and_what_a_firewall_marked(site, tmp_path, frontend):
    listen = parse_frontend(frontend)
    site.prepare(Mode.FULLNAT, Family.IPV4)
    port = listen.port if isinstance(listen, Listen) else 0
    with ExitStack() as stack:
        server, client = (
            stack.enter_context(datagrams(one)) for one in (site.servers[0], site.client)
        )
        server.bind(("", 53))
        stack.enter_context(site.g1.inside())
        subprocess.run(["nft", "-f", "-"], input=MARKS, text=True, check=True)
        plane = stack.enter_context(closing(IpvsPlane(tmp_path / "ipvs.json")))
        full = Destination(1, Forwarding(Mode.FULLNAT))
        servers = {Endpoint(ip_address("198.51.100.1"), port): full}
        assert converge(plane, Table({listen: VirtualService(RR, servers)})).refused == ()
        client.connect(("192.0.2.10", 53))
        client.send(b"question")
        question, peer = server.recvfrom(100)
        assert (question, peer[0]) == (b"question", "198.51.100.254")
        server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
        converge(plane, Table())
        subprocess.run(["nft", "delete", "table", "ip", "mark_dns"], check=True)
    site.undo(Mode.FULLNAT, Family.IPV4)
