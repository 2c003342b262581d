"""Where data paths can be tried: one `Kind` each. A new data path adds its own to `KINDS`
and so gets all the cases of test_port.py."""

import os
import struct
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.fake import FakeKernel, FakePlane
from lbctl.dataplane.faketraffic import FakeRoom, FakeTraffic
from lbctl.dataplane.ipvs.plane import IpvsPlane
from lbctl.dataplane.port import DataPlane, Flow
from lbctl.dataplane.xdp import nic
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.model import SCHEDULERS, Endpoint, Frontend, Gateway, Table
from lbctl.netlink import Netlink
from tests.bpf.gateway import inside, make_links, own_network_namespace, remove_pins

# What a data path may be able to do; what it cannot do, it has to refuse.
ABILITIES = frozenset(
    {
        *(f"scheduler {name}" for name in SCHEDULERS),
        *("tcp", "udp", "sctp", "ipv6", "fwmark"),
        *("nat", "fullnat", "dr", "tun"),
        *("persistence", "oneshot", "max_connections"),
        "rehash",  # a listen with servers may change from sh, or to it
    }
)

Open = Callable[[], DataPlane]


@dataclass(frozen=True)
class Kind:
    """A data path under test.

    stand: given an empty directory, a kernel that holds nothing of ours, for as long as the
    context lasts; what it yields opens a plane on it, and may be called again once that
    plane is closed.
    missing: why it cannot be tried here, with the command that mends it; "" if it can.
    flow: a flow as that data path would export it; None where it remembers none.
    examples: random tables per law; few where each costs real system calls.
    """

    name: str
    can: frozenset[str]
    stand: Callable[[Path], AbstractContextManager[Open]]
    missing: Callable[[], str] = lambda: ""
    flow: Callable[[Frontend, Endpoint], Flow] | None = None
    examples: int = 50
    marks: tuple[pytest.MarkDecorator, ...] = ()

    def __post_init__(self) -> None:
        assert self.can <= ABILITIES, f"{self.name}: {sorted(self.can - ABILITIES)}"


@contextmanager
def _fake(directory: Path) -> Iterator[Open]:
    kernel = FakeKernel()
    yield lambda: FakePlane(kernel=kernel)


def _fake_flow(frontend: Frontend, server: Endpoint) -> Flow:
    return Flow(frontend, f"{frontend} {server}".encode(), server, confirmed=True, idle=1.5)


# --- xdp ------------------------------------------------------------------------------------

GROUND = ExitStack()  # what outlives a test; closed when the session ends


@cache
def _xdp_ground() -> tuple[int, Path]:
    """A network namespace and a directory of pins. The program that one test has compiled
    serves the next: it takes seconds, and each test leaves the maps empty."""
    directory = Path("/sys/fs/bpf") / f"lbctl-contract-{uuid.uuid4().hex[:8]}"
    with own_network_namespace():
        make_links(own="198.51.100.254", servers=range(1, 6))
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    GROUND.callback(os.close, namespace)
    nic.ensure_bpffs(directory)
    GROUND.callback(remove_pins, directory)
    return namespace, directory


@contextmanager
def _xdp(directory: Path) -> Iterator[Open]:
    namespace, pins = _xdp_ground()
    with inside(namespace), closing(Netlink()) as netlink:
        yield lambda: XdpPlane(Gateway("front", ("back",)), pins, netlink)
        with closing(XdpPlane(Gateway("front", ("back",)), pins, netlink)) as last:
            converge(last, Table())
            last.tend()
            last.tend()


def _xdp_flow(frontend: Frontend, server: Endpoint) -> Flow:
    key = struct.pack("<IQI", 7, 0x123456789 << 30 & (1 << 64) - 1, 0)
    return Flow(frontend, key, server, confirmed=True, idle=0.0)


XDP_CAN = {
    "tcp",
    "udp",
    "ipv6",
    "nat",
    "oneshot",
    "max_connections",
    "persistence",
    *(f"scheduler {s}" for s in ("rr", "wrr", "lc", "wlc", "mh", "sh")),
}


# --- ipvs -----------------------------------------------------------------------------------


@contextmanager
def _ipvs(directory: Path) -> Iterator[Open]:
    with own_network_namespace():
        # Before the first address IPVS takes every server's for a broadcast one.
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield lambda: IpvsPlane(directory / "ipvs.json")


# `twos` is in the kernel's sources, but in no distribution's kernel.
IPVS_CAN = ABILITIES - {"scheduler twos"}


KINDS: list[Kind] = [
    Kind("fake", ABILITIES, _fake, flow=_fake_flow),
    Kind("xdp", frozenset(XDP_CAN), _xdp, flow=_xdp_flow, marks=(pytest.mark.kernel,)),
    Kind("ipvs", IPVS_CAN, _ipvs, examples=8, marks=(pytest.mark.ipvs,)),
]


def shares(kind: Kind) -> Callable[[Path], AbstractContextManager[Open]]:
    """The stand of `kind`, with rings: the data path in memory computes them only if asked."""
    return _fake_with_rings if kind.name == "fake" else kind.stand


@contextmanager
def _fake_with_rings(directory: Path) -> Iterator[Open]:
    room = FakeRoom(place=lambda flow: (flow % 512, flow % 8))
    kernel = FakeKernel(traffic=FakeTraffic(room))
    yield lambda: FakePlane(kernel=kernel)
