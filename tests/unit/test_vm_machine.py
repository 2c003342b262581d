"""The test machine without starting it: what a skip says, and what the tests may cost."""

import platform

import pytest

from tests.vm import machine
from tests.vm.guest import BUDGET, over_budget


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """No program on the PATH but those that a test makes."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "CACHE", tmp_path / "cache")
    monkeypatch.setattr("sys.argv", ["machine.py", "--", "true"])

    def make(name, script="exit 0"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return make


def said(capsys):
    assert machine.main() == machine.MACHINE_FAILED
    return capsys.readouterr().err


def test_another_processor_is_missing_and_no_failure(bare, capsys, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert said(capsys) == "vm: missing an x86_64 machine: this is aarch64\n"


def test_tools_that_are_missing_are_named(bare, capsys):
    text = said(capsys)
    assert text.startswith("vm: missing tools: apt-get install")
    assert "qemu-system-x86" in text


@pytest.mark.parametrize(
    "script",
    [None, "echo E: Could not resolve >&2; exit 100"],
)
def test_a_kernel_that_cannot_be_fetched_is_missing(bare, capsys, script):
    for tool in machine.TOOLS:
        bare(tool)
    bare("apt-cache", "echo '  Depends: linux-image-6.1.0-amd64'")
    if script:
        bare("apt-get", script)
    text = said(capsys)
    assert text.startswith("vm: missing a kernel image: ")
    assert "apt-get update" in text


def test_what_goes_wrong_in_the_machine_is_no_skip(bare, capsys):
    for tool in machine.TOOLS:
        bare(tool)
    bare("apt-cache", "echo '  Depends: linux-image-6.1.0-amd64'")
    bare("apt-get", "echo > kernel.deb")
    bare("dpkg-deb", "echo broken >&2; exit 2")
    assert said(capsys).startswith("vm: dpkg-deb -x")


def test_the_tests_of_make_test_have_ten_minutes():
    assert BUDGET == 600
    assert over_budget(599.0, False) == ""
    assert "worked for 601 s: at most 600" in over_budget(601.0, False)
    assert over_budget(601.0, True) == ""
