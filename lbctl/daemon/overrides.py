"""Overrides: what a person changed live, on top of the file.

Each is one patch with a reason. A newer one on the same path takes the older one's place,
and so do those below it (a server that is deleted takes its weight along).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

Path = tuple[str, ...]
SLACK = 5.0  # seconds that two gateways' clocks may differ over one moment


class Override(msgspec.Struct, frozen=True):
    """value None: the object at `path` is deleted. since, until: seconds of the clock that
    never steps; None: until it is dropped. there: it was made on the other gateway of a pair,
    and goes when it is taken back there."""

    id: int
    path: Path
    value: Any
    reason: str = ""
    by: str = ""
    since: float = 0.0
    until: float | None = None
    there: bool = False

    def __str__(self) -> str:
        what = ".".join(self.path)
        if self.value is None:
            return f"delete {what}"
        return f"{what} = {msgspec.json.encode(self.value).decode()}"

    def same(self, other: "Override") -> bool:
        """Whether both say the same, whoever was told first."""
        mine, theirs = (one.until if one.until is not None else -1.0 for one in (self, other))
        words = (self.path, self.value, self.reason, self.by)
        there = (other.path, other.value, other.reason, other.by)
        return words == there and abs(mine - theirs) < SLACK

    def in_force(self, now: float) -> bool:
        return self.until is None or now < self.until


def with_override(overrides: Sequence[Override], new: Override) -> tuple[Override, ...]:
    """`new` after the others, without those that it makes meaningless."""
    return (*without_path(overrides, new.path), new)


def without_path(overrides: Sequence[Override], path: Path) -> tuple[Override, ...]:
    """Those that speak of something else than `path` and what is below it."""
    return tuple(one for one in overrides if one.path[: len(path)] != path)


def expired(overrides: Sequence[Override], now: float) -> tuple[Override, ...]:
    return tuple(one for one in overrides if not one.in_force(now))
