"""abi.h as gcc lays it out, against abi.py: every struct, field and number."""

import re
import shutil
import subprocess
from ctypes import Structure, sizeof
from enum import IntEnum
from pathlib import Path

import pytest

from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.shape import source_directory

HEADER = (source_directory() / "abi.h").read_text()
HERE_ONLY = {"RingPage", "OldPage"}  # pages of an array: how this side maps them
THERE_ONLY = {"lb_prefix4", "lb_prefix6"}  # keys, packed where they are written
ENUMS = {
    "SchedulerCode": "LB_SCHED_",
    "ModeCode": "LB_MODE_",
    "ServerState": "LB_SERVER_",
    "FlowState": "LB_FLOW_",
    "SweepKind": "LB_SWEEP_",
}


def c_name(python: str) -> str:
    """OldSlot -> lb_old_slot."""
    return "lb" + re.sub("[A-Z]", lambda match: "_" + match[0].lower(), python)


STRUCTS = {
    c_name(name): kind
    for name, kind in vars(abi).items()
    if isinstance(kind, type) and issubclass(kind, Structure) and name not in HERE_ONLY
    if kind is not Structure
}
DEFINED = set(re.findall(r"^#define LB_(\w+)", HEADER, re.MULTILINE))
CONSTANTS = {
    name: value for name, value in vars(abi).items() if isinstance(value, int) and name in DEFINED
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What gcc says to each expression."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt install gcc")
    asked = [f"sizeof(struct {name})" for name in STRUCTS]
    asked += [
        f"__builtin_offsetof(struct {name}, {field})"
        for name, kind in STRUCTS.items()
        for field, *_ in kind._fields_
    ]
    asked += [
        f"sizeof(((struct {name} *)0)->{field})"
        for name, kind in STRUCTS.items()
        for field, *_ in kind._fields_
    ]
    asked += [f"LB_{name}" for name in CONSTANTS]
    asked += [
        prefix + member.name for name, prefix in ENUMS.items() for member in getattr(abi, name)
    ]
    asked += ["LB_VERDICT_COUNT"]
    directory: Path = tmp_path_factory.mktemp("abi")
    lines = "".join(f'printf("%lld\\n", (long long)({one}));\n' for one in asked)
    source = f'#include <stdio.h>\n#include "abi.h"\nint main(void) {{\n{lines}return 0;\n}}\n'
    (directory / "ask.c").write_text(source)
    command = ["gcc", "-Wall", "-Werror", f"-I{source_directory()}", "ask.c", "-o", "ask"]
    subprocess.run(command, cwd=directory, check=True)
    output = subprocess.run([directory / "ask"], capture_output=True, text=True, check=True)
    return dict(zip(asked, map(int, output.stdout.split()), strict=True))


@pytest.mark.parametrize("name", STRUCTS)
def test_struct(said: dict[str, int], name: str) -> None:
    kind = STRUCTS[name]
    assert said[f"sizeof(struct {name})"] == sizeof(kind)
    for field, *_ in kind._fields_:
        place = getattr(kind, field)
        assert said[f"__builtin_offsetof(struct {name}, {field})"] == place.offset, field
        assert said[f"sizeof(((struct {name} *)0)->{field})"] == place.size, field


def test_every_struct_and_field_is_here() -> None:
    bodies = dict(re.findall(r"^struct (lb_\w+) \{\n(.*?)^\};", HEADER, re.MULTILINE | re.DOTALL))
    assert bodies.keys() - THERE_ONLY == STRUCTS.keys()
    for name, kind in STRUCTS.items():
        code = re.sub(r"/\*.*?\*/", "", bodies[name], flags=re.DOTALL)
        fields = re.findall(r"(\w+)(?:\[[^;]*\])?;", code)
        assert fields == [field for field, *_ in kind._fields_], name


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant(said: dict[str, int], name: str) -> None:
    assert said[f"LB_{name}"] == CONSTANTS[name]


@pytest.mark.parametrize("name", ENUMS)
def test_enum(said: dict[str, int], name: str) -> None:
    kind: type[IntEnum] = getattr(abi, name)
    assert {member.name: said[ENUMS[name] + member.name] for member in kind} == {
        member.name: member.value for member in kind
    }


def test_verdicts(said: dict[str, int]) -> None:
    assert tuple(re.findall(r'^\s*X\(\w+, "(\w+)"\)', HEADER, re.MULTILINE)) == abi.VERDICTS
    assert said["LB_VERDICT_COUNT"] == len(abi.VERDICTS) <= abi.VERDICT_ROOM
