"""How long a verb takes that only asks, and what the daemon and its worker weigh.

    make bench-cli

A lab with real servers; `lbctl get services` as a whole process, in turn with a bare
interpreter, so that the machine's own pace can be told from ours.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.report import Report
from lbctl.lab import Lab, eventually, standard

RUNS = 20
CONFIG = """\
apiVersion: lbctl/v1
gateway: {front: front, back: back, datapath: xdp}
services:
  web:
    listen: 192.0.2.10:80/tcp
    scheduler: rr
    check: {type: http, path: /}
    servers: {app1: 198.51.100.11:80, app2: 198.51.100.12:80, app3: 198.51.100.13:80}
"""


def milliseconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - started) * 1000


def resident(pid: int) -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def main() -> int:
    report = Report("cli")
    with Lab(standard()) as lab:
        gateway = lab.gateway
        gateway.config(CONFIG)
        gateway.daemon()
        ask = ["get", "services"]
        eventually(lambda: gateway.lbctl(*ask, check=False).returncode == 0, timeout=60)
        verb = [sys.executable, "-m", "lbctl.cli.main", "--socket", str(gateway.socket), *ask]
        verbs, bare = [], []
        for _ in range(RUNS):
            verbs.append(milliseconds(verb))
            bare.append(milliseconds([sys.executable, "-c", "pass"]))
        status = json.loads(gateway.lbctl("get", "status", "-j").stdout)
        memory = resident(status["pid"]) + resident(status["worker"]["pid"])
        everything = sum(resident(one.pid) for one in gateway.processes())
    summary = report.case("lbctl get services", verbs, "ms")
    report.case("python -c pass", bare, "ms")
    # The spawner is a fork of the worker: most of it is the same memory, counted twice.
    report.case("daemon, worker, spawner", [everything / 1e6], "MB")
    report.target("lbctl get services, median", summary.median, "ms", "<", 100)
    report.target("daemon and probe worker", memory / 1e6, "MB", "<", 120)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
