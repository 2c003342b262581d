"""What the API is asked: the bodies of its requests, and how each becomes a `Manner`."""

from typing import Any, Literal, TypeVar

import msgspec

from lbctl.daemon.control import Manner
from lbctl.errors import Exit, LbctlError
from lbctl.said import plain
from lbctl.world import Admin

LONGEST = 10 * 365 * 86400.0  # seconds; a longer `--for` is a slip


class BadRequest(LbctlError):
    """Not what this part of the API takes."""

    exit_code = Exit.USAGE


class ChangeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """seconds: how long the change holds; null: until somebody takes it back. reason: one line,
    of which `lbctl.said.MOST` characters are kept."""

    reason: str = ""
    seconds: float | None = None
    dry_run: bool = False
    force: bool = False

    def manner(self, by: str, now: float) -> Manner:
        if self.seconds is not None and not 0 < self.seconds <= LONGEST:
            raise BadRequest(f"{self.seconds:g} s: not a time that a change can hold")
        until = None if self.seconds is None else now + self.seconds
        return Manner(by, plain(self.reason), until, self.dry_run, self.force)


class OrderRequest(ChangeRequest, frozen=True):
    """target: SERVICE/SERVER, or SERVICE for all of its servers."""

    target: str
    admin: Admin


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """value null: deletes. expect: what must be at `path` before."""

    path: tuple[str, ...]
    value: Any = None
    expect: Literal["absent", "present", "any"] = "any"


class OverrideRequest(ChangeRequest, frozen=True):
    """One value, as in `Value`; or `changes`: several, that are taken together or not at all."""

    path: tuple[str, ...] = ()
    value: Any = None
    expect: Literal["absent", "present", "any"] = "any"
    changes: tuple[Value, ...] = ()

    def values(self) -> tuple[Value, ...]:
        """Raises BadRequest where it says nothing, or both."""
        if self.path and self.changes:
            raise BadRequest("path and changes: one of them", "docs/api.md has its shape")
        values = self.changes or (Value(self.path, self.value, self.expect),)
        if not all(one.path and all(one.path) for one in values):
            raise BadRequest("path: names nothing", 'a path is ["services", "web", ...]')
        return values


class RollbackRequest(ChangeRequest, frozen=True):
    """to: a generation; null: the one before this."""

    to: int | None = None


class PlainRequest(ChangeRequest, frozen=True):
    """A change that needs no more words."""


Body = TypeVar("Body", bound=ChangeRequest)


def decode(data: bytes, shape: type[Body]) -> Body:
    try:
        return msgspec.json.decode(data or b"{}", type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"request body: {error}", "docs/api.md has its shape") from None
