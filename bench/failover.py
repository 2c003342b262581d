"""`make bench-failover`: everything about failover, into bench/out/failover.json.

Crash, graceful stop and preemption beside keepalived at 10 ms, 100 ms and 1 s adverts; then
failovers that should not have been, under load. Half an hour in all, so that each part can
be run alone, and its results replace that part's in the file:

    make bench-failover ARGS='10ms 100ms'        parts: 10ms 100ms 1s, loops-0 loops-4
    python -m bench.failover --list              loops-16 daemon
"""

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial

from bench.control import failover, failover_false
from bench.report import Report, write_parts

NAME = "failover"
PARTS: dict[str, Callable[[Report], None]] = {
    "10ms": partial(failover.measure, interval=0.01, runs=20),
    "100ms": partial(failover.measure, interval=0.1, runs=20),
    "1s": partial(failover.measure, interval=1.0, runs=6),
    "loops-0": partial(failover_false.under_loops, loops=0, seconds=120.0),
    "loops-4": partial(failover_false.under_loops, loops=4, seconds=120.0),
    "loops-16": partial(failover_false.under_loops, loops=16, seconds=120.0),
    "daemon": partial(failover_false.under_reloads, seconds=120.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print("\n".join(PARTS))
        return 0
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"{', '.join(unknown)}: none of {' '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `timeout`: take all down first
    return int(write_parts(NAME, PARTS, options.parts or PARTS) > 0)


if __name__ == "__main__":
    sys.exit(main())
