"""The pinned maps: how each is made, and live views of their values."""

import mmap
from collections.abc import Mapping
from contextlib import ExitStack
from ctypes import Array, Structure, sizeof
from functools import cache
from pathlib import Path
from typing import TypeVar, cast

from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.bpf import Descriptor, MapFlag, MapSpec, MapType
from lbctl.dataplane.xdp.counters import CpuCounters
from lbctl.errors import DataPlaneError

Value = TypeVar("Value", bound=Structure)

LEAST_CPUS = 4  # so that small machines share one compiled program; a block is a megabyte

# Maps of one entry that is all records of a kind: the program needs no lookup in these.
_WHOLE: dict[str, tuple[type[Structure], int]] = {
    "gateway": (abi.Gateway, 1),
    "listen_index": (abi.Bucket, abi.LISTEN_BUCKETS),
    "return_index": (abi.Bucket, abi.RETURN_BUCKETS),
    "listens": (abi.Listen, abi.LISTENS),
    "servers": (abi.Server, abi.SERVERS),
    "cursors": (abi.Cursor, abi.LISTENS),
    "ring_slots": (abi.RingPage, abi.PAGES),
    "old_slots": (abi.OldPage, abi.PAGES),
    "flow_counts": (abi.FlowCount, abi.SERVERS),
    "loads": (abi.Load, abi.SERVERS),
}
_MMAPPED: dict[str, tuple[type[Structure], int]] = {
    "turns": (abi.Turns, abi.LISTENS),
    "past": (abi.ServerStats, abi.LISTENS),
    "meta": (abi.Meta, 1),
}

# The fence's, which it and the packet program read, and the VRRP process writes.
FENCE = (
    MapSpec("leases", MapType.ARRAY, sizeof(abi.Fence), 1, flags=MapFlag.MMAPABLE),
    MapSpec("fence_keys", MapType.HASH, 4, abi.FENCE_KEYS, key_size=sizeof(abi.FenceKey)),
)


def specs(flow_sets: int) -> list[MapSpec]:
    """Every map. flow_sets: a power of two."""
    whole = [
        MapSpec(name, MapType.ARRAY, sizeof(kind) * records, 1, flags=MapFlag.MMAPABLE)
        for name, (kind, records) in (_WHOLE | _of_this_machine(flow_sets)).items()
    ]
    mmapped = [
        MapSpec(name, MapType.ARRAY, sizeof(kind), entries, flags=MapFlag.MMAPABLE)
        for name, (kind, entries) in _MMAPPED.items()
    ]
    return [
        *whole,
        *mmapped,
        MapSpec("tx_ports", MapType.DEVMAP, 4, abi.PORTS),
        MapSpec("direct4", MapType.LPM_TRIE, 4, 1024, key_size=8, flags=MapFlag.NO_PREALLOC),
        MapSpec("direct6", MapType.LPM_TRIE, 4, 1024, key_size=20, flags=MapFlag.NO_PREALLOC),
        MapSpec("wanted", MapType.RINGBUF, 0, 65536, key_size=0),
        *FENCE,
    ]


def sets_for(flows: int) -> int:
    """A power of two of sets that holds at least `flows`, and one sweep's worth."""
    sets = max(abi.SWEEP_SETS, -(-flows // abi.FLOW_WAYS))
    return 1 << (sets - 1).bit_length()


def _of_this_machine(flow_sets: int) -> dict[str, tuple[type[Structure], int]]:
    """The program cuts a number to a power of two, so that is how many there are."""
    blocks = max(LEAST_CPUS, 1 << (possible_cpus() - 1).bit_length())
    return {"flows": (abi.FlowSet, flow_sets), "cpu_blocks": (abi.CpuBlock, blocks)}


def create(directory: Path, flow_sets: int) -> int:
    """Make and pin the maps that are not there yet; return how many those were.

    Maps that are there keep what they hold: that is how a gateway's state outlives the
    processes that wrote it.
    """
    return sum(create_one(directory, spec) for spec in specs(flow_sets))


def create_one(directory: Path, spec: MapSpec) -> bool:
    """Whether it was not there yet."""
    path = directory / spec.name
    if path.exists():
        return False
    descriptor = bpf.create_map(spec)
    try:
        descriptor.pin(path)
    except FileExistsError:  # another process was quicker
        return False
    finally:
        descriptor.close()
    return True


class Maps:
    """All maps of one gateway, opened from their pins."""

    def __init__(self, directory: Path) -> None:
        self._stack = ExitStack()
        self._single: dict[tuple[str, int], Structure] = {}
        self.directory = directory
        self.fds: Mapping[str, Descriptor] = self._open(directory)
        self.meta: abi.Meta = self._view("meta", abi.Meta)[0]
        self._check_abi()
        self.gateway: abi.Gateway = self._view("gateway", abi.Gateway)[0]
        self.listens = self._view("listens", abi.Listen)
        self.servers = self._view("servers", abi.Server)
        self.listen_index = self._view("listen_index", abi.Bucket)
        self.return_index = self._view("return_index", abi.Bucket)
        self.cursors = self._view("cursors", abi.Cursor)
        self.flow_counts = self._view("flow_counts", abi.FlowCount)
        self.loads = self._view("loads", abi.Load)
        self.past = self._view("past", abi.ServerStats)
        self.counters = CpuCounters(self.fds["cpu_blocks"], possible_cpus())

    def _open(self, directory: Path) -> dict[str, Descriptor]:
        opened = {}
        for spec in specs(1):
            path = directory / spec.name
            try:
                descriptor = bpf.pinned(path)
            except OSError as error:
                self._stack.close()
                raise DataPlaneError(f"{path}: cannot open the pinned map: {error}") from None
            self._stack.callback(descriptor.close)
            opened[spec.name] = descriptor
        return opened

    def _check_abi(self) -> None:
        """A gateway whose maps are of another layout is not touched."""
        if self.meta.abi not in (0, abi.ABI):
            raise DataPlaneError(
                f"{self.directory}: made by another version of lbctl (layout {self.meta.abi}, "
                f"this one speaks {abi.ABI})",
                f"stop lbctl and lbctl-vrrp, `rm -r {self.directory}`, start both: "
                "connections are cut once",
            )

    def _view(self, name: str, kind: type[Value]) -> Array[Value]:
        count = (_WHOLE | _MMAPPED)[name][1]
        memory = bpf.map_memory(self.fds[name], sizeof(kind) * count)
        return (kind * count).from_buffer(memory)

    # Rings and turns are many and large, and the kernel maps every page at once: each is
    # mapped alone, when it is first needed.

    def ring_page(self, number: int) -> abi.RingPage:
        return self._one("ring_slots", abi.RingPage, number)

    def old_page(self, number: int) -> abi.OldPage:
        return self._one("old_slots", abi.OldPage, number)

    def turns(self, number: int) -> abi.Turns:
        return self._one("turns", abi.Turns, number)

    def _one(self, name: str, kind: type[Value], number: int) -> Value:
        if (name, number) not in self._single:
            size = sizeof(kind)
            inside = size * number % mmap.PAGESIZE  # several may lie in a page of memory
            start = size * number - inside
            memory = bpf.map_memory(self.fds[name], inside + size, offset=start)
            self._single[name, number] = kind.from_buffer(memory, inside)
        return cast(Value, self._single[name, number])

    def close(self) -> None:
        """Close the descriptors. The views keep their memory until they are collected."""
        self._stack.close()

    def flow_memory(self, sets: int) -> mmap.mmap:
        return bpf.map_memory(self.fds["flows"], sets * sizeof(abi.FlowSet))


@cache
def possible_cpus() -> int:
    """Numbers of CPUs that this machine may ever have."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.rpartition("-")[2].rpartition(",")[2]) + 1
