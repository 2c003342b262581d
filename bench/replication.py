"""Replication under new flows: how long until the other gateway's packet program would find
a flow, and what that costs.

Two daemons on the XDP data path, in a lab; this process writes flows into the Active's pinned
flow cache as its packet program does (embryonic, then established) and watches the Backup's
pinned cache. Lag is from the one write to the other: look, line and import included.
"""

import random
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Report
from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.dataplane.xdp.flows import FlowCache
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.program import SWEEP
from lbctl.lab import Lab, eventually, standard
from tests.lab.failover.pair import Pair

RATE = 5000  # new flows a second
SECONDS = 20.0
BEAT = 0.02  # seconds between two bursts of writes
SAMPLE = 100  # every so many flows one is watched


class Cache:
    """A gateway's flow cache, as its program sees it."""

    def __init__(self, pins: Path) -> None:
        self.maps = Maps(pins)
        self.flows = FlowCache(self.maps, self.maps.gateway.flow_mask + 1)
        alive = (n for n, one in enumerate(self.maps.servers[:64]) if one.state == 1)
        self.server = next(alive)


def key(random_: random.Random, sets: int) -> bytes:
    number, tag = random_.randrange(sets), random_.getrandbits(34)
    return struct.pack("<IQI", number, tag << 30 & (1 << 64) - 1, 7)


class Watch:
    """Waits for sampled flows to be seen at the other gateway."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.waiting, self.lags = cache, dict[bytes, float](), list[float]()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.wait(0.002):
            for one, since in list(self.waiting.items()):
                number, tag, _ = struct.unpack("<IQI", one)
                cells = self.cache.flows._cells[number]
                if any(word >> 30 == tag >> 30 for word in cells.way if word):
                    self.lags.append(time.monotonic() - since)
                    del self.waiting[one]


def cpu(pid: int) -> float:
    """Seconds of processor that a process and its threads have used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def flood(active: Cache, watch: Watch, tick: int, rate: int) -> tuple[int, float]:
    """Write `rate` new flows a second; returns how many, and in what time."""
    chance, began, written = random.Random(1), time.monotonic(), 0
    pending: list[bytes] = []
    while (now := time.monotonic()) < began + SECONDS:
        for one in pending:  # their handshakes end
            active.flows.put(one, active.server, FlowState.ESTABLISHED, tick)
        pending.clear()
        while written < (now - began) * rate:
            one = key(chance, active.flows.sets)
            if not active.flows.put(one, active.server, FlowState.EMBRYONIC, tick):
                written += 1
                continue
            if written % SAMPLE == 0:
                watch.waiting[one] = time.monotonic()
            pending.append(one)
            written += 1
        time.sleep(BEAT)
    return written, time.monotonic() - began


def run(report: Report, pair: Pair) -> None:
    one, two = (Cache(gateway.host.pins) for gateway in (pair.one, pair.two))
    watch = Watch(two)
    watch.thread.start()
    pids = [gateway.running["daemon"].pid for gateway in (pair.one, pair.two)]
    idle = measure(pids, lambda: time.sleep(5))
    with bpf.pinned(pair.one.host.pins / SWEEP) as sweep:
        tick = one.flows.tick(sweep)
    counted: list[tuple[int, float]] = []
    busy = measure(pids, lambda: counted.append(flood(one, watch, tick, RATE)))
    eventually(lambda: len(watch.waiting) <= len(watch.lags) // 50, 10)
    watch.stop.set()
    watch.thread.join()
    written, took = counted[0]
    lags = sorted(watch.lags)
    p99 = lags[int(len(lags) * 0.99)] * 1000
    report.case("lag", [lag * 1000 for lag in lags], "ms", p99=p99, worst=lags[-1] * 1000)
    report.case("new flows a second", [written / took], "1/s")
    for name, quiet, load in zip(("Active", "Backup"), idle, busy, strict=True):
        report.case(f"processor, {name}'s daemon", [load], "% of a core", idle=quiet)
    report.target(f"lag p99 at {RATE} new flows/s", p99, "ms", "<", 200)
    report.target("new flows a second that were made", written / took, "1/s", ">=", RATE * 0.98)
    report.target("watched flows that never came", len(watch.waiting), "", "==", 0)


def measure(pids: list[int], work: Callable[[], object]) -> list[float]:
    """Percent of a core that each used meanwhile."""
    before, began = [cpu(pid) for pid in pids], time.monotonic()
    work()
    took = time.monotonic() - began
    return [100 * (cpu(pid) - then) / took for pid, then in zip(pids, before, strict=True)]


def main() -> int:
    report = Report("replication")
    with tempfile.TemporaryDirectory() as home, Lab(standard(servers=3, gateways=2)) as lab:
        pair = Pair(lab, "rr", Path(home), "flow_cache: 524288")
        try:
            pair.start()
            run(report, pair)
        finally:
            pair.close()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
