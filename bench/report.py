"""What every benchmark ends with: numbers beside the limits they were held to.

    report = Report("prog")
    report.case("mh established, 64k flows", samples, "ns", misses=0)
    report.target("mh established / reference", 0.21, "x", "<=", 0.4)
    sys.exit(report.finish())

`finish()` prints the tables, writes bench/out/NAME.json and counts the missed targets:

    name, started, machine {cpu, kernel, cores}, load {before, after: 1, 5, 15 minutes},
    cases   [{name, unit, count, p20, median, q1, q3, ...}],
    targets [{name, value, unit, op, limit, met}],
    ahead   the same, for limits that are known but not asked for yet.

A shared machine is noisy upwards only, so the 20th percentile is the figure to compare;
the quartiles say how much to believe it.
"""

import json
import operator
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

OUT = Path(__file__).resolve().parent / "out"

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Some samples of one quantity, in its unit."""

    count: int
    p20: float
    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Summary":
        """Raises ValueError without samples."""
        if not samples:
            raise ValueError("no samples")
        if len(samples) == 1:
            return cls(1, *[samples[0]] * 4)
        fifths = quantiles(samples, n=5, method="inclusive")
        q1, median, q3 = quantiles(samples, n=4, method="inclusive")
        return cls(len(samples), fifths[0], median, q1, q3)


@dataclass(frozen=True, slots=True)
class Case:
    """extra: whatever else belongs beside the numbers, ready for JSON."""

    name: str
    unit: str
    summary: Summary
    extra: dict[str, object] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "unit": self.unit, **asdict(self.summary), **self.extra}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and the limit it is held to: value `op` limit."""

    name: str
    value: float
    unit: str
    op: str
    limit: float

    @property
    def met(self) -> bool:
        return _HOLDS[self.op](self.value, self.limit)

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    kernel: str
    cores: int

    @classmethod
    def this(cls) -> "Machine":
        text = Path("/proc/cpuinfo").read_text()
        model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        cpu = model[1] if model else platform.machine()
        return cls(cpu, platform.release(), os.cpu_count() or 1)


class Report:
    """Collects cases and targets between the first load average and the last."""

    def __init__(self, name: str, directory: Path = OUT) -> None:
        self.name = name
        self.directory = directory
        self.machine = Machine.this()
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.load_before = os.getloadavg()
        self.cases: list[Case] = []
        self.targets: list[Target] = []
        self.ahead: list[Target] = []

    def case(self, name: str, samples: Sequence[float], unit: str, **extra: object) -> Summary:
        """One quantity that was measured several times."""
        case = Case(name, unit, Summary.of(samples), extra)
        self.cases.append(case)
        return case.summary

    def target(self, name: str, value: float, unit: str, op: str, limit: float) -> Target:
        """A figure that was asked for: missing it fails the benchmark."""
        self.targets.append(_target(name, value, unit, op, limit))
        return self.targets[-1]

    def look_ahead(self, name: str, value: float, unit: str, op: str, limit: float) -> Target:
        """A figure that will be asked for: shown and written, but it fails nothing."""
        self.ahead.append(_target(name, value, unit, op, limit))
        return self.ahead[-1]

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "started": self.started,
            "machine": asdict(self.machine),
            "load": {"before": self.load_before, "after": os.getloadavg()},
            "cases": [case.as_json() for case in self.cases],
            "targets": [target.as_json() for target in self.targets],
            "ahead": [target.as_json() for target in self.ahead],
        }

    def write(self) -> Path:
        """Into a file of its own name, whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"{self.name}.json"
        fresh = path.with_suffix(".json.new")
        fresh.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        return fresh.replace(path)

    def finish(self) -> int:
        """Print, write; the number of targets missed."""
        print(self.table())
        print(f"\nwritten: {os.path.relpath(self.write())}")
        return sum(not target.met for target in self.targets)

    def table(self) -> str:
        machine, before, after = self.machine, self.load_before[0], os.getloadavg()[0]
        parts = [
            f"{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}; "
            f"load {before:.1f} before, {after:.1f} after"
        ]
        if self.cases:
            parts.append(_columns(["case", "p20", "median", "q1", "q3", "unit", ""], self._rows()))
        for title, targets in (("target", self.targets), ("to come", self.ahead)):
            if targets:
                parts.append(_columns([title, "value", "limit", ""], map(_target_row, targets)))
        return "\n\n".join(parts)

    def _rows(self) -> list[list[str]]:
        rows = []
        for case in self.cases:
            s = case.summary
            numbers = [_number(x) for x in (s.p20, s.median, s.q1, s.q3)]
            extra = ", ".join(f"{k.replace('_', ' ')} {_plain(v)}" for k, v in case.extra.items())
            rows.append([case.name, *numbers, case.unit, extra])
        return rows


def write_parts(
    name: str,
    parts: Mapping[str, Callable[[Report], None]],
    wanted: Iterable[str],
    directory: Path = OUT,
) -> int:
    """Measure the parts of a long benchmark that are wanted; each replaces its own results in
    the file of all. The number of targets that were missed."""
    missed = 0
    for part in wanted:
        print(f"--- {part}", flush=True)
        report = Report(name)
        parts[part](report)
        print(report.table(), flush=True)
        path = directory / f"{name}.json"
        done = json.loads(path.read_text()).get("parts", {}) if path.exists() else {}
        done[part] = report.as_json()
        directory.mkdir(parents=True, exist_ok=True)
        whole = merged(name, {part: done[part] for part in parts if part in done})
        path.write_text(json.dumps(whole, indent=1) + "\n")
        missed += sum(not target.met for target in report.targets)
    return missed


def merged(name: str, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """One report of all parts that there are, whenever each was run: begun with the first,
    ended with the last, whose machine it names."""
    in_time = sorted(parts.values(), key=lambda part: str(part["started"]))
    first, last = in_time[0], in_time[-1]
    load = {"before": first["load"]["before"], "after": last["load"]["after"]}
    kinds = ("cases", "targets", "ahead")
    whole = {kind: [one for part in parts.values() for one in part[kind]] for kind in kinds}
    head = {"name": name, "started": first["started"], "machine": last["machine"], "load": load}
    return {**head, **whole, "parts": dict(parts)}


def _target(name: str, value: float, unit: str, op: str, limit: float) -> Target:
    if op not in _HOLDS:
        raise ValueError(f"{name}: '{op}' is none of {' '.join(_HOLDS)}")
    return Target(name, value, unit, op, limit)


def _target_row(target: Target) -> list[str]:
    unit = f" {target.unit}" if target.unit else ""
    verdict = "met" if target.met else "MISSED"
    value, limit = _number(target.value) + unit, f"{target.op} {_number(target.limit)}"
    return [target.name, value, limit, verdict]


def _number(value: float) -> str:
    """About three digits, as one reads them."""
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _plain(value: object) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _columns(head: Sequence[str], rows: "map[list[str]] | list[list[str]]") -> str:
    """The first and the last column to the left, numbers to the right."""
    lines = [list(head), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    last = len(head) - 1

    def cell(text: str, i: int) -> str:
        return text.ljust(widths[i]) if i in (0, last) else text.rjust(widths[i])

    drawn = ["  ".join(cell(text, i) for i, text in enumerate(line)).rstrip() for line in lines]
    return "\n".join([drawn[0], "-" * len(drawn[0]), *drawn[1:]])
