"""The intent file: what is ours, on disk before it is in the kernel."""

import os
from pathlib import Path

from lbctl.dataplane.ipvs.owned import Owned, parse, render
from lbctl.errors import DataPlaneError


class IntentFile:
    """`owned` is what the file says. It outlives the process, not the boot: the kernel's
    table does not either."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = here()
        self.owned = self._load()

    def _load(self) -> Owned:
        try:
            return parse(self._path.read_text(), self._place)
        except FileNotFoundError:
            return Owned()
        except ValueError as error:
            # Guessing would make foreign services ours, or ours foreign.
            raise DataPlaneError(
                f"{self._path}: cannot read which IPVS services are ours: {error}",
                f"`ipvsadm -Ln` shows what is there; rm {self._path} makes all of it foreign",
            ) from None

    def write(self, owned: Owned) -> None:
        """Replaces the file in one step. Raises DataPlaneError, and nothing is changed."""
        if owned == self.owned:
            return
        scratch = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(render(owned, self._place))
            scratch.replace(self._path)
        except OSError as error:
            raise DataPlaneError(
                f"{self._path}: cannot write which IPVS services are ours: {error.strerror}"
            ) from None
        self.owned = owned


def here() -> tuple[str, str]:
    """The boot and the network namespace whose table this process sees."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot, os.readlink("/proc/thread-self/ns/net")
