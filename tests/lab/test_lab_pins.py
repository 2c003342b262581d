"""Pins as bpftool sees them."""

import subprocess

import pytest

from lbctl.lab import Lab, LabError
from lbctl.lab.pins import Pinned, pinned

pytestmark = pytest.mark.lab


def test_what_is_pinned_is_named_and_what_is_made_anew_differs(lab: Lab) -> None:
    home = lab.gateway.pins
    home.mkdir()
    path = home / "some" / "map"
    path.parent.mkdir()
    assert pinned(home) == {}
    make = ["bpftool", "map", "create", str(path), "type", "array", "key", "4"]
    make += ["value", "4", "entries", "1", "name", "lab"]
    subprocess.run(make, check=True)
    first = pinned(home)
    assert first == {"some/map": Pinned("map", first["some/map"].id)}
    assert pinned(home) == first
    path.unlink()
    subprocess.run(make, check=True)
    assert pinned(home) != first


def test_what_is_no_kernel_object_is_an_error(lab: Lab) -> None:
    home = lab.home / "odd"
    home.mkdir()
    (home / "file").touch()
    with pytest.raises(LabError, match=r"odd/file: bpftool cannot tell what this is"):
        pinned(home)
