"""What is left of an XDP data path that another one is to replace, and how it goes.

Program and maps outlive every process, so choosing IPVS does not end them: as long as a
link is pinned, packets meet our program first, with the rings of the day it was left.
"""

from contextlib import suppress
from pathlib import Path

from lbctl.dataplane.xdp.loader import LINK, PROGRAM, SWEEP
from lbctl.dataplane.xdp.maps import FENCE, specs
from lbctl.ha.fence import CLOCK


def attached(pins: Path) -> list[str]:
    """The interfaces that a program of ours is pinned to."""
    with suppress(OSError):
        return sorted(pin.name.removeprefix(LINK) for pin in pins.glob(f"{LINK}*"))
    return []


def withdraw(pins: Path) -> None:
    """Take the program off every interface, then let go of its maps: no packet meets half
    of it. Flows that it carried are the next data path's, which does not know them.

    The fence's maps stay where there is a fence: they are the VRRP process's, which goes on
    writing to those that it has open. A program that came back to maps made anew would know
    no virtual MAC, and pass all that is for one as somebody else's."""
    for interface in attached(pins):
        (pins / f"{LINK}{interface}").unlink(missing_ok=True)
    kept = {spec.name for spec in FENCE} if (pins / CLOCK).exists() else set()
    for name in {PROGRAM, SWEEP, *(spec.name for spec in specs(1))} - kept:
        (pins / name).unlink(missing_ok=True)
    with suppress(OSError):  # something else is pinned there, too
        pins.rmdir()
