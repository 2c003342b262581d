"""What a lab leaves is seen: each kind of thing, also when its name is gone already."""

import subprocess

import pytest

from lbctl.lab import Lab, eventually, kernel, standard
from lbctl.lab.traces import Traces

pytestmark = pytest.mark.lab


def test_all_that_a_lab_has_is_seen_while_it_is_there_and_gone_with_it() -> None:
    lab = Lab(standard(servers=1))
    with lab:
        shape = ["type", "array", "key", "4", "value", "4", "entries", "1", "name", "trace"]
        lab.gateway.pins.mkdir()
        kernel.call(["bpftool", "map", "create", str(lab.gateway.pins / "one"), *shape])
        traces = Traces.of(lab)
        left = traces.left()
        assert f"mount {lab.bpffs}" in left
        assert str(lab.home) in left
        assert any(one.startswith("process ") and "nginx" in one for one in left)
        assert any(one.startswith("BPF map ") for one in left)
        assert {str(space) for space in traces.spaces} <= set(left)
    eventually(lambda: not traces.left(), timeout=10)


def test_what_outlives_its_names_is_seen_all_the_same() -> None:
    lab = Lab(standard(servers=1))
    with lab:
        traces = Traces.of(lab)
        # Whoever has no name to look it up by is not found by `down`.
        entered = subprocess.Popen(lab.client.command(["sleep", "60"]), stdin=subprocess.DEVNULL)
        eventually(lambda: kernel.lives_in(lab.client.namespace, entered.pid))
        kernel.call(["ip", "netns", "delete", lab.client.namespace])
    try:
        assert [one for one in traces.left() if one.startswith(f"process {entered.pid} ")]
    finally:
        entered.kill()
        entered.wait()
    eventually(lambda: not traces.left(), timeout=10)
