"""The loader child: compiles the packet program, loads it, pins it, attaches it, exits.

    python -m lbctl.dataplane.xdp.loader < job.json > outcome.json

Only this process compiles: the 147 MB of bcc leave with it. Everything it makes
is pinned, so it can be killed at any moment; what is half done is done again.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from ctypes import sizeof
from dataclasses import asdict, dataclass
from errno import ENOLINK
from pathlib import Path

from lbctl.dataplane.xdp import abi, bpf, compiler
from lbctl.dataplane.xdp.bpf import Descriptor, ProgramKind
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.shape import Feature, Shape, flatten, source_directory
from lbctl.errors import DataPlaneError

PROGRAM = "lb"
SWEEP = "sweep"
LINK = "link_"  # and the interface's name


@dataclass(frozen=True, slots=True)
class Job:
    """mode: native, generic, or auto (native where the driver can)."""

    pins: str
    features: tuple[str, ...]
    interfaces: tuple[tuple[str, int], ...]
    mode: str = "auto"


@dataclass(frozen=True, slots=True)
class Outcome:
    """error: empty if all went well. modes: how each interface was attached."""

    error: str = ""
    hint: str = ""
    modes: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0


def main() -> int:
    started = time.monotonic()
    raw = json.load(sys.stdin)
    job = Job(
        raw["pins"],
        tuple(raw["features"]),
        tuple((name, index) for name, index in raw["interfaces"]),
        raw["mode"],
    )
    try:
        outcome = Outcome(modes=run(job), seconds=time.monotonic() - started)
    except DataPlaneError as error:
        outcome = Outcome(error.message, error.hint)
    print(json.dumps(asdict(outcome)))
    return 1 if outcome.error else 0


def run(job: Job) -> tuple[tuple[str, str], ...]:
    """Compile, load and pin both programs; attach the packet program everywhere."""
    pins = Path(job.pins)
    shape = Shape(frozenset(Feature(name) for name in job.features))
    maps = Maps(pins)
    source = {name: flatten(source_directory(), f"{name}.c") for name in (PROGRAM, SWEEP)}
    sweep = compile_program(source[SWEEP], "lb_sweep", maps.fds, Shape())
    program = compile_program(source[PROGRAM], "lb", maps.fds, shape)
    modes = [(name, _attach(program, pins, name, i, job.mode)) for name, i in job.interfaces]
    _replace_pin(sweep, pins / SWEEP)
    _replace_pin(program, pins / PROGRAM)
    maps.meta.abi = abi.ABI
    maps.meta.shape[:] = list(shape.digest(source[PROGRAM]))
    return tuple(modes)


def compile_program(
    text: str, function: str, maps: Mapping[str, Descriptor], shape: Shape
) -> Descriptor:
    """An XDP program from C. The maps exist: they come as descriptors."""
    blocks = bpf.value_size(maps["cpu_blocks"]) // sizeof(abi.CpuBlock)
    flags = flags_of(shape, blocks, bpf.value_size(maps["flows"]) // sizeof(abi.FlowSet))
    return compiled(text, function, ProgramKind.XDP, maps, flags)


def flags_of(shape: Shape, cpu_blocks: int, flow_sets: int) -> list[str]:
    """What the compiler is told of a shape and of the sizes of maps."""
    features = [f"-D{feature}" for feature in sorted(shape.features)]
    return [*features, f"-DLB_CPUS={cpu_blocks}", f"-DLB_FLOW_SETS={flow_sets}"]


def compiled(
    text: str,
    function: str,
    kind: ProgramKind,
    maps: Mapping[str, Descriptor],
    flags: Sequence[str] = (),
) -> Descriptor:
    """A program of any kind, loaded. Raises DataPlaneError."""
    code = compiler.linked(compiler.bytecode(text, function, maps, flags), maps)
    try:
        return bpf.load(code, function, kind)
    except OSError as error:
        log = bpf.why_not(code, function, kind)
        sys.stderr.write(log)
        last = [line for line in log.splitlines() if not line.startswith("processed")][-1:]
        raise DataPlaneError(
            f"bpf/: cannot load {function}: {error.strerror}: {' '.join(last)}",
            "the verifier's words are in the log",
        ) from None


def _attach(program: Descriptor, pins: Path, name: str, ifindex: int, mode: str) -> str:
    """Put the program on an interface: into our link if there is one, else a new link."""
    pin = pins / f"{LINK}{name}"
    try:
        with bpf.opened(pin) as link:
            bpf.replace_program(link, program)
            return "kept"
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != ENOLINK:
            raise DataPlaneError(
                f"{name}: cannot put the new program in the place of the old, which goes on: "
                f"{error.strerror}",
                "`ip -d link show` says what it has of MTU and queues",
            ) from None
        pin.unlink()  # the interface it was on is gone
    tries = {"auto": ("native", "generic"), "native": ("native",), "generic": ("generic",)}[mode]
    return _attach_first(program, pin, name, ifindex, tries)


def _attach_first(
    program: Descriptor, pin: Path, name: str, ifindex: int, tries: Sequence[str]
) -> str:
    flags = {"native": bpf.XDP_NATIVE, "generic": bpf.XDP_GENERIC}
    failures = []
    for how in tries:
        try:
            link = bpf.attach_xdp(program, ifindex, flags[how])
        except OSError as error:
            failures.append(f"{how}: {error.strerror}")
            continue
        link.pin(pin)
        link.close()
        return how
    raise DataPlaneError(
        f"{name}: cannot attach the XDP program: {'; '.join(failures)}",
        f"`bpftool net show dev {name}` shows what is there, `ip link set {name} xdp off` "
        "takes it off",
    )


def _replace_pin(program: Descriptor, path: Path) -> None:
    """Pin under another name and rename: the path never lacks a program."""
    fresh = path.with_name(path.name + "_new")
    fresh.unlink(missing_ok=True)
    program.pin(fresh)
    try:
        fresh.replace(path)
    except OSError:  # bpffs renames no object over another before Linux 5.x
        path.unlink(missing_ok=True)
        fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
