"""Replication under new flows: how long until the other gateway's packet program would find
a flow, and what that costs.

Two daemons on the XDP data path, in a lab; this process writes flows into the Active's pinned
flow cache as its packet program does (embryonic, then established) and watches the Backup's
pinned cache. Lag is from the one write to the other: look, line and import included.

Then the peer stops, is slow (it reads a little a second and acknowledges nothing) and lies
(whatever it says does not add up), under the same flows: a client that asks through the
Active once a millisecond does not notice.
"""

import json
import random
import signal
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import quantiles

from bench.report import Report
from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.dataplane.xdp.flows import FlowCache
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.program import SWEEP
from lbctl.ha.words import VERSION, Batch, Begin, Hello, Summary, frame
from lbctl.lab import Lab, eventually, standard
from lbctl.lab.kernel import NETNS, namespace
from tests.lab.failover.pair import BACK, LINE, PORT, VIP, Pair
from tests.lab.vrrp.spaces import inside

RATE = 5000  # new flows a second
SECONDS = 20.0
BEAT = 0.02  # seconds between two bursts of writes
ASKED = 6.0  # seconds of questions, for each kind of peer
SLOWER = 1.2  # times: what a bad peer may make of an answer's time (its 20th percentile)
LATER = 1.5  # times: and of its p99
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


def flood(active: Cache, watch: Watch, tick: int, rate: int, seconds: float) -> tuple[int, float]:
    """Write `rate` new flows a second; returns how many, and in what time."""
    chance, began, written = random.Random(), time.monotonic(), 0
    pending: list[bytes] = []
    while (now := time.monotonic()) < began + seconds:
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
    with bpf.opened(pair.one.host.pins / SWEEP) as sweep:
        tick = one.flows.tick(sweep)
    counted: list[tuple[int, float]] = []
    busy = measure(pids, lambda: counted.append(flood(one, watch, tick, RATE, SECONDS)))
    eventually(lambda: not watch.waiting, 10)
    watch.stop.set()
    watch.thread.join()
    bad_peers(report, pair, one, tick)
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


# --- a peer that stops, is slow or lies ---------------------------------------------------


def bad_peers(report: Report, pair: Pair, active: Cache, tick: int) -> None:
    """Each in turn with one in sync."""
    usual, asked = list[float](), dict[str, list[float]]()
    bad = {"slow": partial(played, talk=read_little), "lying": partial(played, talk=lie)}
    for kind, instead in {"stopped": stopped, **bad}.items():
        pair.two.synced()
        usual += ask(pair, active, tick)
        with instead(pair) as lines:
            asked[kind] = ask(pair, active, tick)
        report.case(f"lines of a {kind} peer", [len(lines)], "")
        pair.two.start_daemon()
    for kind, times in {"in sync": usual, **asked}.items():
        p99, worst = 1e6 * quantiles(times, n=100)[98], 1e6 * max(times)
        name, micro = f"answers, peer {kind}", [1e6 * one for one in times]
        report.case(name, micro, "us", p99=p99, worst=worst)
    for kind, times in asked.items():
        ratio = quantiles(times, n=5)[0] / quantiles(usual, n=5)[0]
        report.target(f"answers, peer {kind} / in sync", ratio, "x", "<=", SLOWER)
        late = quantiles(times, n=100)[98] / quantiles(usual, n=100)[98]
        report.target(f"answers, p99, peer {kind} / in sync", late, "x", "<=", LATER)


def ask(pair: Pair, active: Cache, tick: int) -> list[float]:
    """Seconds that each answer took, under new flows."""
    words = ["-m", "bench.control.ping", VIP, str(PORT), str(ASKED)]
    process = pair.lab.client.start([sys.executable, *words], log=f"ping-{time.monotonic()}.json")
    flood(active, Watch(active), tick, RATE, ASKED)
    if process.wait(30):
        raise SystemExit(f"a client was not answered: {process.output()}")
    found: list[float] = json.loads(process.output())
    return found


@contextmanager
def stopped(pair: Pair) -> Iterator[list[float]]:
    daemon = pair.two.running.pop("daemon")
    daemon.kill(signal.SIGSTOP, group=True)
    yield []
    daemon.kill(signal.SIGKILL, group=True)
    daemon.wait()


@contextmanager
def played(pair: Pair, talk: Callable[[ssl.SSLSocket], None]) -> Iterator[list[float]]:
    """In place of the second gateway's daemon, line after line; when each began."""
    daemon = pair.two.running.pop("daemon")
    daemon.kill(signal.SIGKILL, group=True)
    daemon.wait()
    ended, lines = threading.Event(), list[float]()
    context = ssl.create_default_context(cafile=str(pair.home / "ca.pem"))
    context.load_cert_chain(pair.home / "lb2.pem")

    def play() -> None:
        while not ended.wait(0.1):
            with suppress(OSError), socket.socket() as plain:
                plain.settimeout(2.0)
                plain.bind((f"{BACK}3", 0))
                plain.connect((f"{BACK}2", LINE))
                with context.wrap_socket(plain, server_hostname="lb1.example") as line:
                    lines.append(time.monotonic())
                    line.sendall(frame(Hello(VERSION, "lb2")) + frame(Summary(0.0)))
                    while not ended.is_set():
                        talk(line)

    thread = threading.Thread(
        target=lambda: inside(NETNS / namespace(pair.lab.name, pair.two.host.name), play)
    )
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()


def read_little(line: ssl.SSLSocket) -> None:
    line.recv(1000)
    line.sendall(frame(Summary(0.0)))
    time.sleep(0.5)


def lie(line: ssl.SSLSocket) -> None:
    puts = tuple((b"f%d" % n, bytes(100)) for n in range(500))
    line.sendall(frame(Begin(1)) + frame(Batch(1, 1, puts, (), 0, True)))
    line.recv(1 << 16)


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
