"""What a live change is: a value for one path of the file.

A change made with `lbctl set` is an override: it is kept apart from the file and laid over
it each time the file is read, *before* validation, so that a bad value meets the same
errors as one in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lbctl.config.shorthand import long_form

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


@dataclass(frozen=True)
class Patch:
    """`path` gets `value`; None deletes it.

    Patch(("services", "web", "servers", "app4"), {"address": "198.51.100.14:8080"})
    Patch(("services", "web", "servers", "app4", "weight"), 3)
    """

    path: tuple[str, ...]
    value: JSON = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("a patch names what it changes; an empty path names the whole file")

    def __str__(self) -> str:
        return ".".join(self.path)


class Stale(Exception):
    """The patch is about something that the file no longer has."""


def apply(raw: JSON, patches: Sequence[Patch]) -> tuple[JSON, tuple[Patch, ...]]:
    """`raw` with the patches laid over it in order, and those that are stale.

    `raw` is not changed. A patch is stale when the service, server or gateway it is about
    is gone, when what it would change is no mapping, and when it deletes what is not there.
    Settings on the way are created: a service need not have a `check` of its own to get
    `check.interval`.
    """
    stale = []
    for patch in patches:
        try:
            raw = _put(raw, patch, 0)
        except Stale:
            stale.append(patch)
    return raw, tuple(stale)


def _put(node: JSON, patch: Patch, depth: int) -> JSON:
    node = long_form(patch.path[:depth], node)
    if not isinstance(node, dict):
        raise Stale
    key = patch.path[depth]
    if depth < len(patch.path) - 1:
        if key not in node and _names_an_object(patch.path[: depth + 1]):
            raise Stale
        return {**node, key: _put(node.get(key, {}), patch, depth + 1)}
    if patch.value is not None:
        return {**node, key: patch.value}
    if key not in node:
        raise Stale
    return {name: value for name, value in node.items() if name != key}


def _names_an_object(path: tuple[str, ...]) -> bool:
    """A name that a person gave, which only a person can give again."""
    match path:
        case ("services", _) | ("gateways", _) | ("services", _, "servers", _):
            return True
        case _:
            return False
