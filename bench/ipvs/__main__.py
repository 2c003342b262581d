"""`make bench-ipvs`: programming IPVS, beside ipvsadm and keepalived in the same boot."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.ipvs.table import table
from bench.report import Report
from lbctl.dataplane.ipvs.operation import request_of
from lbctl.dataplane.plan import plan
from lbctl.model import Table

ROUNDS = 7
MACHINE = Path("tests/vm/machine.py")


def main():
    report = Report("ipvs")
    outside(report)
    inside(report, on_ipvs_kernel())
    return report.finish()


def outside(report):
    """Encoding and diffing the table, on this machine."""
    samples = []
    for _ in range(ROUNDS):
        wanted, held = table(), table()
        started = time.process_time()
        messages = [request_of(op) for op in plan(wanted, Table())]
        assert plan(wanted, held) == []
        samples.append(time.process_time() - started)
    assert len(messages) == 11_000
    summary = report.case("encode and diff 1,000 x 10", samples, "s")
    report.target("CPU to encode and diff the table", summary.median, "s", "<=", 1.5)


def on_ipvs_kernel():
    with tempfile.TemporaryDirectory(prefix="lbctl-bench-") as shared:
        out = Path(shared) / "figures.json"
        guest = [sys.executable, "-m", "bench.ipvs.guest", str(out)]
        machine = ["/usr/bin/python3", str(MACHINE), "--timeout", "2400", "--writable", shared]
        subprocess.run([*machine, "--", *guest], check=True)
        return json.loads(out.read_text())


def inside(report, found):
    adm = report.case("ipvsadm -R, CPU", found["ipvsadm_cpu"], "s").p20
    whole = report.case("ours, whole process, CPU", found["process_cpu"], "s").p20
    ours = report.case("ours, in the daemon, CPU", found["daemon_cpu"], "s").p20
    report.case("read back and compare, CPU", [found["look_cpu"]], "s")
    report.case("a changed weight, planned and written", found["weight_latency"], "s")
    report.case("a changed weight, asked of a daemon until in the kernel", found["command"], "s")
    report.case("the same, until its answer", found["answer"], "s")
    report.case("keepalived's reload", found["keepalived_reload"], "s")
    report.case("with checks: asked of a daemon until in the kernel", found["checked_command"], "s")
    report.case("with checks: until its answer", found["checked_answer"], "s")
    report.case("with checks: keepalived's reload", found["checked_reload"], "s")
    counts = [found[f"{name}_calls"] for name in ("ipvsadm", "process", "idle")]
    for name, count in zip(("ipvsadm -R", "ours", "ours, empty table"), counts, strict=True):
        report.case(f"{name}, system calls", [count], "calls")
    ratio = counts[1] / counts[0]
    report.target("system calls, ours / ipvsadm", ratio, "x", "<=", 1 / 20)
    report.target("CPU, daemon / ipvsadm", ours / adm, "x", "<=", 0.8)
    report.look_ahead("CPU, whole process with its imports / ipvsadm", whole / adm, "x", "<=", 0.8)
    report.target("messages of restoring the table", found["written"], "", "==", 11_000)
    again = "writes of a pass over the whole table without a difference"
    report.target(again, found["unchanged_writes"], "", "==", 0)
    report.target("writes of one changed weight", found["weight_writes"], "", "==", 1)
    reload = median(found["keepalived_reload"])
    quick = median(found["weight_latency"]) / reload
    report.target(
        "changed weight, planned and written / keepalived's reload", quick, "x", "<=", 0.1
    )
    asked = "changed weight, asked of a daemon until in the kernel / keepalived's reload"
    as_used = median(found["checked_command"]) / median(found["checked_reload"])
    report.target(f"{asked}, both with checks", as_used, "x", "<=", 0.1)
    report.target(f"{asked}, neither", median(found["command"]) / reload, "x", "<=", 0.1)
    again = "writes of a daemon's reload without a difference"
    report.target(again, found["reload_writes"], "", "==", 0)


if __name__ == "__main__":
    sys.exit(main())
