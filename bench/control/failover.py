"""How long nobody answers: crash, graceful stop and preemption, lbctl beside keepalived.

    python -m bench.failover 10ms

Two gateways, a client and a bridge; the products take turns within one run, at random
phases. A crash is the front link cut and all processes of the product killed in the same
instant. Its *overshoot* is what passes beyond (last advert on the wire + the successor's
down interval); the RFC allows no less. When probes of ours are lost, what was on the wire
then is printed.
"""

import os
import random
import signal
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.control.scene import Advert, Scene, real_time
from bench.report import Report
from lbctl.lab import Host, Lab, eventually, standard
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from tests.lab.vrrp.speakers import Running, Spec, make

HIGH, LOW = 200, 100
PRODUCTS = ("lbctl", "keepalived")
BLOCK = 5  # runs of one product before the other has its turn
VIP = "192.0.2.10"


@dataclass(frozen=True)
class Run:
    """One round, in seconds. lost: probes. The overshoot is known to a probe's millisecond;
    advert_overshoot, that of the successor's first advert, has no such grain."""

    outage: float
    overshoot: float
    advert_overshoot: float
    preempt_lost: int
    graceful_outage: float
    graceful_lost: int
    preempt_again_lost: int


class Pair:
    """One product on both gateways of a lab, watched from outside."""

    def __init__(self, lab: Lab, product: str, interval: float) -> None:
        self.lab, self.interval = lab, interval
        self.first, self.second = self._speakers(product)
        self.scene = self._scene()
        self._own = {str(gateway.address): gateway for gateway in lab.gateways}

    def _speakers(self, product: str) -> list[Running]:
        return [make(product, gateway) for gateway in self.lab.gateways]

    def _scene(self) -> Scene:
        client, *gateways = map(self._space, (self.lab.client, *self.lab.gateways))
        return Scene(client, gateways, self._switch(), "front", VIP)

    def _space(self, host: Host) -> Path:
        return NETNS / namespace(self.lab.name, host.name)

    def _switch(self) -> Path:
        return NETNS / namespace(self.lab.name, SWITCH)

    @property
    def patience(self) -> float:
        """Seconds for a product to start and to take over."""
        return 30 * self.interval + 3

    @property
    def down(self) -> float:
        """The successor's Active_Down_Interval (RFC 9568, 6.1)."""
        return 3 * self.interval + (256 - LOW) * self.interval / 256

    def start(self) -> None:
        self.first.start(self._spec(HIGH))
        self.second.start(self._spec(LOW))
        self.settle(HIGH)

    def stop(self) -> None:
        self.second.stop()
        self.first.stop()
        self.scene.close()

    def settle(self, priority: int) -> None:
        """Until only adverts of `priority` are on the wire, and probes are answered."""
        with real_time():
            calm = self.scene.watch(lambda: self._calm(priority), self.patience)
        if not calm:
            raise SystemExit(f"no calm: {self.scene.record.adverts[-5:]}\n{self.first.log()}")

    def _calm(self, priority: int) -> bool:
        now = time.monotonic()
        record = self.scene.record
        span = max(0.05, 2.5 * self.interval)
        heard = list(_latest(record.adverts, now - span))
        sent = [at for at in record.sent[-100:] if now - 0.06 < at < now - 0.01]
        return (
            bool(heard)
            and {a.priority for a in heard} == {priority}
            and bool(sent)
            and not record.lost(now - 0.06, now - 0.01)
        )

    def crash(self) -> tuple[float, float, float]:
        """(outage, overshoot, the successor's first advert's) after the link is cut and
        everything killed."""
        pids = self.first.kill()
        with real_time():
            self._random_phase()
            at = time.monotonic()
            self.scene.link("lb1-front", up=False)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            self.scene.watch(lambda: self.scene.record.back(at) is not None, self.down + 5)
        record = self.scene.record
        back = record.back(at)
        assert back is not None, "nobody took over"
        last = max(a.at for a in record.adverts if a.source == self._address(0) and a.at <= back)
        lost = record.lost(last, back)
        due = last + self.down
        first = min(a.at for a in record.adverts if a.source == self._address(1) and a.at > last)
        return back - (lost[0] if lost else back), back - due, first - due

    def graceful(self) -> tuple[float, int]:
        """(outage, probes lost) around a SIGTERM."""
        at = time.monotonic()
        with real_time():
            self._random_phase()
            at = time.monotonic()
            for process in self.first.processes:
                process.kill(signal.SIGTERM)
            self.scene.watch(lambda: self._calm(LOW), 30 * self.interval + 3)
        self.first.stop()
        lost = self.scene.record.lost(at - 0.05, time.monotonic() - 0.02)
        self._show(lost)
        return (lost[-1] - lost[0] + 0.001 if lost else 0.0), len(lost)

    def preempt(self) -> int:
        """Probes lost while the first gateway comes back."""
        at = time.monotonic()
        self.first.start(self._spec(HIGH))
        with suppress(AssertionError):
            # A gateway that boots has no addresses of its former life once its router runs.
            eventually(lambda: VIP not in self.lab.gateways[0].run(["ip", "address"]).stdout, 1.0)
        self.scene.link("lb1-front", up=True)
        self.settle(HIGH)
        lost = self.scene.record.lost(at, time.monotonic() - 0.02)
        self._show(lost)
        return len(lost)

    def round(self) -> Run:
        outage, overshoot, advert = self.crash()
        preempt = self.preempt()
        graceful, lost = self.graceful()
        return Run(outage, overshoot, advert, preempt, graceful, lost, self.preempt())

    def _show(self, lost: list[float]) -> None:
        """What the wire and the products said around a loss, where there should be none."""
        if not lost or self.first.name != "lbctl":
            return
        start, end = lost[0] - 3 * self.interval, lost[-1] + 2 * self.interval
        print(f"  {len(lost)} lost within {(lost[-1] - lost[0]) * 1000:.1f} ms")
        for advert in self.scene.record.adverts:
            if start < advert.at < end:
                after = (advert.at - lost[0]) * 1000
                print(f"  {after:8.1f} ms  {advert.source} priority {advert.priority}")
        for speaker in (self.first, self.second):
            print("   ", "\n    ".join(speaker.log().splitlines()[-6:]))

    def _random_phase(self) -> None:
        self.scene.watch(lambda: False, 0.05 + random.random() * self.interval)

    def _spec(self, priority: int) -> Spec:
        return Spec(VIP, priority=priority, interval=self.interval)

    def _address(self, number: int) -> str:
        return str(self.lab.gateways[number].address)


def _latest(adverts: list[Advert], since: float) -> list[Advert]:
    found = []
    for advert in reversed(adverts):
        if advert.at < since:
            break
        found.append(advert)
    return found


def compare(interval: float, runs: int) -> dict[str, list[Run]]:
    """Both products in turns; every round is one of each kind."""
    done: dict[str, list[Run]] = {product: [] for product in PRODUCTS}
    with Lab(standard(servers=0, gateways=2)) as lab:
        while any(len(rounds) < runs for rounds in done.values()):
            for product in PRODUCTS:
                pair = Pair(lab, product, interval)
                pair.start()
                for _ in range(min(BLOCK, runs - len(done[product]))):
                    done[product].append(pair.round())
                    print(f"{product:10} {_line(done[product][-1])}", flush=True)
                pair.stop()
    return done


def _line(run: Run) -> str:
    return (
        f"crash {run.outage * 1000:7.1f} ms, overshoot {run.overshoot * 1000:6.2f} ms;"
        f" lost: graceful {run.graceful_lost}, preempt {run.preempt_lost}"
        f" and {run.preempt_again_lost}"
    )


def measure(report: Report, interval: float, runs: int) -> None:
    """Both products at one interval, and the targets. Crash times are held to them at 10
    and 100 ms only."""
    done = compare(interval, runs)
    name = f"{interval:g} s" if interval >= 1 else f"{interval * 1000:g} ms"
    for product, rounds in done.items():
        kind = f"{product}, {name} adverts"
        report.case(f"crash, overshoot, {kind}", _ms(rounds, "overshoot"), "ms")
        report.case(f"crash, its advert, {kind}", _ms(rounds, "advert_overshoot"), "ms")
        outages = _ms(rounds, "outage")
        report.case(f"crash, outage, {kind}", outages, "ms", worst=round(max(outages), 1))
        report.case(f"graceful, outage, {kind}", _ms(rounds, "graceful_outage"), "ms")
        preempts = [r.preempt_lost for r in rounds] + [r.preempt_again_lost for r in rounds]
        report.case(f"preempt, lost, {kind}", preempts, "probes", worst=max(preempts))
    ours, theirs = (statistics.median(_ms(done[p], "overshoot")) for p in PRODUCTS)
    if interval < 1:
        report.target(f"crash overshoot, median, {name}", ours, "ms", "<=", 5.0)
        report.target(f"the same less keepalived's, {name}", ours - theirs, "ms", "<=", 0.0)
    rounds = done["lbctl"]
    lost = sum(run.graceful_lost for run in rounds)
    back = sum(run.preempt_lost + run.preempt_again_lost for run in rounds)
    report.target(f"lost in {len(rounds)} graceful stops, {name}", lost, "probes", "<=", 0)
    report.target(f"lost in {2 * len(rounds)} preemptions, {name}", back, "probes", "<=", 0)
    report.target(f"runs, {name}", len(rounds), "", ">=", 20 if interval < 1 else 6)


def _ms(rounds: list[Run], what: str) -> list[float]:
    return [getattr(run, what) * 1000 for run in rounds]
