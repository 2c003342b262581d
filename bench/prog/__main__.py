"""python -m bench.prog: see bench/README.md."""

import argparse
import os
import sys

from bench.prog.cases import Case, cases
from bench.prog.check import check
from bench.prog.figures import Figures
from bench.prog.measure import measure
from bench.prog.stand import Stand, stand
from bench.report import Report

INSIDE = "LBCTL_BENCH_INSIDE"  # set: this process has a network namespace of its own


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.prog", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="at least 15 to be quoted")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.prog: loading programs needs root: sudo make bench-prog", file=sys.stderr)
        return 5
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        command = [sys.executable, "-m", "bench.prog", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", *command])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with stand() as made:
        return run(made, arguments.rounds)


def run(made: Stand, rounds: int) -> int:
    """The number of targets missed, at most 1."""
    report = Report("prog")
    found = Figures()
    todo = cases()
    for case in todo:
        check_all(made, case)
    for turn in range(rounds):
        for case in todo:
            found.add(case, measure(made, case, turn))
    found.fill(report)
    return min(1, report.finish())


def check_all(made: Stand, case: Case) -> None:
    for program in (*case.ours, *(name for name in case.others if name == "textbook")):
        check(made, case, program)


if __name__ == "__main__":
    sys.exit(main())
