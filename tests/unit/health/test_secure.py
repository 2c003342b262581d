"""What TLS probes share, and whose file is at fault."""

import subprocess
from pathlib import Path

import pytest

from lbctl.health.files import Files
from lbctl.health.probes.secure import _context_for
from lbctl.health.result import Unable
from lbctl.model import Tls


def test_servers_that_differ_by_name_and_days_share_a_context() -> None:
    files = Files()
    first = _context_for(Tls(name="app1.example", days=7), files, "")
    assert _context_for(Tls(name="app2.example", days=9), files, "") is first
    assert _context_for(Tls(name="app1.example", days=7), files, "h2") is not first
    assert _context_for(Tls(verify=False), files, "") is not first


@pytest.mark.parametrize("bad", ["ca", "cert"])
def test_the_file_at_fault_is_named(bad: str, tmp_path: Path) -> None:
    good = tmp_path / "good.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x "
        f"-keyout {tmp_path}/key.pem -out {good}".split(),
        check=True,
        capture_output=True,
    )
    good.write_bytes(good.read_bytes() + (tmp_path / "key.pem").read_bytes())
    (tmp_path / f"{bad}.pem").write_text("no certificate")
    names = {"ca": str(good), "cert": str(good)} | {bad: str(tmp_path / f"{bad}.pem")}
    with pytest.raises(Unable, match=f"/{bad}.pem: cannot be used: "):
        _context_for(Tls(**names), Files(), "")
