"""`trace`: what it says is what the loaded program does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.madeup import MadeUp, Trace
from lbctl.errors import DataPlaneError
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from tests.bpf.gateway import CLIENT, CLIENT6, PacketGateway

pytestmark = pytest.mark.kernel

WEB, DNS, ROUND = "192.0.2.10:80/tcp", "192.0.2.10:53/udp", "192.0.2.11:80/tcp"
SIX = "[2001:db8::10]:80/tcp"
SOURCE = "192.0.2.12:80/tcp"
S11, S12 = "198.51.100.11:80", "198.51.100.12:80"
SIX11, SIX12 = "[2001:db8:1::11]:80", "[2001:db8:1::12]:80"


def table(first: int = 1, second: int = 1) -> Table:
    def both(*endpoints: str) -> dict[Endpoint, Destination]:
        weights = (first, second)
        return {Endpoint.parse(e): Destination(w) for e, w in zip(endpoints, weights, strict=True)}

    four, six = both(S11, S12), both(SIX11, SIX12)
    listens = {WEB: "mh", DNS: "mh", ROUND: "rr", SOURCE: "sh"}
    services = {
        Listen.parse(text): VirtualService(
            Scheduler(name), {Endpoint(e.address, e.port + n): d for e, d in four.items()}
        )
        for n, (text, name) in enumerate(listens.items())
    }
    return Table({**services, Listen.parse(SIX): VirtualService(Scheduler("mh"), six)})


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    assert not converge(gateway.plane, table()).refused
    yield gateway
    gateway.close()


def ask(gateway: PacketGateway, source: str, to: str, **more: object) -> Trace:
    return gateway.plane.trace(MadeUp(Endpoint.parse(source), Listen.parse(to), **more))


def found(trace: Trace, at: str) -> str:
    (text,) = [step.found for step in trace.steps if step.at == at]
    return text


@pytest.mark.parametrize("listen", [WEB, DNS, SOURCE, SIX])
def test_the_slot_it_names_is_the_one_the_program_takes(
    gateway: PacketGateway, listen: str
) -> None:
    client = f"[{CLIENT6}]" if ":" in CLIENT6 and listen == SIX else CLIENT
    for port in range(40000, 40010):
        trace = ask(gateway, f"{client}:{port}", listen)
        assert (trace.verdict, trace.action, trace.out) == ("forward", "redirect", "back")
        assert str(trace.server) in found(trace, "ring")
        assert trace.wrong_checksums == ()


def test_the_rewritten_headers_are_shown(gateway: PacketGateway) -> None:
    trace = ask(gateway, f"{CLIENT}:40000", WEB)
    names = [one.name for one in trace.headers]
    assert names == ["destination MAC", "source MAC", "destination address", "TTL"]
    ttl = trace.headers[-1]
    assert (ttl.before, ttl.after) == ("64", "63")


def test_turns_and_records_are_told(gateway: PacketGateway) -> None:
    first = ask(gateway, f"{CLIENT}:40000", ROUND)
    assert found(first, "flow cache") == "no record of this flow"
    assert str(first.server) in found(first, "turn")
    again = ask(gateway, f"{CLIENT}:40000", ROUND, flags=".", seq=2)
    assert again.server == first.server
    assert found(again, "flow cache").startswith(f"embryonic with {first.server}")
    third = ask(gateway, f"{CLIENT}:40000", ROUND, flags=".", seq=2)
    assert found(third, "flow cache").startswith(f"established with {first.server}")


def test_a_slot_that_changes_names_both_servers(gateway: PacketGateway) -> None:
    ports = range(40000, 40020)
    old = [p for p in ports if str(ask(gateway, f"{CLIENT}:{p}", WEB).server) == S11]
    assert not converge(gateway.plane, table(first=0)).refused
    trace = ask(gateway, f"{CLIENT}:{old[0]}", WEB, flags=".")
    assert str(trace.server) == S11
    assert (
        found(trace, "ring")
        .partition("; it changes: ")[2]
        .startswith(f"flows without a record stay with {S11}")
    )


def test_the_way_back(gateway: PacketGateway) -> None:
    trace = ask(gateway, S11, f"{CLIENT}:40000/tcp", flags=".")
    assert (trace.interface, trace.verdict, trace.out) == ("back", "return", "front")
    assert (str(trace.listen), str(trace.server)) == (WEB, S11)


@pytest.mark.parametrize(
    ("source", "to", "more", "verdict"),
    [
        (f"{CLIENT}:40000", "192.0.2.99:80/tcp", {}, "pass_other"),
        (f"{CLIENT}:40000", WEB, {"ttl": 1}, "drop_ttl"),
        (f"{CLIENT}:40000", WEB, {"size": 2000}, "drop_too_big"),
        (S11, "203.0.113.1:40000/tcp", {}, "drop_no_route"),
        (S11, "192.0.2.1:40000/tcp", {}, "pass_own"),
    ],
)
def test_every_end_has_its_verdict(
    gateway: PacketGateway, source: str, to: str, more: dict[str, int], verdict: str
) -> None:
    trace = ask(gateway, source, to, **more)
    assert trace.verdict == verdict
    assert trace.server is None
    assert trace.headers == ()


def test_an_interface_of_nobody_is_refused(gateway: PacketGateway) -> None:
    with pytest.raises(DataPlaneError, match="lo: no interface of this gateway"):
        ask(gateway, f"{CLIENT}:40000", WEB, interface="lo")


def test_without_a_service_no_program_is_loaded(pins: Path) -> None:
    gateway = PacketGateway(Gateway("front", ("back",)), pins)
    with pytest.raises(DataPlaneError, match="no packet program is loaded"):
        ask(gateway, f"{CLIENT}:40000", WEB)
    gateway.close()


def test_interfaces_are_told_as_they_are(gateway: PacketGateway) -> None:
    front, back = gateway.plane.nics()
    assert (front.name, back.name) == ("front", "back")
    assert (front.driver, front.mode, front.mtu, front.lro) == ("veth", "native", 1500, False)
    assert front.queues >= 1
