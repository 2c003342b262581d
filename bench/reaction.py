"""How quickly a dead server leaves its ring, and what thousands of servers weigh.

    make bench-reaction

The daemon's own control, reconcile loop, state file and XDP data path, in one process and in
a network namespace of its own. A verdict is taken as from the probe worker; the clock stops
when the last slot that it changes is written. Then: the state on disk, the rest of the pass.
"""

import asyncio
import gc
import logging
import os
import random
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ctypes import sizeof
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

from bench.report import Report
from lbctl.daemon.clock import SYSTEM
from lbctl.daemon.control import Control, Intent, Standing
from lbctl.daemon.journal import Journal
from lbctl.daemon.loop import ReconcileLoop
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.reader import ConfigReader, Read
from lbctl.daemon.reconcile import Reconciler
from lbctl.daemon.state import Saved, StateDirectory
from lbctl.dataplane.fake import FakeVips
from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.dataplane.xdp.rings import Span
from lbctl.health.judge import Health
from lbctl.messages import Verdict, decode, encode
from lbctl.model import Check, Config, Gateway, Listen, Scheduler, Server, Service
from lbctl.netlink import Netlink
from lbctl.world import Target, World, targets

INSIDE = "LBCTL_BENCH_INSIDE"  # set: this process has a network namespace of its own
SAMPLES = 200
EVIDENCE = "3 of 3 probes: connection refused"


@dataclass(frozen=True)
class Case:
    """limit: p99 in milliseconds."""

    name: str
    services: int
    servers: int
    limit: float


CASES = (
    Case("a service of 10", 1, 10, 20),
    Case("a service of 200", 1, 200, 50),
    Case("1,000 services, 10,000 servers", 1000, 10, 100),
)


def make_links() -> None:
    lines = [
        "link set lo up",
        "link add front type veth peer name front-peer",
        "link add back type veth peer name back-peer",
        *(f"link set {n} up" for n in ("front", "front-peer", "back", "back-peer")),
        "address add 192.0.2.1/24 dev front",
        "address add 198.51.100.1/24 dev back",
        "neighbour add 198.51.100.2 lladdr 02:00:00:00:01:02 dev back",
        "route add 198.18.0.0/15 via 198.51.100.2",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def config(case: Case) -> Config:
    """Servers behind a router, so that one neighbour is all that they need."""
    first_vip, first = int(ip_address("203.0.113.1")), int(ip_address("198.18.0.1"))
    services = {}
    for n in range(case.services):
        servers = {
            f"app{k}": Server(ip_address(first + n * case.servers + k), 80)
            for k in range(case.servers)
        }
        listen = Listen.parse(f"{ip_address(first_vip + n % 250)}:{8000 + n}/tcp")
        services[f"s{n}"] = Service((listen,), servers, Scheduler("mh"), check=Check())
    return Config(Gateway("front", ("back",)), services)


class Daemon:
    """The daemon's parts between a verdict and the maps."""

    def __init__(self, control: Control, loop: ReconcileLoop, plane: XdpPlane) -> None:
        self.control, self.loop, self.plane = control, loop, plane
        self.written = 0.0
        write = plane._rings.write

        def noting(*words, **more) -> int:
            slots = write(*words, **more)
            self.written = time.perf_counter()
            return slots

        plane._rings.write = noting

    def see(self, target: Target, health: Health) -> None:
        message = decode(encode(Verdict(1, health, EVIDENCE, 0.1)))
        assert isinstance(message, Verdict)
        self.control.see(target, message.health, message.evidence)

    async def kill(self, target: Target) -> tuple[float, float]:
        """Milliseconds until the last slot is written, and until the pass is over."""
        self.written, began = 0.0, time.perf_counter()
        self.see(target, Health.DOWN)
        await self.loop.settle()
        done = time.perf_counter()
        assert self.written, "a dead server changes slots"
        return (self.written - began) * 1000, (done - began) * 1000

    async def revive(self, target: Target) -> None:
        """And let the slots forget that they changed."""
        self.see(target, Health.UP)
        await self.loop.settle()
        self.plane._maps.gateway.tick_ahead += 300
        await self.loop.tend()


@asynccontextmanager
async def daemon(case: Case, pins: Path, state: Path) -> AsyncIterator[Daemon]:
    chosen = config(case)
    made: list[XdpPlane] = []

    def open_plane() -> SimpleNamespace:
        made.append(XdpPlane(chosen.gateway, pins, Netlink()))
        return SimpleNamespace(plane=made[0], vips=FakeVips(), why="bench", retire=str)

    clock, journal, directory = SYSTEM, Journal(SYSTEM), StateDirectory(state)
    standing = Standing(World(chosen), Intent(b"", "bench", 1), Read(chosen), Saved())
    with directory.locked():
        async with PlaneThread(open_plane) as thread:
            control = Control(standing, directory, journal, clock, ConfigReader(None))
            loop = ReconcileLoop(control, Reconciler(), thread, journal, clock)
            control.on_touched.append(loop.touched)
            running = asyncio.create_task(loop.run())
            await loop.settle()
            yield Daemon(control, loop, made[0])
            loop.stop()
            await running
        made[0]._netlink.close()


async def measure(report: Report, case: Case, pins: Path, state: Path) -> None:
    began, before = time.monotonic(), resident()
    async with daemon(case, pins, state) as one:
        took, memory = time.monotonic() - began, resident() - before
        assert not one.loop.reconciler.stuck, [*one.loop.reconciler.stuck.values()][:3]
        known = [target for _, target in targets(one.control.world.config)]
        for target in known:
            one.see(target, Health.UP)
        await one.loop.settle()
        if case.services > 1:
            scale(report, case, one.plane, took, memory)
        gc.collect()
        gc.freeze()  # as the daemon does once it stands
        slots, whole = [], []
        chance = random.Random(1)
        for _ in range(SAMPLES):
            target = chance.choice(known)
            changed, over = await one.kill(target)
            slots.append(changed)
            whole.append(over)
            await one.revive(target)
    slots.sort()
    report.case(f"{case.name}: verdict to last slot", slots, "ms", worst=max(slots))
    report.case(f"{case.name}: and to the pass's end", whole, "ms")
    p99 = slots[len(slots) * 99 // 100]
    report.target(f"{case.name}: verdict to last slot, p99", p99, "ms", "<", case.limit)


def scale(report: Report, case: Case, plane: XdpPlane, took: float, memory: int) -> None:
    """All loaded, and what one service of ten takes of the maps and of this process."""
    spans = (Span.of(record.ring) for record in plane._maps.listens if record.family)
    pages = sum(span.pages for span in spans if span is not None)
    slots = pages * (sizeof(abi.RingPage) + sizeof(abi.OldPage))
    each = slots / case.services + sizeof(abi.Listen) + sizeof(abi.Cursor) + sizeof(abi.Turns)
    each += case.servers * (sizeof(abi.Server) + sizeof(abi.FlowCount) + sizeof(abi.Load))
    each += case.servers * sizeof(abi.ServerStats) * (os.cpu_count() or 1)
    report.case("maps of a service of 10", [each / 1024], "KiB")
    report.case("daemon's memory for a service of 10", [memory / case.services / 1024], "KiB")
    report.case("all maps together", [locked(plane) / 2**20], "MiB")
    report.case("1,000 services, 10,000 servers: first load", [took], "s")
    table = plane.observe()
    servers = sum(len(service.destinations) for service in table.services.values())
    report.target("services loaded", len(table.services), "", "==", case.services)
    report.target("servers loaded", servers, "", "==", case.services * case.servers)


def locked(plane: XdpPlane) -> int:
    """Bytes of kernel memory that all maps take, as the kernel charges them."""
    total = 0
    for map_ in plane._maps.fds.values():
        text = Path(f"/proc/self/fdinfo/{map_.fd}").read_text()
        total += int(text.partition("memlock:")[2].split()[0])
    return total


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    if os.geteuid() != 0:
        print("bench.reaction: loading programs needs root: sudo make bench-reaction")
        return 5
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        command = [sys.executable, "-m", "bench.reaction", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", *command])
    logging.disable(logging.INFO)
    report = Report("reaction")
    make_links()
    for case in CASES:
        pins = Path(f"/sys/fs/bpf/lbctl-bench-{secrets.token_hex(4)}")
        with tempfile.TemporaryDirectory(prefix="lbctl-bench-") as state:
            try:
                asyncio.run(measure(report, case, pins, Path(state)))
            finally:
                for pin in pins.iterdir():
                    pin.unlink()
                pins.rmdir()
    return min(1, report.finish())


if __name__ == "__main__":
    sys.exit(main())
