"""The systemd unit gives the process what it needs, and takes nothing that it needs."""

import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from lbctl.vrrp.router import PATIENCE
from lbctl.vrrp.run import HELPER_END, STATE

UNIT = Path(__file__).parents[3] / "systemd" / "lbctl-vrrp.service"
LONGEST = 40.95  # seconds; the longest interval that an advert can carry


def service() -> dict[str, str]:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_it_may_be_real_time_and_is_not_killed_for_a_long_wake_up() -> None:
    found = service()
    capabilities = set(found["CapabilityBoundingSet"].split())
    assert capabilities >= {"CAP_SYS_NICE", "CAP_IPC_LOCK", "CAP_NET_ADMIN", "CAP_NET_RAW"}
    assert "LimitRTTIME" not in found
    assert found["LimitMEMLOCK"] == "infinity"


def test_a_stop_waits_for_the_slowest_hand_over_and_leaves_the_helper_its_end() -> None:
    """Once the process is gone systemd kills what is left of the unit (KillMode=mixed)."""
    found = service()
    assert int(found["TimeoutStopSec"]) > PATIENCE * LONGEST + HELPER_END
    assert found["KillMode"] == "mixed"
    assert found["Restart"] == "always"


def test_what_it_writes_is_writable() -> None:
    found = service()
    assert f"/var/lib/{found['StateDirectory']}" == str(STATE)
    assert (found["ProtectSystem"], found["ProtectKernelTunables"]) == ("strict", "no")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_understands_it(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/usr/bin/lbctl", "/bin/true")
    copy.write_text("".join(line for line in text.splitlines(True) if "man:" not in line))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    about = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert about == []
