"""What checks cost, and how punctual they are: 10,000 targets every 2 s.

    make bench-checks

    checks ── veth ── targets      two namespaces: 198.18.0.0/16 is local to the second,
                                   and one nginx there answers for all of it

The probe worker and HAProxy check the same targets in turn, window by window, so that the
machine's own pace is the same for both. Then 10,000 HTTP checks in two workers, and how long
a verdict takes to be in the desired table where 1,000 services are configured.
"""

import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

from bench.report import Report
from lbctl.daemon.reconcile import Reconciler
from lbctl.desired import desired, settle
from lbctl.health.judge import Health
from lbctl.lab import eventually
from lbctl.messages import Assign, Job, Pulse, Unframer, Verdict, decode, encode, frame
from lbctl.model import (
    AnyProbe,
    Check,
    Config,
    Gateway,
    HttpProbe,
    Listen,
    Scheduler,
    Server,
    Service,
    TcpProbe,
    Timing,
)
from lbctl.world import Sighting, World, targets

TARGETS = 10_000
TIMING = Timing(interval=2.0, timeout=1.0)
WARM_UP, WINDOW, ROUNDS = 6.0, 10.0, 3
PORT = 80
SERVICES, SERVERS = 1_000, 10
VERDICTS = 500
NGINX = """\
daemon off; worker_processes 1; error_log error.log crit; pid nginx.pid;
worker_rlimit_nofile 20000;
events { worker_connections 16384; }
http {
    access_log off; keepalive_timeout 0;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
    uwsgi_temp_path t4; scgi_temp_path t5;
    server { listen 80 backlog=16384; location / { return 200 "well"; } }
}
"""
HAPROXY = """\
global
    maxconn 1000
    stats socket {socket}
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen pool
    bind 127.0.0.1:8080
    default-server check inter 2s fall 3 rise 2
{servers}
"""


def addresses(count: int) -> Iterator[str]:
    first = int(ip_address("198.18.1.0"))
    return (str(ip_address(first + n)) for n in range(count))


# --- the scene ----------------------------------------------------------------------------


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def inside(space: str, words: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{space}", "--", *words]


@contextmanager
def spaces() -> Iterator[tuple[str, str]]:
    """Two namespaces and a veth between them."""
    near, far = (f"lbctl-bench-{os.getpid()}-{end}" for end in ("near", "far"))
    try:
        for space in (near, far):
            run("ip", "netns", "add", space)
            run(*inside(space, ["ip", "link", "set", "lo", "up"]))
        pair = ["ip", "link", "add", "b0", "netns", near, "type", "veth"]
        run(*pair, "peer", "name", "b0", "netns", far)
        for space, address in ((near, "198.18.0.1"), (far, "198.18.0.2")):
            run(*inside(space, ["ip", "address", "add", f"{address}/24", "dev", "b0"]))
            run(*inside(space, ["ip", "link", "set", "b0", "up"]))
        run(*inside(near, ["ip", "route", "add", "198.18.0.0/16", "via", "198.18.0.2"]))
        run(*inside(far, ["ip", "route", "add", "local", "198.18.0.0/16", "dev", "lo"]))
        sysctls = ("net.ipv4.tcp_max_syn_backlog=16384", "net.core.somaxconn=16384")
        run(*inside(far, ["sysctl", "-q", "-w", *sysctls]))
        yield near, far
    finally:
        for space in (near, far):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


@contextmanager
def process(words: Sequence[str], **more: object) -> Iterator[subprocess.Popen[bytes]]:
    one = subprocess.Popen(words, **more)  # type: ignore[call-overload]
    try:
        yield one
    finally:
        one.terminate()
        one.wait(20)


# --- one who checks -----------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) * 1024


class Worker:
    """A probe worker, and what it says."""

    def __init__(self, space: str, probe: AnyProbe, which: Sequence[str]) -> None:
        self.line, theirs = socket.socketpair()
        self.line.settimeout(0.2)
        command = inside(space, [sys.executable, "-m", "lbctl.health.worker"])
        self.process = subprocess.Popen(command, stdin=theirs)
        theirs.close()
        self.pulses: list[Pulse] = []
        self.verdicts: dict[int, Verdict] = {}
        self._unframer = Unframer()
        jobs = tuple(
            Job(n, probe, f"{address}:{PORT}", TIMING, Health.UP)
            for n, address in enumerate(which, 1)
        )
        self.line.settimeout(10)
        self.line.sendall(frame(Assign(jobs, whole=True)))
        self.line.settimeout(0.05)

    def hear(self) -> None:
        with suppress(TimeoutError):
            for message in self._unframer.feed(self.line.recv(1 << 18)):
                if isinstance(message, Pulse):
                    self.pulses.append(message)
                elif isinstance(message, Verdict):
                    self.verdicts[message.id] = message

    def end(self) -> None:
        self.line.close()
        self.process.wait(20)


def watch(workers: Sequence[Worker], seconds: float) -> list[float]:
    """Let time go by and hear the workers; the cores that each used."""
    for worker in workers:
        worker.pulses.clear()
    before = [cpu_seconds(worker.process.pid) for worker in workers]
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        for worker in workers:
            worker.hear()
    took = time.monotonic() - began
    after = [cpu_seconds(worker.process.pid) for worker in workers]
    return [(b - a) / took for a, b in zip(before, after, strict=True)]


@contextmanager
def haproxy(space: str, where: Path) -> Iterator[int]:
    """HAProxy's pid, once it has checked for a while."""
    servers = "\n".join(f"    server s{n} {a}:{PORT}" for n, a in enumerate(addresses(TARGETS)))
    file = where / "haproxy.cfg"
    file.write_text(HAPROXY.format(socket=where / "stats", servers=servers))
    with process(inside(space, ["haproxy", "-q", "-f", str(file)])) as one:
        yield one.pid


def tcp(report: Report, space: str, where: Path) -> None:
    """One worker and HAProxy, window by window."""
    ours, theirs, late, memory = [], [], [], [0.0]
    for _ in range(ROUNDS):
        worker = Worker(space, TcpProbe(), list(addresses(TARGETS)))
        watch([worker], WARM_UP)
        ours += watch([worker], WINDOW)
        late += [pulse.late_p99 * 1000 for pulse in worker.pulses]
        rate = sum(pulse.probes for pulse in worker.pulses) / len(worker.pulses)
        memory.append(resident(worker.process.pid) / 1e6)
        refuted = sum(one.health is not Health.UP for one in worker.verdicts.values())
        unable = sum(pulse.unable for pulse in worker.pulses)
        worker.end()
        assert refuted == 0, f"{refuted} targets were called down"
        with haproxy(space, where) as pid:
            time.sleep(WARM_UP)
            before = cpu_seconds(pid)
            time.sleep(WINDOW)
            theirs.append((cpu_seconds(pid) - before) / WINDOW)
    cpu = report.case("tcp: worker's processor", [100 * x for x in ours], "% of a core")
    peer = report.case("tcp: HAProxy's processor", [100 * x for x in theirs], "% of a core")
    # One second of thirty may be another process's: the median says what is ours.
    seconds = report.case(
        "tcp: lateness p99 by second", late, "ms", probes_per_second=round(rate), worst=max(late)
    )
    report.case("tcp: worker's memory", memory[1:], "MB", unable=unable)
    report.target("10,000 TCP: p99 start lateness", seconds.median, "ms", "<", 50)
    report.target("10,000 TCP: one worker's processor", cpu.median, "% of a core", "<", 65)
    report.look_ahead("the same / HAProxy's", cpu.median / peer.median, "x", "<=", 2)


def http(report: Report, space: str) -> None:
    """Two workers with half of the targets each."""
    half = TARGETS // 2
    all_ = list(addresses(TARGETS))
    workers = [Worker(space, HttpProbe(), part) for part in (all_[:half], all_[half:])]
    watch(workers, WARM_UP)
    cores = watch(workers, WINDOW * 2)
    late = [pulse.late_p99 * 1000 for worker in workers for pulse in worker.pulses]
    down = sum(v.health is not Health.UP for worker in workers for v in worker.verdicts.values())
    rate = sum(pulse.probes for worker in workers for pulse in worker.pulses) / (2 * WINDOW)
    memory = [resident(worker.process.pid) / 1e6 for worker in workers]
    for worker in workers:
        worker.end()
    report.case("http: processor of each worker", [100 * x for x in cores], "% of a core")
    report.case(
        "http: lateness p99 by second", late, "ms", probes_per_second=round(rate), worst=max(late)
    )
    report.case("http: memory of each worker", memory, "MB")
    report.target("10,000 HTTP in 2 workers: called down", down, "", "==", 0)
    report.target(
        "10,000 HTTP in 2 workers: probes", rate, "per s", ">=", 0.98 * TARGETS / TIMING.interval
    )


# --- from a verdict to the table ----------------------------------------------------------


def thousand_services() -> Config:
    services = {}
    for n in range(SERVICES):
        vip = ip_address(int(ip_address("203.0.113.0")) + n % 250)
        servers = {
            f"app{k}": Server(ip_address(int(ip_address("198.18.0.0")) + n * SERVERS + k), 80)
            for k in range(SERVERS)
        }
        listen = Listen.parse(f"{vip}:{8000 + n}/tcp")
        services[f"s{n}"] = Service((listen,), servers, Scheduler("wrr"), check=Check())
    return Config(Gateway("lan0"), services)


def verdicts(report: Report) -> None:
    """From the bytes of a verdict to the operations that follow from it."""
    world, reconciler = World(thousand_services()), Reconciler()
    known = [target for _, target in targets(world.config)]
    for target in known:
        world.see(target, Sighting(Health.UP, "so"))
    reconciler.observed(desired(world, 0.0), set(), 0.0)
    reconciler.finish(reconciler.step(world, 0.0), [], 0.0)
    chosen, samples = random.Random(1).sample(known, VERDICTS), []
    for n, target in enumerate(chosen):
        data = encode(Verdict(n, Health.DOWN, "3 of 3 probes: connection refused", 0.1))
        began = time.perf_counter()
        message = decode(data)
        assert isinstance(message, Verdict)
        touched = world.see(target, Sighting(message.health, message.evidence, 1.0))
        list(settle(world, touched, 1.0))
        reconciler.mark(touched)
        step = reconciler.step(world, 1.0)
        samples.append((time.perf_counter() - began) * 1000)
        assert step.ops, "a dead server makes an operation"
        reconciler.finish(step, [], 1.0)
    samples.sort()
    report.case("verdict to desired table", samples, "ms", services=SERVICES, servers=SERVERS)
    p99 = samples[len(samples) * 99 // 100]
    report.target("verdict to desired table, p99", p99, "ms", "<", 20)


def main() -> int:
    if shutil.which("haproxy") is None:
        print("bench-checks: no haproxy (apt-get install haproxy)", file=sys.stderr)
        return 1
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20000, hard), hard))
    report = Report("checks")
    with ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbctl-bench-")))
        near, far = stack.enter_context(spaces())
        (where / "nginx.conf").write_text(NGINX)
        web = ["nginx", "-p", str(where), "-c", "nginx.conf", "-e", "error.log"]
        one = stack.enter_context(process(inside(far, web)))
        eventually(lambda: one.poll() is None and (where / "nginx.pid").exists())
        tcp(report, near, where)
        http(report, near)
    verdicts(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
