"""Kernel settings that a virtual MAC needs: set, remembered, and put back.

The original is on disk before the change, so that it is put back also after a crash.
"""

import json
from contextlib import suppress
from pathlib import Path

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
    """record: the file of originals. What an earlier run left is put back at once."""

    def __init__(self, record: Path, root: Path = ROOT) -> None:
        self._record, self._root = record, root
        self._originals: dict[str, str] = {}
        with suppress(FileNotFoundError, ValueError):
            self._originals = json.loads(record.read_text())
        self.restore()

    def prepare_parent(self, interface: str) -> None:
        """Raise what must be at least so much. Raises OSError."""
        for name, value in PARENT.items():
            path = f"ipv4/conf/{interface}/{name}"
            current = (self._root / path).read_text().strip()
            if int(current) < value:
                self._originals.setdefault(path, current)
                self._record.write_text(json.dumps(self._originals))
                (self._root / path).write_text(str(value))

    def prepare_macvlan(self, device: str, six: bool) -> None:
        """The device is ours, and takes its settings with it. Raises OSError."""
        for family, settings in (MACVLAN6 if six else MACVLAN4).items():
            for name, value in settings.items():
                # A kernel without IPv6 has none of its files.
                with suppress(FileNotFoundError):
                    (self._root / family / "conf" / device / name).write_text(str(value))

    def restore(self) -> None:
        """Put everything back; an interface that is gone took its settings along."""
        for path, original in self._originals.items():
            with suppress(FileNotFoundError):
                (self._root / path).write_text(original)
        self._originals = {}
        self._record.unlink(missing_ok=True)
