"""`make bench-fence`: how soon the peer serves, and how silent a gateway is whose processes were
killed or stopped while its link is up. Adverts every 100 ms; every cell ten times.

Seen by a client that asks every millisecond (an echo that is nobody's of ours answers on both
gateways, so only the fence keeps the dead one quiet) and by a capture at its port.
"""

import os
import signal
import sys
import time
from itertools import product
from statistics import median

from bench.control.failover import HIGH, VIP, Pair
from bench.control.scene import real_time
from bench.report import Report
from lbctl.lab import Lab, standard
from tests.lab.vrrp.speakers import Spec
from tests.lab.vrrp.tap import Tap

RUNS = 10
INTERVAL = 0.1
LIMIT = 10.0  # ms past the successor's down interval
BLOWS = ("VRRP killed", "all killed", "all stopped")


class Cell(Pair):
    """A pair of which the first is hit, with its link up."""

    def __init__(self, lab, own_mac, unicast):
        self.own_mac, self.unicast = own_mac, unicast
        super().__init__(lab, "lbctl", INTERVAL)
        self.tap = Tap(lab, "lb1-front", VIP, 7)

    def _spec(self, priority):
        ours, theirs = (self._address(n) for n in ((0, 1) if priority == HIGH else (1, 0)))
        peers = {"peer": theirs, "source": ours} if self.unicast else {}
        return Spec(VIP, priority=priority, interval=INTERVAL, own_mac=self.own_mac, **peers)

    def hit(self, blow):
        """Milliseconds past the down interval until it serves, frames said after that."""
        processes, pids = list(self.first.processes), self.first.kill()
        with real_time():
            self._random_phase()
            at = time.monotonic()
            if blow == "VRRP killed":
                processes[0].kill(signal.SIGKILL)
            else:
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP if blow == "all stopped" else signal.SIGKILL)
            self.scene.watch(lambda: False, self.down + 0.3)
        record, end = self.scene.record, time.monotonic()
        last = max(a.at for a in record.adverts if a.source == self._address(0))
        lost = record.lost(at, end - 0.05)
        served = next(sent for sent in record.sent if sent > lost[-1])
        said = self.tap.heard(last + self.down + LIMIT / 1000)
        if blow == "all stopped":
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        self.first.start(self._spec(HIGH))
        self.settle(HIGH)
        return (served - last - self.down) * 1000, len(said)

    def stop(self):
        super().stop()
        self.tap.__exit__(None, None, None)


def main():
    report = Report("fence")
    with Lab(standard(servers=0, gateways=2)) as lab:
        for own_mac, unicast in product((False, True), repeat=2):
            cell = Cell(lab, own_mac, unicast)
            cell.start()
            for blow in BLOWS:
                name = f"{'own' if own_mac else 'virtual'} MAC, "
                name += f"{'unicast' if unicast else 'multicast'}, {blow}"
                runs = [cell.hit(blow) for _ in range(RUNS)]
                times, said = [ms for ms, _ in runs], sum(count for _, count in runs)
                report.case(f"{name}: past the down interval", times, "ms", worst=max(times))
                report.target(f"{name}: served", median(times), "ms", "<=", LIMIT)
                report.target(f"{name}: frames of the dead one after it", said, "", "==", 0)
            cell.stop()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
