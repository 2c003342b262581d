"""The fence's loader, a short-lived child:

    python -m lbctl.ha.loader PINS INTERFACE ...
    python -m lbctl.ha.loader --off INTERFACE ...

Compiles the programs of bpf/fence.c unless what is pinned was made from this very source,
and puts them on both directions of each interface's clsact hook. Exit status 1 with the
reason on stderr: the interface is not fenced.
"""

import hashlib
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from lbctl.dataplane.xdp import bpf, maps, nic
from lbctl.dataplane.xdp.bpf import ProgramKind
from lbctl.dataplane.xdp.loader import compiled
from lbctl.dataplane.xdp.shape import flatten, source_directory
from lbctl.errors import DataPlaneError
from lbctl.ha.fence import CLOCK

PROGRAMS = {
    "fence_in": ProgramKind.CLASSIFIER,
    "fence_out": ProgramKind.CLASSIFIER,
    CLOCK: ProgramKind.XDP,
}
HOOKS = {"ingress": "fence_in", "egress": "fence_out"}
PRIORITY, HANDLE = "49152", "0x76"  # of our filters: after others' that are numbered by hand


def main(argv: list[str]) -> int:
    first, *interfaces = argv
    if first == "--off":
        for interface in interfaces:
            detach(interface)
        return 0
    pins = Path(first)
    try:
        nic.ensure_bpffs(pins)
        load(pins)
        for interface in interfaces:
            attach(pins, interface)
    except (DataPlaneError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def load(pins: Path) -> None:
    """Raises DataPlaneError. Programs of another source go; filters keep theirs alive."""
    text = flatten(source_directory(), "fence.c")
    wanted = _paths(pins, text)
    with ExitStack() as stack:
        opened = {}
        for spec in maps.FENCE:
            maps.create_one(pins, spec)
            opened[spec.name] = stack.enter_context(bpf.opened(pins / spec.name))
        if all(path.exists() for path in wanted.values()):
            return
        for name, kind in PROGRAMS.items():
            program = compiled(text, name, kind, opened)
            stack.callback(program.close)
            for stale in pins.glob(f"{name}-*"):
                stale.unlink()
            program.pin(wanted[name])
            if name == CLOCK:
                (pins / CLOCK).unlink(missing_ok=True)
                program.pin(pins / CLOCK)


def attach(pins: Path, interface: str) -> None:
    """Raises DataPlaneError. A filter is replaced in one step."""
    wanted = _paths(pins, flatten(source_directory(), "fence.c"))
    found = subprocess.run(
        ["tc", "qdisc", "show", "dev", interface], capture_output=True, text=True, check=False
    )
    if " clsact " not in found.stdout:
        _tc("qdisc", "add", "dev", interface, "clsact")
    for hook, name in HOOKS.items():
        where = ["dev", interface, hook, "prio", PRIORITY, "protocol", "all"]
        what = ["handle", HANDLE, "bpf", "da", "object-pinned", str(wanted[name])]
        _tc("filter", "replace", *where, *what)


def _paths(pins: Path, text: str) -> dict[str, Path]:
    """Where the programs of this source are pinned."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {name: pins / f"{name}-{digest}" for name in PROGRAMS}


def detach(interface: str) -> None:
    """What is not there, or whose interface is gone, is no trouble."""
    for hook in HOOKS:
        where = ["dev", interface, hook, "prio", PRIORITY, "protocol", "all"]
        command = ["tc", "filter", "delete", *where, "handle", HANDLE, "bpf"]
        subprocess.run(command, capture_output=True, check=False)


def _tc(*words: str) -> None:
    try:
        done = subprocess.run(["tc", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DataPlaneError("tc is not installed", "apt install iproute2") from None
    if done.returncode:
        raise DataPlaneError(f"tc {' '.join(words)}: {done.stderr.strip()}")


if __name__ == "__main__":
    os.environ.setdefault("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    sys.exit(main(sys.argv[1:]))
