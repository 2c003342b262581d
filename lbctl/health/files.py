"""The files that probes need: certificates, keys, tokens.

The worker is nobody, and may open none of them. The daemon reads those that its checks
name, and hands them over, again when they change (`lbctl.messages.Files`).
"""

import os
from collections.abc import Iterable

from lbctl.health.result import Unable
from lbctl.messages import File

LARGEST = 1 << 20  # bytes


class Files:
    """What was handed over, by name; and what was not, from the disk, as far as that may be
    read: for a worker that nobody hands anything."""

    def __init__(self) -> None:
        self._given: dict[str, File] = {}
        self._read: dict[str, tuple[tuple[float, int], bytes]] = {}

    def take(self, files: Iterable[File]) -> None:
        self._given.update((one.name, one) for one in files)

    def read(self, name: str) -> bytes:
        """Raises Unable."""
        if (one := self._given.get(name)) is not None:
            if one.error:
                raise Unable(f"{name}: {one.error}")
            return one.data
        try:
            found = os.stat(name)
            stamp = found.st_mtime, found.st_ino
            if name not in self._read or self._read[name][0] != stamp:
                self._read[name] = stamp, _contents(name)
        except OSError as error:
            raise Unable(f"{name}: {error.strerror}") from None
        return self._read[name][1]


def open_for(name: str) -> File:
    """A file as the daemon hands it over, or why it cannot."""
    try:
        return File(name, _contents(name))
    except OSError as error:
        return File(name, error=error.strerror or str(error))


def _contents(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read(LARGEST)
