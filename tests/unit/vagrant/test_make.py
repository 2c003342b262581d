"""`make vagrant-...`: what it hands on, and what it does not need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vagrant.settings import REPOSITORY

FILES = ("Makefile", "tests/vm/vm.mk", "vagrant/vagrant.mk")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that has the makefiles alone."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def make(place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = ("VENV", "MAKEFLAGS", "MAKELEVEL")  # of a make that runs these tests
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *words],
        cwd=place,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_choices_are_words_of_the_command_as_sudo_keeps_no_environment(place: Path) -> None:
    done = make(place, "-n", "vagrant-up", "LBCTL_SERVERS=3", LBCTL_VAGRANT_STATE="/mnt/a disk")
    assert " LBCTL_SERVERS='3' " in done.stdout
    assert " LBCTL_VAGRANT_STATE='/mnt/a disk' " in done.stdout
    assert done.stdout.rstrip().endswith("/python -m vagrant up")


def test_down_installs_nothing(place: Path) -> None:
    there = f"VENV={Path(sys.executable).parents[1]}"
    assert "tools/setup" not in make(place, "-n", "vagrant-down", there).stdout
    assert "tools/setup" in make(place, "-n", "vagrant-down").stdout  # or there is no Python
    assert "tools/setup" in make(place, "-n", "vagrant-up", there).stdout


def test_the_cache_of_a_lab_that_is_there_is_not_cleaned(place: Path) -> None:
    record = place / ".cache/vagrant/lab.json"
    record.parent.mkdir(parents=True)
    record.touch()
    done = make(place, "clean")
    assert done.returncode != 0
    assert "make vagrant-down" in done.stdout
    assert record.exists()
    record.unlink()
    assert make(place, "clean").returncode == 0
    assert not record.parent.exists()
