"""What a lab has in the kernel, so that somebody can look afterwards whether it is gone."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lbctl.lab import kernel
from lbctl.lab.lab import Lab
from lbctl.lab.pins import Pinned, pinned


@dataclass(frozen=True)
class Traces:
    """Of a lab that was up: its directory, its namespaces by name and by what the kernel
    knows them by (which processes still show when the name is gone), what was pinned."""

    home: Path
    spaces: tuple[Path, ...]
    identities: frozenset[kernel.Identity]
    objects: frozenset[Pinned]

    @classmethod
    def of(cls, lab: Lab) -> "Traces":
        spaces = tuple(kernel.NETNS / one for one in kernel.namespaces(lab.name, lab.topology))
        known = (kernel.identity(space) for space in spaces)
        # The mount has files of the kernel's own beside these.
        pins = (one.pins for one in lab.gateways if one.pins.exists())
        objects = frozenset(found for place in pins for found in pinned(place).values())
        return cls(lab.home, spaces, frozenset(filter(None, known)), objects)

    def left(self) -> list[str]:
        """What is still there, in words."""
        return [*self._files(), *self._mounts(), *self._processes(), *self._objects()]

    def _files(self) -> Iterator[str]:
        yield from (str(path) for path in (*self.spaces, self.home) if path.exists())

    def _mounts(self) -> Iterator[str]:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            where = Path(line.split()[1])
            if where.is_relative_to(self.home) or where in self.spaces:
                yield f"mount {where}"

    def _processes(self) -> Iterator[str]:
        for one in kernel.living(self.identities):
            yield f"process {one.pid} ({one.command})"

    def _objects(self) -> Iterator[str]:
        for kind in sorted({one.kind for one in self.objects}):
            argv = ["bpftool", "-j", kind, "show"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            alive = {one["id"] for one in json.loads(done.stdout or "[]")}
            ours = sorted(one.id for one in self.objects if one.kind == kind)
            yield from (f"BPF {kind} {number}" for number in ours if number in alive)
