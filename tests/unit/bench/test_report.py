import json
from pathlib import Path

import pytest

from bench.report import Report, Summary, Target, merged


def test_summary_interpolates_between_samples() -> None:
    assert Summary.of([5, 1, 4, 2, 3]) == Summary(5, p20=1.8, median=3, q1=2, q3=4)


def test_one_sample_is_all_its_percentiles() -> None:
    assert Summary.of([7]) == Summary(1, 7, 7, 7, 7)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Summary.of([])


@pytest.mark.parametrize(
    ("value", "op", "met"),
    [(0.4, "<=", True), (0.41, "<=", False), (2, ">=", True), (1.9, ">=", False), (0, "==", True)],
)
def test_a_target_is_met_up_to_its_limit(value: float, op: str, met: bool) -> None:
    limit = {"<=": 0.4, ">=": 2, "==": 0}[op]
    assert Target("t", value, "x", op, limit).met is met


def test_an_unknown_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'=<' is none of"):
        Report("r", tmp_path).target("speed", 1, "x", "=<", 2)


def test_the_file_holds_what_was_asked_for(tmp_path: Path) -> None:
    report = Report("prog", tmp_path)
    report.case("established", [10.0, 20.0, 30.0], "ns", flows=64)
    report.target("ratio", 0.5, "x", "<=", 0.4)
    report.look_ahead("later", 0.5, "x", "<=", 0.6)

    assert report.finish() == 1  # a look ahead misses nothing

    found = json.loads((tmp_path / "prog.json").read_text())
    assert set(found["machine"]) == {"cpu", "kernel", "cores"}
    assert [len(found["load"][when]) for when in ("before", "after")] == [3, 3]
    expected = {"name": "established", "unit": "ns", "count": 3, "p20": 14.0, "median": 20.0}
    assert found["cases"] == [{**expected, "q1": 15.0, "q3": 25.0, "flows": 64}]
    fields = {"unit": "x", "op": "<="}
    assert found["targets"] == [
        {"name": "ratio", "value": 0.5, "limit": 0.4, "met": False, **fields}
    ]
    assert found["ahead"] == [{"name": "later", "value": 0.5, "limit": 0.6, "met": True, **fields}]


def test_the_table_lines_numbers_up_and_shouts_what_is_missed(tmp_path: Path) -> None:
    report = Report("prog", tmp_path)
    report.case("one", [1.0], "ns")
    report.case("a longer one", [1234.5], "ns", misses=0)
    report.target("ratio", 0.5, "x", "<=", 0.4)
    blocks = report.table().split("\n\n")
    assert blocks[1].splitlines()[2:] == [
        "one              1       1     1     1    ns",
        "a longer one  1234    1234  1234  1234    ns  misses 0",
    ]
    assert blocks[2].splitlines()[2] == "ratio   0.5 x  <= 0.4  MISSED"


def test_a_report_in_parts_names_the_machine_and_its_load_as_every_other(tmp_path: Path) -> None:
    parts = {name: Report(name, tmp_path).as_json() for name in ("one", "two")}
    parts["one"] |= {"started": "2026-02-02", "load": {"before": [3.0], "after": [4.0]}}
    parts["two"] |= {"started": "2026-01-01", "load": {"before": [1.0], "after": [2.0]}}
    whole = merged("long", parts)
    assert whole["started"] == "2026-01-01"
    assert whole["load"] == {"before": [1.0], "after": [4.0]}
    assert whole["machine"] == parts["one"]["machine"]
    assert whole["parts"] == parts
