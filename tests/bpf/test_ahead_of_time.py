"""What plain clang makes of bpf/ (`make bpf`), loaded as any libbpf user would: by bpftool."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bpf.conftest import directory_of_pins

pytestmark = pytest.mark.kernel

TOP = Path(__file__).parents[2]
OUT = TOP / "bpf" / "out"
PROGRAM = re.compile(r"^LB_(PROGRAM|CLASSIFIER)\((\w+)\)", re.MULTILINE)
KIND = {"PROGRAM": "xdp", "CLASSIFIER": "sched_cls"}


def programs(source: Path) -> dict[str, str]:
    """Those that a file defines, and their kinds."""
    return {name: KIND[kind] for kind, name in PROGRAM.findall(source.read_text())}


SOURCES = sorted((TOP / "bpf").glob("*.c"))


@pytest.fixture(scope="module", autouse=True)
def objects() -> None:
    """Compiled with every feature, and every warning an error."""
    made = subprocess.run(["make", "-C", TOP, "bpf"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.fixture
def pins() -> Iterator[Path]:
    with directory_of_pins() as directory:
        yield directory


def bpftool(*words: str | Path) -> Any:
    done = subprocess.run(
        ["bpftool", "-j", *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"bpftool {words}:\n{(done.stdout + done.stderr)[-4000:]}"
    return json.loads(done.stdout) if done.stdout.strip() else None


def test_each_source_has_a_program() -> None:
    found = {source.stem: programs(source) for source in SOURCES}
    assert all(found.values()), found
    assert "lb" in found["lb"]
    assert "lb_sweep" in found["sweep"]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_bpftool_loads_every_program(pins: Path, source: Path) -> None:
    wanted = programs(source)
    bpftool("prog", "loadall", OUT / f"{source.stem}.o", pins)
    assert {pin.name for pin in pins.iterdir()} == set(wanted)
    for name, kind in wanted.items():
        shown = bpftool("prog", "show", "pinned", pins / name)
        assert (shown["name"], shown["type"]) == (name[:15], kind)
        assert shown["bytes_jited"] > 0
