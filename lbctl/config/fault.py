"""What is wrong, where, and how it is said."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from lbctl.config.shorthand import Path
from lbctl.said import printable

_LONGEST = 60  # characters of a value that a message repeats


class Place(NamedTuple):
    """Where in the file; both count from 1, columns in characters."""

    line: int
    column: int


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the value at `path`.

    on_key: the key is at fault, not its value. also: the path of a second value that the
    text speaks of. place: known already; otherwise it is looked up by `path`.
    """

    path: Path
    text: str
    on_key: bool = False
    also: Path | None = None
    place: Place | None = None


def show_path(path: Path) -> str:
    """`services.web.listen[0]`; a key with a dot or worse in it stands in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and part.replace("_", "").replace("-", "").isalnum():
            text += f".{clip(part)}" if text else clip(part)
        else:
            text += ("." if text else "") + f'"{clip(part)}"'
    return text


def clip(text: str) -> str:
    """`text` on one line, and not too long."""
    return printable(text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...")


def show(value: object) -> str:
    """A value as a message repeats it."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() if abs(value) > 10**30:
            return "a huge number"
        case int() | float():
            return str(value)
        case str():
            return f"'{clip(value)}'"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return clip(str(value))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'listen'?`, or nothing if no known word is near."""
    near = difflib.get_close_matches(word[:_LONGEST].lower(), list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""
