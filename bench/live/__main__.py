"""python -m bench.live: see bench/README.md."""

import os
import sys

from bench.live import tcp, udp
from bench.report import Report


def main() -> int:
    if os.geteuid() != 0:
        print("bench.live: namespaces and programs need root: sudo make bench-live")
        return 5
    report = Report("live")
    everywhere = os.sched_getaffinity(0)
    udp.measure(report)
    os.sched_setaffinity(0, everywhere)
    tcp.measure(report)
    return min(1, report.finish())


if __name__ == "__main__":
    sys.exit(main())
