"""What is pinned in a bpffs, as bpftool sees it: an outside judge of what stayed the same."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lbctl.lab.kernel import LabError

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
    """bpftool must be told the kind, and refuses any other. Its answer counts, not its exit
    code: bpftool 7.5 describes a link and returns 255 all the same."""
    for kind in KINDS:
        argv = ["bpftool", "-j", kind, "show", "pinned", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        with suppress(ValueError, KeyError):
            return Pinned(kind, int(json.loads(done.stdout)["id"]))
    raise LabError(f"{path}: bpftool cannot tell what this is: {done.stdout or done.stderr}")
