"""`make bench-icount`: virtual nanoseconds per packet, over two boots.

One nanosecond is one instruction; caches and memory cost nothing. So this is no speed, but
a figure that moves only when the code does.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.report import Report

BOOTS = 2
MACHINE = Path("tests/vm/machine.py")


def main():
    report = Report("icount")
    boots = [boot() for _ in range(BOOTS)]
    for name in boots[0]:
        found = [one[name] for one in boots if one[name] is not None]
        report.target(f"{name}: boots in which it ran", len(found), "", "==", BOOTS)
        if len(found) < BOOTS:
            continue
        report.case(name, found, "virtual ns")
        spread = (max(found) - min(found)) / min(found) * 100
        report.target(f"{name}: apart over {BOOTS} boots", spread, "%", "<=", 0.5)
    return report.finish()


def boot():
    with tempfile.TemporaryDirectory(prefix="lbctl-bench-") as shared:
        out = Path(shared) / "figures.json"
        guest = [sys.executable, "-m", "bench.icount.guest", str(out)]
        machine = ["/usr/bin/python3", str(MACHINE), "--icount", "--timeout", "1500"]
        subprocess.run([*machine, "--writable", shared, "--", *guest], check=True)
        return json.loads(out.read_text())


if __name__ == "__main__":
    sys.exit(main())
