"""Kernel headers for bcc. Those of any kernel serve: an XDP program uses only what user
space may see, so a kernel without a package of its own can borrow another's."""

import os
from pathlib import Path

from lbctl.errors import DataPlaneError

VARIABLE = "BCC_KERNEL_SOURCE"
LINKED = Path(__file__).resolve().parents[3] / ".cache" / "headers"  # by tools/setup


def find_headers(release: str) -> Path:
    """Where bcc will look, made sure of beforehand: its own words about a lack are not of
    help. Sets the variable that bcc reads. Raises DataPlaneError."""
    mend = "apt install linux-headers-$(dpkg --print-architecture), or, in a checkout, tools/setup"
    if named := os.environ.get(VARIABLE):
        if (Path(named) / "include/linux").is_dir():
            return Path(named)
        raise DataPlaneError(f"{VARIABLE}={named}: no kernel headers there", mend)
    for place in (Path(f"/lib/modules/{release}/build"), LINKED):
        if (place / "include/linux").is_dir():
            os.environ[VARIABLE] = str(place)
            return place
    raise DataPlaneError(f"no kernel headers for {release}: bcc cannot compile", mend)
