"""A data path for trying the daemon without a kernel's help: a fake that a file outlives.

`lbctl daemon --datapath fake:DIRECTORY` keeps the table in DIRECTORY, so that it survives
the process as a kernel's would. Files there let a story be told about it: `refuse`
(operations whose text holds one of its lines are refused), `active.json` (`{"ENDPOINT":
connections}`), `near` (whose MACs are known) and `held` (listens whose unknown TCP is dropped).
"""

import json
import pickle
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from lbctl.dataplane.fake import FakeKernel, FakePlane, FakeVips
from lbctl.dataplane.port import Active, Near, Op, Refusal, Stats
from lbctl.model import Address, Config, Frontend


@dataclass(frozen=True)
class OpenedFake:
    plane: "KeptPlane | FakePlane"
    vips: FakeVips
    why: str

    def follow(self, config: Config) -> None:
        """It has no peer."""

    def retire(self) -> str:
        """Nothing runs beside it."""
        return ""


def open_fake(directory: Path | None) -> OpenedFake:
    """In memory only, or kept in `directory`."""
    if directory is None:
        return OpenedFake(FakePlane(), FakeVips(), "asked for: nothing reaches a kernel")
    directory.mkdir(parents=True, exist_ok=True)
    return OpenedFake(KeptPlane(directory), KeptVips(directory), f"asked for: kept in {directory}")


class KeptPlane(FakePlane):
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "kernel"
        # Our own file, written below.
        kernel = pickle.loads(self._file.read_bytes()) if self._file.exists() else FakeKernel()
        super().__init__(self._refuses, kernel)
        self._kernel: FakeKernel = kernel

    def apply(self, ops: Sequence[Op]) -> list[Refusal]:
        refused = super().apply(ops)
        _put(self._file, pickle.dumps(self._kernel))
        return refused

    def stats(self) -> Stats:
        file = self._directory / "active.json"
        told: dict[str, int | list[float]] = json.loads(file.read_text()) if file.exists() else {}
        active = {
            (frontend, endpoint): _active(told.get(str(endpoint), 0))
            for frontend, service in self.observe().services.items()
            for endpoint in service.destinations
        }
        return replace(super().stats(), active=active)

    def near(self) -> Set[Near]:
        """As in the file `near`: a line for each, the interface's number and the address."""
        file = self._directory / "near"
        lines = file.read_text().splitlines() if file.exists() else []
        return {Near(int(at), ip_address(address)) for at, address in map(str.split, lines)}

    def meet(self, wanted: Iterable[Near]) -> None:
        lines = sorted(f"{one.at} {one.address}\n" for one in {*self.near(), *wanted})
        _put(self._directory / "near", "".join(lines).encode())

    def hold_unknown(self, frontends: Iterable[Frontend], held: bool) -> None:
        """`held` has them, a line for each."""
        super().hold_unknown(frontends, held)
        _put(self._directory / "held", "".join(f"{one}\n" for one in self._held).encode())

    def _refuses(self, op: Op) -> bool:
        file = self._directory / "refuse"
        lines = file.read_text().splitlines() if file.exists() else []
        return any(line in str(op) for line in lines if line)


class KeptVips(FakeVips):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._file = directory / "vips"
        if self._file.exists():
            for address in pickle.loads(self._file.read_bytes()):
                super().add(address)

    def add(self, address: Address) -> None:
        super().add(address)
        _put(self._file, pickle.dumps(self.held()))

    def remove(self, address: Address) -> None:
        super().remove(address)
        _put(self._file, pickle.dumps(self.held()))


def _put(file: Path, data: bytes) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(file)


def _active(told: int | list[float]) -> Active:
    """As a file has it: a number of records; or an estimate, and seconds of silence."""
    if isinstance(told, int):
        return Active(told, "records")
    number, silent = told
    return Active(round(number), "estimate", silent=silent)
