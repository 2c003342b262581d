"""What the packet program is compiled from: its text and the features in use. Pure but
for reading the source.

A change of values only writes maps; a change of shape compiles.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.support import BY_LOAD, remembers
from lbctl.model import VirtualService


class Feature(StrEnum):
    """Each is a macro that bpf/shape.h tells of."""

    FLOWS = "LB_FLOWS"
    LOADS = "LB_LOADS"
    PERSISTENCE = "LB_PERSISTENCE"
    DIRECT = "LB_DIRECT"
    IPV6 = "LB_IPV6"
    VLAN = "LB_VLAN"
    FENCE = "LB_FENCE"


@dataclass(frozen=True, slots=True)
class Shape:
    features: frozenset[Feature] = frozenset()

    def digest(self, source: str) -> bytes:
        """32 bytes that say what is loaded: kept in the `meta` map."""
        text = f"{abi.ABI}\n{' '.join(sorted(self.features))}\n{source}"
        return hashlib.sha256(text.encode()).digest()

    def covers(self, other: "Shape") -> bool:
        return other.features <= self.features


def features_of(service: VirtualService) -> set[Feature]:
    """What its scheduler and persistence need."""
    found = set()
    if remembers(service):
        found.add(Feature.FLOWS)
    if service.scheduler.name in BY_LOAD:
        found.add(Feature.LOADS)
    if service.persistence is not None:
        found.add(Feature.PERSISTENCE)
    return found


def limits_of(most: int) -> set[Feature]:
    """What a server needs that takes so many connections at a time; 0: any number."""
    return {Feature.FLOWS, Feature.LOADS} if most else set()


_INCLUDE = re.compile(r'^#include "([a-z_.0-9]+)"$', re.MULTILINE)


def flatten(directory: Path, name: str) -> str:
    """A source file with its local includes put in, each once: bcc compiles one text."""
    seen: set[str] = set()

    def read(one: str) -> str:
        if one in seen:
            return ""
        seen.add(one)
        return _INCLUDE.sub(lambda match: read(match[1]), (directory / one).read_text())

    return read(name)


def source_directory() -> Path:
    """bpf/ of a checkout, or what was installed beside the package."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / "bpf", package.parent / "bpf"):
        if (candidate / "lb.c").exists():
            return candidate
    raise FileNotFoundError(f"bpf/lb.c: neither in {package} nor beside it")
