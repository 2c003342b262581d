"""What is pinned in a bpffs, as bpftool sees it: an outside judge of what stayed the same."""

import json
from pathlib import Path
from typing import NamedTuple

from lbctl.lab import kernel

KINDS = ("map", "prog", "link")


class Pinned(NamedTuple):
    """A kernel object. No two that live, and none of one boot, share kind and id."""

    kind: str
    id: int


def pinned(where: Path) -> dict[str, Pinned]:
    """Every object pinned below `where`, by its path there. Raises LabError."""
    paths = sorted(path for path in where.rglob("*") if not path.is_dir())
    return {str(path.relative_to(where)): _identify(path) for path in paths}


def _identify(path: Path) -> Pinned:
    """bpftool must be told the kind, and refuses any other."""
    for kind in KINDS:
        try:
            said = kernel.call(["bpftool", "-j", kind, "show", "pinned", str(path)])
        except kernel.LabError as error:
            refusal = error
            continue
        found = json.loads(said)
        return Pinned(kind, int(found["id"]))
    raise refusal
