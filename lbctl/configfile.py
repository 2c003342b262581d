"""A configuration file, read whole and never without end."""

import os
import stat
from pathlib import Path

from lbctl.errors import InvalidConfig


def read_file(file: Path, limit: int, *, regular: bool = False) -> bytes:
    """The file's bytes, at most `limit`. regular: a pipe or a device is no file; otherwise
    one is read to its end. Raises InvalidConfig where it is none that could be read."""
    try:
        # A pipe that nobody writes into would hold up its opener.
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if regular else 0))
        with open(handle, "rb") as opened:
            if regular and not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InvalidConfig([f"{file}: is no regular file: nothing was read"])
            data = opened.read(limit + 1)
    except OSError as error:
        raise InvalidConfig([f"{file}: cannot be read: {error.strerror}"]) from None
    if len(data) > limit:
        raise InvalidConfig([f"{file}: is larger than {limit >> 20} MiB: nothing was read"])
    return data
