"""In the machine that counts instructions as time: a generator, a gateway, a sink.

    python -m bench.icount.guest OUT

    gen  out ---- front  gw  back ---- in  sink      pktgen at `out`, UDP, one flow

Each case forwards the same packets from `front` to `back`. With one CPU everything that a
packet costs happens between two calls of the generator, so time over packets is its cost,
the generator's own part included.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.plane import IpvsPlane
from lbctl.model import (
    Destination,
    Endpoint,
    Gateway,
    Listen,
    Proto,
    Scheduler,
    Table,
    VirtualService,
)
from tests.vm.namespaces import Host

COUNT, TIMES = 4_000, 5
WARM = 500  # the flow's first packets: conntrack and neighbours are made then
SERVER, VIP = "198.51.100.2", "192.0.2.10"
PORT = 8080


class NotHere(Exception):
    """A data path that this kernel does not take; the other cases are measured all the same."""


class Scene:
    def __init__(self):
        self.gen, self.gw, self.sink = Host("gen"), Host("gw"), Host("sink")

    def wire(self):
        gen, gw, sink = self.gen, self.gw, self.sink
        gw.ip(
            f"link add front type veth peer name out netns {gen.name}",
            f"link add back type veth peer name in netns {sink.name}",
            "link set front up",
            "link set back up",
            "addr add 203.0.113.1/24 dev front",
            "addr add 198.51.100.1/24 dev back",
            f"addr add {VIP}/32 dev lo",
        )
        gen.ip("link set out up", "addr add 203.0.113.2/24 dev out")
        sink.ip("link set in up", f"addr add {SERVER}/24 dev in")
        gw.sysctl(net__ipv4__ip_forward=1)
        inside(gen, "ethtool", "-K", "out", "tx", "off")
        inside(sink, "ethtool", "-K", "in", "gro", "on")
        # Counted when it comes in, then dropped: an answer would be counted as cost.
        hook = "{ type filter hook ingress device in priority 0; policy drop; }"
        rules = f"add table netdev t\nadd chain netdev t c {hook}\n"
        inside(sink, "nft", "-f", "-", stdin=rules + "add rule netdev t c ether type arp accept\n")
        with gw.inside(), fresh_sys() as sys_here:
            mac = Path(sys_here, "class/net/front/address").read_text().strip()
        self.pktgen("kpktgend_0", "rem_device_all", "add_device out")
        lines = ("pkt_size 60", f"dst_mac {mac}", "src_min 203.0.113.2", "src_max 203.0.113.2")
        ports = ("udp_src_min 4000", "udp_src_max 4000", f"udp_dst_min {PORT}")
        self.pktgen("out", *lines, *ports, f"udp_dst_max {PORT}", "delay 0", "clone_skb 0")

    def pktgen(self, name, *lines):
        with self.gen.inside():
            for line in lines:
                Path(f"/proc/thread-self/net/pktgen/{name}").write_text(f"{line}\n")

    def cost(self, target):
        """Virtual nanoseconds per packet to `target`: of several times the least, as the
        guest's own work, which comes between, only adds."""
        self.send(target, WARM)
        return min(self._once(target) for _ in range(TIMES))

    def _once(self, target):
        before = self.arrived()
        took = self.send(target, COUNT)
        arrived = self.arrived() - before
        assert COUNT <= arrived < COUNT + 20, f"{arrived} of {COUNT} arrived"  # ARP, too
        return took / COUNT

    def send(self, target, count):
        self.pktgen("out", f"dst {target}", f"count {count}")
        with self.gen.inside():
            Path("/proc/thread-self/net/pktgen/pgctrl").write_text("start\n")
            result = Path("/proc/thread-self/net/pktgen/out").read_text()
        microseconds = result.split("Result: OK: ")[1].split("(")[0]
        return int(microseconds) * 1000

    def arrived(self):
        with self.sink.inside():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        return int(next(line for line in lines if " in:" in f" {line.strip()}").split()[2])


@contextmanager
def fresh_sys():
    """/sys shows the namespace that it was mounted in."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "sysfs", "sys", place], check=True)
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


def inside(host, *command, stdin=""):
    with host.inside():
        subprocess.run(command, input=stdin, text=True, check=True, stdout=subprocess.DEVNULL)


def table():
    servers = {Endpoint.parse(f"{SERVER}:{PORT}"): Destination(1)}
    listen = Listen(Endpoint.parse(f"{VIP}:{PORT}").address, PORT, Proto.UDP)
    return Table({listen: VirtualService(Scheduler("rr"), servers)})


def plain_route(scene, work):
    return scene.cost(SERVER)


def ipvs(scene, work):
    with scene.gw.inside(), closing(IpvsPlane(work / "ipvs.json")) as plane:
        assert converge(plane, table()).refused == ()
        found = scene.cost(VIP)
        converge(plane, Table())
    return found


def nft_dnat(scene, work):
    rule = f"ip daddr {VIP} udp dport {PORT} dnat to {SERVER}"
    chain = "{ type nat hook prerouting priority dstnat; }"
    rules = f"add table ip t\nadd chain ip t c {chain}\nadd rule ip t c {rule}\n"
    inside(scene.gw, "nft", "-f", "-", stdin=rules)
    found = scene.cost(VIP)
    inside(scene.gw, "nft", "delete table ip t")
    return found


def xdp(scene, work):
    from lbctl.dataplane.xdp import program
    from lbctl.dataplane.xdp.plane import XdpPlane
    from lbctl.netlink import Netlink

    program.LOADER_SECONDS = 1000  # of virtual time; compiling takes two hundred
    pins = Path(f"/sys/fs/bpf/icount-{os.getpid()}")
    with scene.gw.inside(), closing(Netlink()) as netlink:
        plane = XdpPlane(Gateway("front", ("back",)), pins, netlink)
        for refusal in converge(plane, table()).refused:
            raise NotHere(str(refusal.error))
        plane.catch_up()
        plane.tend()
        found = scene.cost(VIP)
        plane.close()
    return found


CASES = {"plain route": plain_route, "IPVS NAT": ipvs, "nftables DNAT": nft_dnat, "XDP NAT": xdp}


def main():
    subprocess.run(["modprobe", "pktgen"], check=True)
    scene = Scene()
    with tempfile.TemporaryDirectory() as work, scene.gen, scene.gw, scene.sink:
        scene.wire()
        found = {}
        for name, case in CASES.items():
            try:
                found[name] = case(scene, Path(work))
            except NotHere as error:
                print(f"{name}: {error}", flush=True)
                found[name] = None
            else:
                print(f"{name}: {found[name]:.0f} ns", flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
