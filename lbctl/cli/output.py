"""How answers look: tables for a tired operator at 80 columns, or JSON for a program.

Colours only where somebody sees them, and never as the only sign of anything.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from lbctl.said import printable

GOOD, BAD, WARN = "green", "red", "yellow"
COLOURS = {
    "serving": GOOD,
    "up": GOOD,
    "down": BAD,
    "gone": BAD,
    "refused": BAD,
    "drained": WARN,
    "draining": WARN,
    "maint": WARN,
    "leaving": WARN,
    "new": WARN,
    "last resort": BAD,
    "overloaded": BAD,
    "without quorum": BAD,
    "speaks": GOOD,
    "silent": WARN,
}


def show_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> str:
    """Columns two spaces apart; the last is cut where the terminal ends. right: the indices
    of columns that hold numbers."""
    cells = [list(head), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    widths[-1] = min(widths[-1], max(len(head[-1]), _columns() - sum(widths[:-1]) - 2 * len(head)))
    lines = []
    for row in cells:
        padded = [
            text[:width].rjust(width) if i in right else text[:width].ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        padded[-1] = padded[-1].rstrip()
        style = {"bold": True} if row is cells[0] else None
        lines.append("  ".join(_styled(cell, style) for cell in padded).rstrip())
    return "\n".join(lines)


def _styled(cell: str, style: dict[str, Any] | None) -> str:
    if style is not None:
        return click.style(cell, **style)
    word = cell.strip()
    return cell.replace(word, click.style(word, fg=COLOURS[word])) if word in COLOURS else cell


def fields(pairs: Sequence[tuple[str, object]]) -> str:
    """`name  value` lines."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in pairs)


def ago(seconds: float) -> str:
    """A duration in one or two units: `3m 20s`."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"


def number(value: float) -> str:
    """1234 -> 1234, 12345678 -> 12.3M: four digits and a unit."""
    for unit in ("", "k", "M", "G"):
        if abs(value) < 10000:
            return (
                f"{value:.0f}{unit}"
                if value == int(value) or value >= 100
                else f"{value:.1f}{unit}"
            )
        value /= 1000
    return f"{value:.1f}T"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list | tuple):
        return printable(", ".join(map(str, value)))
    return printable(str(value))


def _columns() -> int:
    """Nothing is cut where nobody looks: a pipe gets it all."""
    return os.get_terminal_size().columns if sys.stdout.isatty() else 10_000
