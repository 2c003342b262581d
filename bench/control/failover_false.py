"""Failovers that should not have been: none in two minutes at 10 ms adverts under load.

    python -m bench.failover loops-16 daemon

A bare real-time timer runs beside (`bench.control.timer`): windows in which it, too, saw a
gap over 20 ms are left out, since nothing could have kept time then. More than 5 % left out
is inconclusive, not passed. `daemon` loads the active gateway with a daemon that reloads
1,000 services while its worker runs 5,000 checks a second.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.report import Report
from lbctl.lab import Lab, Process, eventually, standard
from lbctl.lab.lab import GatewayHost
from lbctl.messages import Ask, RoleChange, Standing
from lbctl.vrrp.control import Client
from tests.lab.vrrp.speakers import Spec
from tests.lab.vrrp.stand import Stand

INTERVAL = 0.01
AROUND = 0.05  # seconds on each side of a gap of the bare timer
LOOP = "while True: pass"
SERVICES, SERVERS, EVERY = 1000, 10, "2s"


@dataclass(frozen=True)
class Outcome:
    """changes: moments of a change of role. gaps: of the bare timer."""

    seconds: float
    changes: list[float]
    gaps: list[tuple[float, float]]

    @property
    def excused(self) -> float:
        """The share of the time that is left out."""
        return sum(end - start + 2 * AROUND for start, end in self.gaps) / self.seconds

    @property
    def false(self) -> int:
        return sum(
            not any(start - AROUND <= at <= end + AROUND for start, end in self.gaps)
            for at in self.changes
        )


def measure(stand: Stand, seconds: float) -> Outcome:
    stand.start(Spec(priority=200, interval=INTERVAL), Spec(priority=100, interval=INTERVAL))
    timer = [sys.executable, "-m", "bench.control.timer", str(INTERVAL), str(seconds)]
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(s.control)) for s in (stand.one, stand.two)]
        for client in clients:
            client.ask(Ask())  # what is told on connecting is not a change
        bare = subprocess.Popen(timer, stdout=subprocess.PIPE, text=True)
        output, _ = bare.communicate()
        said = [message for client in clients for message in client.ask(Ask())]
    changes = [message.at for message in said if isinstance(message, RoleChange)]
    for message in said:
        if isinstance(message, Standing):
            print(f"  {message.router}: {message.why[0]}; {message.counts}")
    return Outcome(seconds, changes, json.loads(output))


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """That many processes that never rest."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(loops)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
        for one in running:
            one.wait()


@contextmanager
def reloading(gateway: GatewayHost, stand: Stand) -> Iterator[Process]:
    """A daemon with many checks, and its file taken again and again."""
    gateway.run(["ip", "route", "add", "local", "198.18.0.0/16", "dev", "lo"])
    files = []
    for weight in (1, 2):
        files.append(gateway.home / f"large{weight}.yaml")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text(large(weight))
    gateway.config(files[0].read_text())
    vrrp = ("--node", "lb1", "--vrrp", str(stand.one.control))
    daemon = gateway.daemon("--datapath", "fake", *vrrp)
    script = "\n".join(
        ["import itertools, subprocess, sys",
         f"for name in itertools.cycle({[str(one) for one in files]!r}):",
         "    subprocess.run([sys.executable, '-m', 'lbctl.cli.main', 'apply', name])"]
    )  # fmt: skip
    reloads = gateway.start([sys.executable, "-c", script], log="reloads.log")
    try:
        yield reloads
    finally:
        reloads.kill(group=True)
        daemon.kill()
        reloads.wait()
        daemon.wait()


def large(weight: int) -> str:
    lines = [
        "apiVersion: lbctl/v1",
        "gateway: {front: front, back: back}",
        "gateways: {lb1: {}, lb2: {}}",
        f"defaults: {{check: {{type: tcp, interval: {EVERY}}}}}",
        "virtual_routers:",
        f"  web: {{vrid: 7, addresses: 192.0.2.10, interval: {INTERVAL * 1000:g}ms,",
        f"        priority: {{lb1: 200, lb2: 100}}, refresh: {60 + weight}s}}",
        "services:",
    ]
    for number in range(SERVICES):
        lines.append(f"  s{number}:")
        lines.append(f"    listen: 203.0.113.{number % 250 + 1}:{1000 + number // 250}/tcp")
        lines.append("    servers:")
        for server in range(SERVERS):
            place = number * SERVERS + server
            address = f"198.18.{place // 200}.{place % 200 + 1}"
            lines.append(f"      a{server}: {{address: '{address}:80', weight: {weight}}}")
    return "\n".join(lines) + "\n"


def under_loops(report: Report, loops: int, seconds: float) -> None:
    """With so many busy loops."""
    with Lab(standard(servers=0, gateways=2)) as lab, Stand(lab) as stand, busy(loops):
        outcome = measure(stand, seconds)
    _judge(report, f"{loops} busy loops", outcome)


def under_reloads(report: Report, seconds: float) -> None:
    """With a daemon that reloads while its worker checks, and that tells the VRRP process
    of each reload."""
    with (
        Lab(standard(servers=0, gateways=2)) as lab,
        Stand(lab) as stand,
        reloading(lab.gateways[0], stand) as load,
    ):
        eventually(lambda: _probes(lab.gateways[0]) > 0, 120)
        before = _probes(lab.gateways[0]), load.output().count("generation")
        outcome = measure(stand, seconds)
        probes = _probes(lab.gateways[0]) - before[0]
        reloads = load.output().count("generation") - before[1]
    _judge(report, "daemon", outcome)
    report.case("checks", [probes / seconds], "per second", services=SERVICES)
    report.target("reloads of 1,000 services meanwhile", reloads, "", ">=", 10)
    report.target("checks meanwhile", probes / seconds, "per second", ">=", 4_900)


def _judge(report: Report, name: str, outcome: Outcome) -> None:
    changes, gaps = len(outcome.changes), len(outcome.gaps)
    report.case(f"seconds, {name}", [outcome.seconds], "s", role_changes=changes, timer_gaps=gaps)
    report.target(f"false failovers, {name}", outcome.false, "", "<=", 0)
    report.target(f"time left out, {name}", outcome.excused, "", "<=", 0.05)


def _probes(gateway: GatewayHost) -> float:
    """How many checks this gateway's daemon has run."""
    argv = ["curl", "-s", "--unix-socket", str(gateway.socket), "http://lbctl/metrics"]
    text = gateway.run(argv, check=False).stdout
    found = [line for line in text.splitlines() if line.startswith("lbctl_probes_total ")]
    return float(found[0].split()[1]) if found else 0.0
