"""Compile the packet programs that the lab's gateways need, into a directory that becomes
their /var/cache/lbctl/programs:

    python -m vagrant.programs FLOWS DIRECTORY

FLOWS: `flow_cache` of their file.
"""

import os
import sys
from pathlib import Path

from lbctl.dataplane.xdp import compiler, loader, maps
from lbctl.dataplane.xdp.shape import Feature, Shape, flatten, source_directory
from lbctl.ha import loader as fence

# Fenced, as a pair is, and with tags left in the frames, as virtio NICs do; and with records of
# flows.
PAIR = frozenset({Feature.FENCE, Feature.VLAN})
SHAPES = (Shape(PAIR), Shape(PAIR | {Feature.FLOWS}))


def main(flows: int, directory: Path) -> None:
    os.environ[compiler.VARIABLE] = str(directory)
    names = [spec.name for spec in maps.specs(1)]
    source = source_directory()
    jobs = [(loader.PROGRAM, "lb", shape) for shape in SHAPES]
    for file, function, shape in [*jobs, (loader.SWEEP, "lb_sweep", Shape())]:
        flags = loader.flags_of(shape, maps.LEAST_CPUS, maps.sets_for(flows))
        compiler.bytecode(flatten(source, f"{file}.c"), function, names, flags)
    for function in fence.PROGRAMS:
        held = [spec.name for spec in maps.FENCE]
        compiler.bytecode(flatten(source, "fence.c"), function, held, ())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
