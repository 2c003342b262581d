"""Our agent on a kernel whose cgroups are v2: it reads the limits, and the use, of the cgroup
that it is told, and of the container that it runs in."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.lab import eventually

pytestmark = pytest.mark.ipvs
AGENT = Path(__file__).parents[2] / "agents/lbctl_agent.py"
TOP = Path("/sys/fs/cgroup")
MIB = 1 << 20
PATIENCE = 60.0
LIMITS = {"cpu.max": "50000 100000", "memory.max": str(64 * MIB)}
# 24 MiB of memory, and all the processor that it gets.
LOAD = f"x = bytearray({24 * MIB}); x[::4096] = b'x' * len(x[::4096])\nwhile True: pass"


@pytest.fixture
def group() -> Iterator[Path]:
    """A cgroup without limits, in one that has them."""
    if not (TOP / "cgroup.controllers").exists():
        pytest.skip("no cgroup v2 at /sys/fs/cgroup (mount -t cgroup2 none /sys/fs/cgroup)")
    (TOP / "cgroup.subtree_control").write_text("+cpu +memory")
    outer = TOP / "lbctl-lab"
    inner = outer / "app1"
    outer.mkdir()
    for name, text in LIMITS.items():
        (outer / name).write_text(text)
    (outer / "cgroup.subtree_control").write_text("+cpu +memory")
    inner.mkdir()
    yield inner
    (outer / "cgroup.kill").write_text("1")
    eventually(lambda: "populated 0" in (outer / "cgroup.events").read_text(), PATIENCE)
    inner.rmdir()
    outer.rmdir()


def joined(group: Path, *argv: str) -> list[str]:
    """The command, in the cgroup from its first instruction on."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *argv]


def once(*argv: str) -> dict:
    """What an agent says of itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_limits_of_the_cgroup_it_is_told_and_their_use(group: Path) -> None:
    with subprocess.Popen(joined(group, sys.executable, "-c", LOAD)) as load:

        def is_seen() -> bool:
            said = once(sys.executable, str(AGENT), "once", "--cgroup", "/lbctl-lab/app1")
            assert said["cgroup"] == {"version": 2, "path": str(group)}
            assert said["cpu"]["cores"] == 0.5
            assert said["memory"]["total"] == 64 * MIB
            assert said["cpu"]["used"] > 0.8, said["cpu"]
            assert 24 * MIB < said["memory"]["bytes"] < 50 * MIB, said["memory"]
            # Of its own: whoever has half a processor and wants a whole one waits a lot.
            assert said["cpu"]["pressure"] > 0.05, said["cpu"]
            return True

        eventually(is_seen, PATIENCE)
        load.kill()


# What a container sees where it has a namespace of cgroups, and where it has none.
OWN = ("--cgroup", "umount {top}; mount -t cgroup2 none {top}")
SHOWN = ("", "mount --bind {box} /mnt; umount {top}; mount --move /mnt {top}")


@pytest.mark.parametrize(("namespace", "mounts"), [OWN, SHOWN], ids=["own", "shown"])
def test_the_limits_of_the_container_it_runs_in(group: Path, namespace: str, mounts: str) -> None:
    box = group.parent / "box"
    box.mkdir()
    for name, text in LIMITS.items():
        (box / name).write_text(text)
    steps = f"set -e; {mounts.format(top=TOP, box=box)}; exec {sys.executable} {AGENT} once"
    words = ["unshare", "--mount", *namespace.split(), "sh", "-c", steps]
    try:
        said = once(*joined(box, *words))
    finally:
        eventually(lambda: "populated 0" in (box / "cgroup.events").read_text(), PATIENCE)
        box.rmdir()
    assert said["cgroup"] == {"version": 2, "path": str(TOP)}
    assert said["cpu"]["cores"] == 0.5
    assert said["memory"]["total"] == 64 * MIB
    assert 0 < said["memory"]["used"] < 1
