"""`lbctl ipvsadm -R`: many lines, folded into one change of the configuration. Pure.

Lines are read as if each were done before the next, so that a server may be added to a
service that a line above makes; a service that is made takes its servers along as one value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lbctl.cli.ipvsadm.argv import Arguments, Command, Misuse, parse
from lbctl.cli.ipvsadm.changes import Change, Failure, Services, changes
from lbctl.errors import LbctlError
from lbctl.model import Service

CHANGES = {
    *(Command.ADD, Command.EDIT, Command.DELETE),
    *(Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER),
}
NUMBERS = ("weight", "max_connections", "min_connections")  # of a server
Path = tuple[str, ...]


@dataclass
class Folded:
    """changes: what all lines together mean. lines: where each path was last said. rest:
    lines that are about no configuration, to be run afterwards. touched: services."""

    changes: dict[Path, Change] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    rest: list[Arguments] = field(default_factory=list)
    touched: set[Path] = field(default_factory=set)

    def take(self, change: Change, line: int) -> None:
        self.lines[change.path] = line
        made = self.changes.get(change.path[:2])
        if made is not None and isinstance(made.value, dict) and len(change.path) > 2:
            self.changes[made.path] = replace(made, value=_with(made.value, change))
            return
        for path in self._below(change.path):
            old = self.changes.pop(path)
            if path == change.path and old.expect == "absent" and change.value is None:
                return  # made above, and gone again
            if path == change.path and old.value is None:
                change = replace(change, expect="any")  # gone above, and made again
        self.changes[change.path] = change
        self.touched.add(change.path[:2])

    def _below(self, path: Path) -> list[Path]:
        """Paths of changes that `path` takes along: itself, and what is in it."""
        if len(path) == 2:
            touched = self.changes if path in self.touched else ()
            return [one for one in touched if one[:2] == path]
        return [one for one in (path, *((*path, key) for key in NUMBERS)) if one in self.changes]

    def line_of(self, fault: str) -> int | None:
        """The line that a fault in the words of an override is about."""
        said = fault.removeprefix("override ").split(":", 1)[0]
        for path in sorted(self.lines, key=len, reverse=True):
            name = ".".join(path)
            if said == name or said.startswith(f"{name}."):
                return self.lines[path]
        return None


def fold(lines: Iterable[str], services: Mapping[str, Service]) -> Folded:
    """Raises Misuse and Failure, with the number of the line."""
    folded, held = Folded(), Services(services)
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            _take(folded, held, parse(words), number)
        except Misuse as error:
            raise Misuse(f"line {number}: {error}") from None
        except LbctlError as error:
            raise Failure(f"line {number}: {error.message}", error.hint) from None
    return folded


def _take(folded: Folded, held: Services, arguments: Arguments, number: int) -> None:
    if arguments.command in CHANGES:
        for change in changes(arguments, held):
            folded.take(change, number)
            held.take(change)
    elif arguments.command is Command.CLEAR:
        if "yes" not in arguments.options:
            raise Misuse("-C asks, and nobody can answer here: -C --yes")
        for name in list(held):
            gone = Change(("services", name), None, force=True)
            folded.take(gone, number)
            held.take(gone)
    elif arguments.command is Command.RESTORE:
        raise Misuse("-R within -R")
    else:
        folded.rest.append(arguments)


def _with(value: dict[str, Any], change: Change) -> dict[str, Any]:
    """A new service's value with a change of something in it."""
    match change.path[2:]:
        case ("servers", server):
            if change.value is None:
                del value["servers"][server]
            else:
                value["servers"][server] = change.value
        case ("servers", server, key):
            value["servers"][server][key] = change.value
        case (key,):
            value[key] = change.value
        case _:
            raise AssertionError(f"{change.path}: no path that a line changes")
    return value
