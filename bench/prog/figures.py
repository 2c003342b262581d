"""From what was measured to what is said: net costs, ratios, targets.

net = a program's ns per packet less the calibration's in the same round. The subtraction
can hide about 8 ns, because the processor overlaps the wrapper's work with the program's.
So a cost lies in [net, net + 8], and where ours is compared with the reference all of that
is counted against us.
"""

from collections import defaultdict
from statistics import fmean

from bench.prog.cases import FLOWS, Case
from bench.prog.measure import CALIBRATION, Result
from bench.report import Report, Summary

HIDDEN = 8.0  # ns

# Ours over the reference, by kind of packet and number of flows: asked for now, and later.
NOW = {("mh", 1): 0.4, ("mh", 65536): 0.4, ("rr", 1): 0.6, ("rr", 65536): 0.6}
LATER = {("mh", 1): 0.25, ("mh", 65536): 0.06, ("rr", 1): 0.5, ("rr", 65536): 0.5}
NEW_SYN_LATER = 0.06
HONEST = 1.25  # the reference over the sum of its map operations


class Figures:
    def __init__(self) -> None:
        self._nets: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._missed: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._calibration: list[float] = []

    def add(self, case: Case, results: dict[str, Result]) -> None:
        base = results[CALIBRATION].gross
        self._calibration.append(base)
        for program, result in results.items():
            if program == CALIBRATION:
                continue
            self._nets[case.name, program].append(result.gross - base)
            if result.missed is not None:
                self._missed[case.name, program].append(result.missed)

    def net(self, case: str, program: str) -> float:
        return Summary.of(self._nets[case, program]).p20

    def fill(self, report: Report) -> None:
        report.case("wrapper alone (calibration)", self._calibration, "ns")
        for (case, program), samples in sorted(self._nets.items()):
            extra = {}
            if missed := self._missed.get((case, program)):
                extra["missed"] = f"{fmean(missed):.1%}"
            report.case(f"{case}: {program}", samples, "ns", **extra)
        self._honesty(report)
        self._ours(report)

    def _honesty(self, report: Report) -> None:
        """Is the reference as quick as its map operations allow?"""
        for flows in (1, 65536):
            case = f"mh established, {FLOWS[flows]}"
            ratio = self.net(case, "textbook") / self.net(case, "op_all")
            name = f"textbook / its map operations, {FLOWS[flows]}"
            report.target(name, ratio, "x", "<=", HONEST)

    def _ours(self, report: Report) -> None:
        for shape_of in (_needed, _all):
            for (kind, flows), limit in NOW.items():
                self._ratio(report, kind, flows, shape_of(kind), limit, now=True)
        for (kind, flows), limit in LATER.items():
            self._ratio(report, kind, flows, "all", limit, now=False)
        syn = (self.net("mh new SYN", "all") + HIDDEN) / self.net("mh new SYN", "textbook")
        report.look_ahead("mh new SYN (all) / textbook", syn, "x", "<=", NEW_SYN_LATER)

    def _ratio(
        self, report: Report, kind: str, flows: int, shape: str, limit: float, now: bool
    ) -> None:
        ours = self.net(f"{kind} established, {FLOWS[flows]}", shape) + HIDDEN
        reference = self.net(f"mh established, {FLOWS[flows]}", "textbook")
        hold = report.target if now else report.look_ahead
        name = f"{kind} established ({shape}) / textbook, {FLOWS[flows]}"
        hold(name, ours / reference, "x", "<=", limit)


def _needed(kind: str) -> str:
    """The shape that a configuration of such services needs."""
    return "lean" if kind == "mh" else "flows"


def _all(kind: str) -> str:
    return "all"
