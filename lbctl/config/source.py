"""Where each value came from, and faults said with that."""

from collections.abc import Sequence

from lbctl.config.document import Node
from lbctl.config.fault import Fault, Place, show_path
from lbctl.config.patch import Patch
from lbctl.config.shorthand import Path
from lbctl.said import printable


class Source:
    """Where values came from: a place in the file, or an override."""

    def __init__(self, name: str, root: Node, patches: Sequence[Patch]) -> None:
        self._name = name
        self._root = root
        self._patches = patches

    def say(self, fault: Fault) -> str:
        """The fault as one line: `FILE:LINE:COLUMN: PATH: text`."""
        where, text = self._where(fault), fault.text
        if fault.also is not None:
            there = Fault(fault.also, "")
            place = "" if self._patch(fault.also) else f" in {self._where(there)}"
            text += f"; see {show_path(fault.also)}{place}"
        if (gone := self._deleted(fault.path)) is not None:
            text += f" (an override deletes {show_path(gone.path)})"
        parts = [where, show_path(fault.path)] if fault.path else [where]
        joined = " ".join(parts) if where == "override" else ": ".join(parts)
        return printable(f"{joined}: {text}" if fault.path else f"{joined}: the file {text}")

    def order(self, fault: Fault) -> Place:
        return fault.place or self._place(fault)

    def _where(self, fault: Fault) -> str:
        if fault.place is None and self._patch(fault.path) is not None:
            return "override"
        line, column = fault.place or self._place(fault)
        return f"{self._name}:{line}:{column}"

    def _patch(self, path: Path) -> Patch | None:
        return _giving(self._patches, path)

    def _place(self, fault: Fault) -> Place:
        if self._inherits(fault.path):
            return self._root.find(("defaults", *fault.path[2:]), fault.on_key)[0]
        return self._root.find(fault.path, fault.on_key)[0]

    def _inherits(self, path: Path) -> bool:
        """Whether the value at `path` of a service stands in `defaults`."""
        if path[:1] != ("services",) or len(path) < 3:
            return False
        theirs = self._root.find(("defaults", *path[2:]))[1] - 1
        return theirs == len(path) - 2 and self._root.find(path)[1] < len(path)

    def _deleted(self, path: Path) -> Patch | None:
        return _deleting(self._patches, path)


def said_by(patches: Sequence[Patch], fault: Fault) -> tuple[bool, bool, Patch | None]:
    """What of how `fault` is said depends on overrides."""
    here = _giving(patches, fault.path) is not None
    there = _giving(patches, fault.also or ()) is not None
    return here, there, _deleting(patches, fault.path)


def _giving(patches: Sequence[Patch], path: Path) -> Patch | None:
    """The last override that gave the value at `path`."""
    found = [p for p in patches if p.value is not None and _covers(p.path, path)]
    return found[-1] if found else None


def _deleting(patches: Sequence[Patch], path: Path) -> Patch | None:
    """The override that took something away from `path`."""
    return next((p for p in patches if p.value is None and p.path[:-1] == path and path), None)


def _covers(patch: tuple[str, ...], path: Path) -> bool:
    return path[: len(patch)] == patch
