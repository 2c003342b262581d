"""UDP, 60 bytes: what a packet costs over the generator, with lbctl and with nftables.

    gen  o-drop ── front   drop      the generator's own cost: dropped on arrival
         o-nft  ── front   nft   back ── i-nft    sink
         o-xdp  ── front   xdp   back ── i-xdp

All of it on one processor. A packet's cost is that processor's time in this thread and in
its ksoftirqd. Every gateway has the same four servers, behind one router each.
"""

import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.live.generator import Generator, generator, namespace
from bench.report import Report
from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import Netlink
from tests.bpf.gateway import inside, remove_pins

ROUNDS = 11
FLOWS = {"1k": 1 << 10, "32k": 1 << 15}
COUNT = {"drop": 400_000, "nft": 150_000, "xdp": 400_000}
VIP = "192.0.2.10:5353/udp"
SERVERS = [f"198.51.100.{n}" for n in range(11, 15)]
MAC = "02:00:00:00:01:{:02x}"
NFT = """\
table ip balance {
  chain in {
    type nat hook prerouting priority dstnat;
    ip daddr 192.0.2.10 udp dport 5353 dnat ip to jhash ip saddr . udp sport mod 4 map { %s }
  }
}
"""


class Scene:
    """Namespaces by their short names: descriptors."""

    def __init__(self) -> None:
        self.prefix = f"lbctl-bench-{os.getpid()}"
        self.space: dict[str, int] = {}

    def make(self) -> None:
        for name in ("gen", "sink", *COUNT):
            run("ip", "netns", "add", f"{self.prefix}-{name}")
            self.space[name] = namespace(f"{self.prefix}-{name}")
            self.ip(name, "link set lo up")
            with inside(self.space[name]):
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        for kind in COUNT:
            self._gateway(kind)

    def _gateway(self, kind: str) -> None:
        gen, sink = (f"{self.prefix}-{name}" for name in ("gen", "sink"))
        self.ip(
            kind,
            f"link add front address 02:00:00:00:00:01 type veth peer name o-{kind} netns {gen}",
            f"link add back address 02:00:00:00:00:02 type veth peer name i-{kind} netns {sink}",
            "link set front up",
            "link set back up",
            "address add 192.0.2.1/24 dev front",
            "address add 198.51.100.1/24 dev back",
            "neighbour add 192.0.2.100 lladdr 02:00:00:00:00:64 dev front",
            "route add 198.18.0.0/15 via 192.0.2.100",
            *(
                f"neighbour add {ip} lladdr {MAC.format(n)} dev back"
                for n, ip in enumerate(SERVERS, 11)
            ),
        )
        self.ip("gen", f"link set o-{kind} up")
        self.ip("sink", f"link set i-{kind} up")
        with inside(self.space[kind]):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            run("ethtool", "-K", "front", "gro", "on")
            run("ethtool", "-K", "back", "gro", "on")
        with inside(self.space["sink"]):
            run("ethtool", "-K", f"i-{kind}", "gro", "on")

    def ip(self, name: str, *lines: str) -> None:
        with inside(self.space[name]):
            subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)

    def remove(self) -> None:
        for name, space in self.space.items():
            os.close(space)
            run("ip", "netns", "delete", f"{self.prefix}-{name}")


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def scene() -> Iterator[Scene]:
    made = Scene()
    try:
        made.make()
        yield made
    finally:
        made.remove()


@contextmanager
def lbctl(space: int) -> Iterator[None]:
    """The VIP on lbctl's XDP data path."""
    pins = Path(f"/sys/fs/bpf/lbctl-bench-{secrets.token_hex(4)}")
    with inside(space):
        netlink = Netlink()
        plane = XdpPlane(Gateway("front", ("back",)), pins, netlink)
        try:
            servers = {Endpoint.parse(f"{one}:5353"): Destination(1) for one in SERVERS}
            service = VirtualService(Scheduler("mh"), servers)
            refused = converge(plane, Table({Listen.parse(VIP): service})).refused
            assert not refused, refused
            yield
        finally:
            plane.close()
            netlink.close()
            remove_pins(pins)


def nftables(space: int) -> None:
    servers = ", ".join(f"{n} : {one}" for n, one in enumerate(SERVERS))
    with inside(space):
        subprocess.run(["nft", "-f", "-"], input=NFT % servers, text=True, check=True)


class Meter:
    """Processor time of this thread and of its processor's ksoftirqd."""

    def __init__(self, cpu: int) -> None:
        self._ksoftirqd = Path(f"/proc/{_pid_of(f'ksoftirqd/{cpu}')}/schedstat")

    def now(self) -> int:
        """Nanoseconds."""
        return time.thread_time_ns() + int(self._ksoftirqd.read_text().split()[0])


def _pid_of(name: str) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
            return int(entry.name)
    raise LookupError(name)


def settled(made: Generator) -> int:
    """How many have arrived, once no more come."""
    before = -1
    while before != (now := made.arrived):
        before = now
        time.sleep(0.005)
    return now


def one(made: Generator, meter: Meter, kind: str, flows: int) -> tuple[float, float]:
    """(nanoseconds per packet, share delivered)."""
    made.aim(f"o-{kind}", VIP, bytes.fromhex("020000000001"), flows)
    made.send(2 * flows)
    arrived, began = settled(made), meter.now()
    made.send(COUNT[kind])
    spent = meter.now() - began
    delivered = settled(made) - arrived
    return spent / COUNT[kind], delivered / COUNT[kind]


def measure(report: Report, rounds: int = ROUNDS) -> None:
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    with ExitStack() as stack:
        made = stack.enter_context(scene())
        nftables(made.space["nft"])
        stack.enter_context(lbctl(made.space["xdp"]))
        source = stack.enter_context(generator(made.space["gen"]))
        source.count_at(made.space["drop"], "front")
        for kind in ("nft", "xdp"):
            source.count_at(made.space["sink"], f"i-{kind}")
        meter = Meter(cpu)
        for name, flows in FLOWS.items():
            rows = [{k: one(source, meter, k, flows) for k in COUNT} for _ in range(rounds)]
            _fill(report, name, rows)


def _fill(report: Report, name: str, rows: Sequence[dict[str, tuple[float, float]]]) -> None:
    drop = report.case(f"UDP, {name} flows: generator", [r["drop"][0] for r in rows], "ns")
    net = {}
    for kind, title in (("nft", "nftables DNAT"), ("xdp", "lbctl")):
        over = [row[kind][0] - drop.p20 for row in rows]
        worst = min(row[kind][1] for row in rows)
        summary = report.case(
            f"UDP, {name} flows: {title}, over it", over, "ns", delivered=f"{worst:.3%}"
        )
        net[kind] = summary.p20
        if kind == "xdp":
            report.target(f"UDP, {name} flows: delivered", worst * 100, "%", ">=", 99.9)
    ratio = net["nft"] / net["xdp"]
    report.target(f"UDP, {name} flows: nftables / lbctl", ratio, "x", ">=", 12)
