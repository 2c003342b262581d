"""What can go wrong, named once: the object, the attempt, the cause and the mend.

Raise where it is known, show it once: the CLI prints `str(error)` and the hint and
exits with `error.exit_code`; the daemon keeps the message on the object's status.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every `lbctl` verb."""

    OK = 0
    FAILED = 1  # or: `diff` found differences
    USAGE = 2
    INVALID = 3
    NOT_PERMITTED = 5
    UNREACHABLE = 6
    PARTIAL = 7
    TIMEOUT = 8
    REFUSED = 9


class LbctlError(Exception):
    """A failure that an operator can read, with the command or edit that mends it."""

    exit_code = Exit.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidConfig(LbctlError):
    """The file says something that cannot be; every fault in it, each with its place."""

    exit_code = Exit.INVALID

    def __init__(self, faults: "list[str]") -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def faults_of(error: LbctlError) -> tuple[str, ...]:
    """What is wrong, a line for each thing, with the mend where it is known."""
    return tuple(error.faults) if isinstance(error, InvalidConfig) else (str(error),)


class NotFound(LbctlError):
    """A name that nothing has."""


class Refused(LbctlError):
    """Valid, possible, and probably not meant: `--force` does it."""

    exit_code = Exit.REFUSED


class NotPermitted(LbctlError):
    """The caller may not do this."""

    exit_code = Exit.NOT_PERMITTED


class Unreachable(LbctlError):
    """The daemon, or a peer, does not answer."""

    exit_code = Exit.UNREACHABLE


class DataPlaneError(LbctlError):
    """One operation that the data path did not take."""


class Unsupported(DataPlaneError):
    """Something this data path cannot do at all; found before it is applied."""

    exit_code = Exit.INVALID
