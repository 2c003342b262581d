"""What keeps a daemon from starting on XDP, as its operator reads it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lbctl.errors import Exit

pytestmark = pytest.mark.kernel

FILE = """\
apiVersion: lbctl/v1
gateway: {{front: {front}, back: back, datapath: {datapath}}}
services:
  web: {{listen: 192.0.2.10:80/tcp, scheduler: rr, check: none, servers: {{app1: 198.51.100.11}}}}
"""


@dataclass(frozen=True)
class Case:
    name: str
    says: str
    mend: str
    code: Exit = Exit.FAILED
    front: str = "front"
    datapath: str = "xdp"
    before: tuple[str, ...] = ()  # a command that makes it so
    user: tuple[str, ...] = ()


NOBODY = ("setpriv", "--reuid", "65534", "--clear-groups")
CASES = [
    Case("a mistyped interface", "interface nic9: not there", "`ip link` shows", front="nic9"),
    Case("the same, and auto", "interface nic9: not there", "`ip link` shows", front="nic9",
         datapath="auto"),
    Case("an interface that is down", "back: is down", "ip link set back up",
         before=("ip", "link", "set", "back", "down")),
    Case("no forwarding", "IPv4 forwarding is off", "sysctl -w net.ipv4.ip_forward=1",
         before=("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")),
    Case("not root", "the XDP data path needs root", "sudo lbctl daemon", Exit.NOT_PERMITTED,
         user=NOBODY),
]  # fmt: skip


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="lbctl-start-") as directory:
        Path(directory).chmod(0o777)
        before = os.umask(0)
        yield Path(directory)
        os.umask(before)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_in_the_way_is_named_with_its_mend(
    case: Case, links: None, pins: Path, open_to_all: Path
) -> None:
    file, state = open_to_all / "lbctl.yaml", open_to_all / "state"
    file.write_text(FILE.format(front=case.front, datapath=case.datapath))
    state.mkdir(mode=0o777)
    if case.before:
        subprocess.run(case.before, check=True)
    was = sorted(pin.name for pin in pins.iterdir())
    done = subprocess.run(
        [
            *case.user,
            *(sys.executable, "-m", "lbctl.cli.main", "daemon", "--config", str(file)),
            *("--state", str(state), "--pins", str(pins)),
            *("--socket", str(state / "lbctl.sock")),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert case.says in done.stderr
    assert case.mend in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == case.code
    assert sorted(pin.name for pin in pins.iterdir()) == was
