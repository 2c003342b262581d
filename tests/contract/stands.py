"""Where data paths can be tried: one `Kind` each. A new data path adds its own to `KINDS`
and so gets all the cases of test_port.py."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lbctl.dataplane.fake import FakeKernel, FakePlane
from lbctl.dataplane.port import DataPlane, Flow
from lbctl.model import SCHEDULERS, Endpoint, Frontend

# What a data path may be able to do; what it cannot do, it has to refuse.
ABILITIES = frozenset(
    {
        *(f"scheduler {name}" for name in SCHEDULERS),
        *("tcp", "udp", "sctp", "ipv6", "fwmark"),
        *("nat", "fullnat", "dr", "tun"),
        *("persistence", "oneshot", "max_connections"),
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


KINDS: list[Kind] = [Kind("fake", ABILITIES, _fake, flow=_fake_flow)]
