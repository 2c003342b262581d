"""`make bench-fence`: how soon the peer serves, and how silent a gateway is whose processes were
killed or stopped while its link is up. Adverts every 100 ms; every cell ten times.

Seen by a client that asks every millisecond, and by a capture at the dead one's port. Parts
`fence-...`: VRRP processes alone; an echo that is nobody's of ours answers on both gateways, so
only the fence keeps the dead one quiet. Parts `xdp-...`: whole gateways, and an echo on a server
behind them. Ten minutes in all; each part can be run alone, and its results replace that
part's in bench/out/fence.json:

    make bench-fence ARGS='xdp-own-unicast'
"""

import argparse
import json
import os
import signal
import sys
import time
from functools import partial
from itertools import product
from statistics import median

from bench.control.failover import HIGH, LOW, VIP, Pair
from bench.control.scene import PORT, Scene, real_time
from bench.report import write_parts
from lbctl.lab import Lab, eventually, standard
from tests.lab.vrrp.speakers import Lbctl, Spec
from tests.lab.vrrp.tap import Tap

NAME = "fence"
RUNS = 10
INTERVAL = 0.1
LIMIT = 10.0  # ms past the successor's down interval
BLOWS = ("VRRP killed", "all killed", "all stopped")
PARTS = {
    "-".join(words): words
    for words in product(("fence", "xdp"), ("virtual", "own"), ("multicast", "unicast"))
}
FILE = """
apiVersion: lbctl/v1
gateway: {{front: front, back: back, datapath: xdp, flow_key: only for this very lab}}
gateways: {{lb1: {{}}, lb2: {{}}}}
virtual_routers:
  edge: {{interface: front, vrid: 7, addresses: {vip}, {common}, {front}}}
  inside: {{interface: back, vrid: 8, addresses: 198.51.100.1, {common}, {back}}}
services:
  echo:
    listen: {vip}:{port}/udp
    scheduler: mh
    check: none
    servers: {{app1: 198.51.100.11}}
"""


class Whole(Lbctl):
    """A whole gateway on the XDP data path, with a router on either side."""

    def start(self, spec):
        mac = "own" if spec.own_mac else "virtual"
        high = "priority: " + json.dumps({"lb1": HIGH, "lb2": LOW})
        common = f"interval: 100ms, group: pair, mac: {mac}, {high}"
        front, back = (
            f"peers: {{lb1: {net}3, lb2: {net}2}}" if spec.peer else "accept: true"
            for net in ("192.0.2.", "198.51.100.")
        )
        self.host.config(FILE.format(vip=VIP, port=PORT, common=common, front=front, back=back))
        words = ["vrrp", "--control", self.control, "--pins", self.pins]
        words += ["--state", self.home / "state", "--runtime", self.home / "run"]
        self._run([sys.executable, "-m", "lbctl.cli.main", *map(str, words)], "vrrp.log")
        self.processes.append(
            self.host.daemon("--node", self.host.name, "--vrrp", str(self.control))
        )


def serves(speaker):
    """Its daemon has settled, and so its packet program has the server."""
    done = speaker.host.lbctl("get", "status", check=False)
    assert done.returncode == 0, done.stderr
    return True


class Cell(Pair):
    """A pair of which the first is hit, with its link up."""

    patience = 30.0  # a busy machine starts two processes

    def __init__(self, lab, path, mac, cast):
        self.whole, self.own_mac, self.unicast = path == "xdp", mac == "own", cast == "unicast"
        super().__init__(lab, "lbctl", INTERVAL)
        self.tap = Tap(lab, "lb1-front", VIP, 7)

    def _speakers(self, product):
        return [(Whole if self.whole else Lbctl)(gateway) for gateway in self.lab.gateways]

    def _scene(self):
        """Adverts are heard at the first one's port: those to one peer are not for all."""
        client = self._space(self.lab.client)
        if self.whole:
            (server,) = self.lab.servers
            echo = str(server.address)
            return Scene(client, [self._space(server)], self._switch(), "lb1-front", VIP, echo=echo)
        gateways = map(self._space, self.lab.gateways)
        return Scene(client, [*gateways], self._switch(), "lb1-front", VIP)

    def start(self):
        for speaker, priority in ((self.first, HIGH), (self.second, LOW)):
            speaker.start(self._spec(priority))
            if self.whole:
                eventually(partial(serves, speaker), 60)
        self.settle(HIGH)

    def _spec(self, priority):
        ours, theirs = (self._address(n) for n in ((0, 1) if priority == HIGH else (1, 0)))
        peers = {"peer": theirs, "source": ours} if self.unicast else {}
        return Spec(VIP, priority=priority, interval=INTERVAL, own_mac=self.own_mac, **peers)

    def hit(self, blow):
        """Milliseconds past the down interval until it serves, frames said after that."""
        vrrp, pids = self.first.processes[0], [one.pid for one in self.first.host.processes()]
        with real_time():
            self._random_phase()
            at = time.monotonic()
            if blow == "VRRP killed":
                vrrp.kill(signal.SIGKILL)
            else:
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP if blow == "all stopped" else signal.SIGKILL)
            self.scene.watch(lambda: False, self.down + 0.3)
        record, end = self.scene.record, time.monotonic()
        last = max(a.at for a in record.adverts if a.source == self._address(0) and a.priority)
        lost = record.lost(at, end - 0.05)
        served = next(sent for sent in record.sent if sent > lost[-1])
        said = self.tap.heard(last + self.down + LIMIT / 1000)
        self.first.kill()
        for one in self.first.host.processes():
            os.kill(one.pid, signal.SIGKILL)
        self.first.start(self._spec(HIGH))
        self.settle(HIGH)
        return (served - last - self.down) * 1000, said

    def stop(self):
        super().stop()
        self.tap.__exit__(None, None, None)


def measure(report, path, mac, cast):
    with Lab(standard(servers=1, gateways=2)) as lab:
        cell = Cell(lab, path, mac, cast)
        cell.start()
        for blow in BLOWS:
            name = f"{'XDP' if path == 'xdp' else 'fence alone'}, {mac} MAC, {cast}, {blow}"
            runs = [cell.hit(blow) for _ in range(RUNS)]
            times, said = [ms for ms, _ in runs], [frame for _, said in runs for frame in said]
            report.case(f"{name}: past the down interval", times, "ms", worst=max(times))
            report.target(f"{name}: served", median(times), "ms", "<=", LIMIT)
            report.target(f"{name}: frames of the dead one after it", len(said), "", "==", 0)
            print("\n".join(said[:5]))
        cell.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {' '.join(PARTS)}")
    wanted = parser.parse_args().parts or PARTS
    if unknown := set(wanted) - PARTS.keys():
        parser.error(f"{', '.join(unknown)}: none of {' '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `timeout`: take all down first
    measures = {part: partial(measure, path=p, mac=m, cast=c) for part, (p, m, c) in PARTS.items()}
    return int(write_parts(NAME, measures, wanted) > 0)


if __name__ == "__main__":
    sys.exit(main())
