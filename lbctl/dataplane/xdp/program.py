"""The loaded program: is it the one we need, and if not, the loader child is asked."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from itertools import combinations

from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.dataplane.xdp.loader import LINK, PROGRAM, SWEEP, Job, Outcome
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.shape import Feature, Shape, flatten, source_directory
from lbctl.dataplane.xdp.withdraw import attached
from lbctl.errors import DataPlaneError
from lbctl.model import XdpMode
from lbctl.netlink import Netlink

LOADER_SECONDS = 180  # compiling takes 2 or 3, and 100 where the processor is emulated


class Program:
    """The packet program of one gateway, on all its interfaces."""

    def __init__(
        self, maps: Maps, netlink: Netlink, interfaces: tuple[str, ...], mode: XdpMode
    ) -> None:
        self._maps = maps
        self._netlink = netlink
        self._interfaces = interfaces
        self._mode = mode
        self._sweep: Descriptor | None = None
        self.loads = 0  # of this process
        self.lacks: Shape | None = None  # what could not be loaded when last asked for
        self.failure: DataPlaneError | None = None  # and why
        self.loaded = self._recognise()

    def _recognise(self) -> Shape | None:
        """The shape of what is pinned, if it was made from today's source."""
        if self._maps.meta.abi != abi.ABI:
            return None
        digest, source = bytes(self._maps.meta.shape), flatten(source_directory(), "lb.c")
        for count in range(len(Feature) + 1):
            for features in combinations(Feature, count):
                shape = Shape(frozenset(features))
                if shape.digest(source) == digest:
                    return shape
        return None

    def covers(self, shape: Shape) -> bool:
        """Loaded, with these features, and on every interface that is there."""
        return self.loaded is not None and self.loaded.covers(shape) and self._attached()

    def _attached(self) -> bool:
        ours = self.program_id()
        links = [link for name in self._interfaces if (link := self._netlink.link(name))]
        return bool(ours and links) and all(link.xdp_program == ours for link in links)

    def fits(self) -> bool:
        """One of some lbctl is at work, and made for maps like today's."""
        return self._attached() and self._maps.meta.abi == abi.ABI

    def program_id(self) -> int:
        """Of the pinned program; 0 for none."""
        try:
            with bpf.opened(self._maps.directory / PROGRAM) as program:
                return bpf.identity(program)
        except OSError:
            return 0

    def ours(self) -> set[int]:
        """Ids of programs that may be on our interfaces: the one that is pinned, and those
        behind links of ours, which a loader that was killed may have got to before it."""
        found = {self.program_id()}
        for name in self._interfaces:
            with suppress(OSError), bpf.opened(self._maps.directory / f"{LINK}{name}") as link:
                found.add(bpf.linked_program(link))
        return found - {0}

    def ensure(self, shape: Shape) -> None:
        """Have a program of at least `shape` run on every interface: one that can more
        already is not replaced by a lesser one. Raises DataPlaneError; what ran goes on."""
        if not self.covers(shape):
            try:
                self._load(self._larger(shape))
            except DataPlaneError as error:
                self.lacks, self.failure = shape, error
                raise
            self.loaded = self._larger(shape)
        self.lacks = self.failure = None

    def _larger(self, shape: Shape) -> Shape:
        return Shape(shape.features | self.loaded.features) if self.loaded else shape

    def leave_others(self) -> None:
        """Take the program off interfaces that are the gateway's no more."""
        for name in set(attached(self._maps.directory)) - set(self._interfaces):
            (self._maps.directory / f"{LINK}{name}").unlink()

    def _load(self, shape: Shape) -> None:
        links = [link for name in self._interfaces if (link := self._netlink.link(name))]
        job = Job(
            str(self._maps.directory),
            tuple(sorted(shape.features)),
            tuple((link.name, link.index) for link in links),
            self._mode,
        )
        outcome = _run_loader(job)
        self.loads += 1
        if self._sweep is not None:
            self._sweep.close()
            self._sweep = None
        if outcome.error:
            raise DataPlaneError(outcome.error, outcome.hint)

    def run(self, frame: bytes, ifindex: int) -> bpf.Run:
        """Run it on a frame that seems to come in on an interface. Raises DataPlaneError."""
        try:
            with bpf.opened(self._maps.directory / PROGRAM) as program:
                return bpf.run_program(program, frame, ifindex=ifindex)
        except FileNotFoundError:
            raise DataPlaneError(
                "no packet program is loaded: this gateway has no service yet",
                "`lbctl apply` a file with one",
            ) from None

    def sweep(self) -> Descriptor | None:
        """The sweep program, if one is loaded."""
        if self._sweep is None:
            with suppress(FileNotFoundError):
                self._sweep = bpf.pinned(self._maps.directory / SWEEP)
        return self._sweep

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.close()


def _run_loader(job: Job) -> Outcome:
    command = [sys.executable, "-m", "lbctl.dataplane.xdp.loader"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            timeout=LOADER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(f"the XDP loader did not end within {LOADER_SECONDS} s")
    sys.stderr.write(done.stderr)
    try:
        return Outcome(**json.loads(done.stdout))
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        return Outcome(f"the XDP loader failed: {last[0]}", f"try `{' '.join(command[1:])}`")
