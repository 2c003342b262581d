"""`make bench-failover`: everything about failover, into bench/out/failover.json.

Crash, graceful stop and preemption beside keepalived at 10 ms, 100 ms and 1 s adverts; then
failovers that should not have been, under load. About half an hour; each part can be run
alone (`python -m bench.control.failover --help`, `... failover_false --help`).
"""

import subprocess
import sys

PARTS = (
    ("failover", "--interval", "0.01", "--runs", "20"),
    ("failover", "--interval", "0.1", "--runs", "20"),
    ("failover", "--interval", "1", "--runs", "6"),
    ("failover_false", "--loops", "0"),
    ("failover_false", "--loops", "4"),
    ("failover_false", "--loops", "16"),
    ("failover_false", "--daemon"),
)


def main() -> int:
    """1 if any part missed a target; all are run."""
    codes = []
    for name, *arguments in PARTS:
        print(f"--- {name} {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", f"bench.control.{name}", *arguments]
        codes.append(subprocess.run(command, check=False).returncode)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
