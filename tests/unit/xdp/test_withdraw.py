"""What a data path that another one replaces takes along. Pins are only names here."""

from pathlib import Path

from lbctl.dataplane.xdp.loader import PROGRAM, SWEEP
from lbctl.dataplane.xdp.maps import FENCE, specs
from lbctl.dataplane.xdp.withdraw import attached, withdraw
from lbctl.ha.fence import CLOCK

OURS = {PROGRAM, SWEEP, "link_front", "link_back", *(spec.name for spec in specs(1))}


def pinned(pins: Path, *more: str) -> Path:
    pins.mkdir()
    for name in (*OURS, *more):
        (pins / name).touch()
    return pins


def test_all_of_it_goes(tmp_path: Path) -> None:
    pins = pinned(tmp_path / "lbctl")
    assert attached(pins) == ["back", "front"]
    withdraw(pins)
    assert not pins.exists()


def test_the_fences_maps_stay_with_the_fence(tmp_path: Path) -> None:
    """The VRRP process has them open, and the next program must find the same ones."""
    fence = {CLOCK, "fence_in-0123456789ab", "fence_out-0123456789ab"}
    pins = pinned(tmp_path / "lbctl", *fence)
    withdraw(pins)
    assert {pin.name for pin in pins.iterdir()} == fence | {spec.name for spec in FENCE}
