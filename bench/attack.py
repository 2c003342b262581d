"""What a SYN flood costs those who are connected, and those who come.

    make bench-attack          (ARGS="mh", "rr", "transition" or "shared" for one of the four)

A lab with four servers, 200 connections that ask every second or so, and 100 new ones a
second; beside them 100,000 SYNs a second, no two of one flow, from one pinned processor.
Runs with and without the flood take turns, in either order; what a flood left behind has gone
when the next run begins. The servers drop what the flood's sources send,
as a network behind which those do not exist would. `transition`: mh, and a server drains.
`shared`: rr, and the flood is at one listen, the connections at another of the same servers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from bench.live.generator import ENDLESS, Generator, generator, namespace
from bench.report import Report
from lbctl.lab import Lab, standard
from tests.bpf.gateway import inside
from tests.lab.chaos import PORT, VIP, Chaos

RATE = 100_000  # SYNs a second
SECONDS = 20.0
RUNS = 5
LONG, NEW = 200, 100.0
SLICE = 0.01  # seconds: the flood comes in as many pieces
CASES = {"mh": "mh", "rr": "rr", "transition": "mh", "shared": "rr"}
OTHER = PORT + 1
GONE = 13.0  # seconds after which the gateway remembers no SYN
SINK = """\
table netdev bench {
  chain in {
    type filter hook ingress device back priority 0;
    ip saddr 198.18.0.0/15 drop
  }
}
"""


class Flood:
    """In a thread of its own, on one processor."""

    def __init__(self, source: Generator) -> None:
        self._source, self._stop = source, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent, self.seconds = 0, 0.0

    def _run(self) -> None:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        began = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * RATE) - self.sent
            if due >= RATE * SLICE:
                due = min(due, int(10 * RATE * SLICE))  # a burst after a late slice has an end
                self._source.send(due)
                self.sent += due
            else:
                time.sleep(SLICE / 4)
        self.seconds = time.monotonic() - began

    @contextmanager
    def rising(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


def prepare(lab: Lab) -> None:
    for server in lab.servers:
        command = server.command(["nft", "-f", "-"])
        subprocess.run(command, input=SINK, text=True, check=True)
    # Where XDP's frames enter a veth, its other end has to listen for them.
    space = namespace(f"{lab.name}-switch")
    with inside(space):
        subprocess.run(["ethtool", "-K", "client-front", "gro", "on"], check=True)
    os.close(space)


def one(chaos: Chaos, source: Generator | None) -> tuple[int, dict[str, int], float]:
    """Connections lost, what was counted, and the flood's packets a second."""
    flood = Flood(source) if source is not None else None
    with (
        chaos.traffic(LONG, NEW) as caller,
        flood.rising() if flood is not None else nullcontext(),
    ):
        time.sleep(SECONDS)
    lines = [json.loads(line) for line in caller.output().splitlines()]
    counted = next(line["counted"] for line in reversed(lines) if "counted" in line)
    begin = max(n for n, line in enumerate(lines) if "ready" in line)
    lost = sum("kind" in line for line in lines[begin:])
    return lost, counted, flood.sent / flood.seconds if flood is not None else 0.0


def measure(name: str, runs: int) -> int:
    """Targets missed."""
    report = Report(f"attack-{name}")
    with Lab(standard(servers=4)) as lab:
        prepare(lab)
        chaos = Chaos(lab, CASES[name], seed=1, port=OTHER if name == "shared" else PORT)
        chaos.up()
        space = namespace(lab.client.namespace)
        with generator(space) as source:
            mac = bytes.fromhex(lab.gateway.spec.nics[0].mac.replace(":", ""))
            source.aim("front", f"{VIP}:{PORT}/tcp", mac, ENDLESS)
            fill(report, name, chaos, source, runs)
        os.close(space)
    return report.finish()


def fill(report: Report, name: str, chaos: Chaos, source: Generator, runs: int) -> None:
    lost: dict[str, list[float]] = {"flood": [], "control": []}
    counts: dict[str, int] = {"flood": 0, "control": 0}
    rates = []
    last = ""
    for number in range(runs):
        for kind in sorted(lost, reverse=number % 2 == 0):  # the flood first, then the control
            if last == "flood":
                time.sleep(GONE)
            last = kind
            if name == "transition":
                chaos.drain("app1")
            broken, counted, rate = one(chaos, source if kind == "flood" else None)
            if name == "transition":
                chaos.ready("app1")
            lost[kind].append(broken)
            counts[kind] += counted["new"]
            rates += [rate] if rate else []
    for kind, samples in lost.items():
        report.case(f"{name}, {kind}: lost", samples, "connections", new=counts[kind])
    speed = report.case(f"{name}: the flood", rates, "SYNs/s")
    worse = statistics.median(lost["flood"]) - statistics.median(lost["control"])
    report.target(f"{name}: median lost, over the control's", worse, "connections", "<=", 0)
    report.target(f"{name}: the flood", speed.median, "SYNs/s", ">=", 0.95 * RATE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description=__doc__)
    parser.add_argument("case", nargs="*", help="all, if not given")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    missed = [measure(name, arguments.runs) for name in arguments.case or CASES]
    return min(1, sum(missed))


if __name__ == "__main__":
    sys.exit(main())
