"""Kernel settings that a virtual MAC needs: set, remembered, and put back.

The original is on disk before the change, so that it is put back also after a crash.
"""

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lbctl.vrrp.netlink import Link

ROOT = Path("/proc/sys/net")
# The parent must not answer for what is on the macvlan, nor use it as a source (arp_ignore,
# arp_announce): the higher of an interface's value and `all` counts, so these only rise.
PARENT = {"arp_ignore": 1, "arp_announce": 2}
# The way back to a client leads through the parent: reverse path filtering must be loose.
MACVLAN4 = {"ipv4": {"arp_ignore": 1, "rp_filter": 2}, "ipv6": {"disable_ipv6": 1}}
MACVLAN6 = {
    "ipv6": {"disable_ipv6": 0, "addr_gen_mode": 1, "accept_dad": 0, "accept_ra": 0},
    "ipv4": {"arp_ignore": 8},
}


class Sysctls:
    """record: the file of originals. What an earlier run left is put back at once.
    name_of: an interface's name now, by its index."""

    def __init__(
        self,
        record: Path,
        root: Path = ROOT,
        name_of: Callable[[int], str] = socket.if_indextoname,
    ) -> None:
        self._record, self._root, self._name_of = record, root, name_of
        self._originals: dict[str, str] = {}  # INDEX/NAME: an interface may get another name
        with suppress(FileNotFoundError, ValueError):
            self._originals = json.loads(record.read_text())
        self.restore()

    def prepare_parent(self, parent: Link) -> None:
        """Raise what must be at least so much. Raises OSError."""
        for name, value in PARENT.items():
            path = self._root / "ipv4/conf" / parent.name / name
            current = path.read_text().strip()
            if int(current) < value:
                self._originals.setdefault(f"{parent.index}/{name}", current)
                self._note()
                path.write_text(str(value))

    def _note(self) -> None:
        """Whole or not at all: half a record would lose the originals for ever."""
        fresh = self._record.with_suffix(".new")
        fresh.write_text(json.dumps(self._originals))
        fresh.replace(self._record)

    def prepare_macvlan(self, device: str, six: bool) -> None:
        """The device is ours, and takes its settings with it. Raises OSError."""
        for family, settings in (MACVLAN6 if six else MACVLAN4).items():
            for name, value in settings.items():
                # A kernel without IPv6 has none of its files.
                with suppress(FileNotFoundError):
                    (self._root / family / "conf" / device / name).write_text(str(value))

    def restore(self) -> None:
        """Put everything back; an interface that is gone took its settings along."""
        for key, original in self._originals.items():
            index, _, name = key.partition("/")
            with suppress(OSError, ValueError):
                interface = self._name_of(int(index))
                (self._root / "ipv4/conf" / interface / name).write_text(original)
        self._originals = {}
        self._record.unlink(missing_ok=True)
