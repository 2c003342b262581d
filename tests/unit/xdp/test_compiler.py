"""Programs that were compiled earlier, as they are kept."""

import os
from pathlib import Path

import pytest

from lbctl.dataplane.xdp import compiler

CODE = bytes(range(256))


@pytest.mark.parametrize("left", [0, 7, 32, 40], ids=lambda left: f"{left} bytes")
def test_what_the_power_tore_is_compiled_anew(tmp_path: Path, left: int) -> None:
    path = tmp_path / "programs" / "one"
    assert compiler._kept(path) is None
    compiler._keep(path, CODE)
    assert compiler._kept(path) == CODE
    path.write_bytes(path.read_bytes()[:left])
    assert compiler._kept(path) is None
    compiler._keep(path, CODE)
    assert compiler._kept(path) == CODE


def test_those_that_were_used_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "KEPT", 3)
    for number in range(3):
        compiler._keep(tmp_path / str(number), CODE)
        os.utime(tmp_path / str(number), (number, number))
    assert compiler._kept(tmp_path / "0") == CODE  # used now
    compiler._keep(tmp_path / "3", CODE)
    assert {one.name for one in tmp_path.iterdir()} == {"0", "2", "3"}
