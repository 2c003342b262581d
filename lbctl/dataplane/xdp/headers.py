"""Kernel headers for bcc. Those of any kernel serve: an XDP program uses only what user
space may see, so a kernel without a package of its own can borrow another's."""

import os
from pathlib import Path

from lbctl.errors import DataPlaneError

VARIABLE = "BCC_KERNEL_SOURCE"
LINKED = Path(__file__).resolve().parents[3] / ".cache" / "headers"  # by tools/setup


def _is_whole(place: Path) -> bool:
    """By a file, not a folder: links into a package that is gone lead nowhere."""
    return (place / "include/uapi/linux/bpf.h").is_file()


def find_headers(release: str) -> Path:
    """Where bcc will look, made sure of beforehand: its own words about a lack are not of
    help. Sets the variable that bcc reads. Raises DataPlaneError."""
    mend = "apt install linux-headers-$(dpkg --print-architecture), or, in a checkout, tools/setup"
    if named := os.environ.get(VARIABLE):
        if _is_whole(Path(named)):
            return Path(named)
        raise DataPlaneError(f"{VARIABLE}={named}: no kernel headers there", mend)
    for place in (Path(f"/lib/modules/{release}/build"), LINKED):
        if _is_whole(place):
            os.environ[VARIABLE] = str(place)
            return place
    raise DataPlaneError(f"no kernel headers for {release}: bcc cannot compile", mend)
