"""The packet cases on the leanest program and on others, not only on the one that the tables
of test_packets.py and test_packets6.py ask for.

A case runs in every shape that has what it needs: what a shape leaves out changes nothing for
the packets that are left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp.shape import Feature, Shape
from lbctl.model import Gateway, Listen, Table
from tests.bpf import test_icmp as icmp
from tests.bpf import test_packets as four
from tests.bpf import test_packets6 as six
from tests.bpf.conftest import directory_of_pins
from tests.bpf.gateway import PacketGateway
from tests.bpf.test_packets import Case, check, service

pytestmark = pytest.mark.kernel

F = Feature
SHAPES = {
    "lean": frozenset[Feature](),
    "all kinds of memory": frozenset({F.FLOWS, F.LOADS, F.PERSISTENCE}),
    "vlan, fence": frozenset({F.VLAN, F.FENCE}),
    "ipv6, direct, vlan": frozenset({F.IPV6, F.DIRECT, F.VLAN}),
}
DIRECT = (ip_network("203.0.113.0/24"), ip_network("2001:db8:2::/48"))
V4 = Table(
    {
        Listen.parse(four.WEB): service("mh", "198.51.100.11:8080"),
        Listen.parse(four.DNS): service("mh", "198.51.100.12:5353"),
        Listen.parse(four.EMPTY): service("mh"),
    }
)
V6 = Table(
    {
        Listen.parse(f"[{six.VIP}]:80/tcp"): service("mh", "[2001:db8:1::11]:8080"),
        Listen.parse(f"[{six.VIP}]:53/udp"): service("mh", "[2001:db8:1::12]:5353"),
        Listen.parse("[2001:db8::13]:80/tcp"): service("mh"),
    }
)


@dataclass(frozen=True)
class Needing:
    """A case, and the features without which it is another case."""

    case: Case
    features: frozenset[Feature] = field(default=frozenset())

    @property
    def name(self) -> str:
        return f"{'6' if F.IPV6 in self.features else '4'} {self.case.name}"


def needing(case: Case, *also: Feature) -> Needing:
    direct = {F.DIRECT} if case.verdict == "pass_direct" else set[Feature]()
    return Needing(case, frozenset(direct.union(also)))


CASES = [
    *(needing(case) for case in [*four.CASES, *icmp.CASES]),
    *(needing(case, F.IPV6) for case in [*six.CASES, *icmp.CASES6]),
]


@contextmanager
def gateway_of(features: frozenset[Feature]) -> Iterator[PacketGateway]:
    """Its program has these features, whether or not its services ask for them."""
    settings = Gateway(
        "front", ("back",), direct=DIRECT if F.DIRECT in features else (), flow_cache=1000
    )
    with directory_of_pins() as pins:
        gateway = PacketGateway(settings, pins)
        gateway.plane._program.ensure(Shape(features))
        table = Table({**V4.services, **(V6.services if F.IPV6 in features else {})})
        assert not converge(gateway.plane, table).refused
        assert gateway.plane._program.loaded == Shape(features)
        yield gateway
        gateway.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_packets(shared_links: None, shape: str) -> None:
    """One test a shape: to load a program takes longer than its hundred packets."""
    wrong: dict[str, str] = {}
    with gateway_of(SHAPES[shape]) as gateway:
        for one in CASES:
            if one.features <= SHAPES[shape]:
                try:
                    check(gateway, one.case)
                except AssertionError as error:
                    wrong[one.name] = str(error)
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())


def test_every_case_runs_somewhere_and_most_run_everywhere() -> None:
    everywhere = [one for one in CASES if not one.features]
    assert all(any(one.features <= shape for shape in SHAPES.values()) for one in CASES)
    assert len(everywhere) >= 60
    assert len(CASES) >= 120
