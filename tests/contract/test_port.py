"""What every data path does, whatever it is made of (lbctl/dataplane/port.py)."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stands import Kind, Open

from lbctl.dataplane.converge import converge
from lbctl.dataplane.plan import plan
from lbctl.dataplane.port import (
    AddServer,
    AddService,
    DataPlane,
    Op,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
)
from lbctl.model import (
    MAX_WEIGHT,
    SCHEDULERS,
    Destination,
    Encapsulation,
    Endpoint,
    Forwarding,
    Mode,
    Persistence,
    Scheduler,
    Table,
    Tunnel,
    VirtualService,
    parse_frontend,
)

WEB = parse_frontend("192.0.2.10:80/tcp")
TLS = parse_frontend("192.0.2.10:443/tcp")
DNS = parse_frontend("192.0.2.10:53/udp")
SIX = parse_frontend("[2001:db8::10]:80/tcp")
APP1, APP2, APP3 = (Endpoint.parse(f"198.51.100.{n}:80") for n in (1, 2, 3))
RR = VirtualService(Scheduler("rr"))
ONE, FIVE, ZERO = Destination(1), Destination(5), Destination(0)


def web(service: VirtualService = RR, **weights: int) -> Table:
    places = {"app1": APP1, "app2": APP2, "app3": APP3}
    servers = {places[name]: Destination(weight) for name, weight in weights.items()}
    return Table({WEB: replace(service, destinations=servers)})


def do(plane: DataPlane, *ops: Op) -> list[Op]:
    """Apply; the operations that were refused, each with words that name its object."""
    refusals = plane.apply(ops)
    assert all(str(refusal.op.frontend) in str(refusal.error) for refusal in refusals)
    return [refusal.op for refusal in refusals]


def have(plane: DataPlane, table: Table) -> None:
    assert [str(refusal.error) for refusal in converge(plane, table).refused] == []
    assert plane.observe() == table


# --- what can be held -----------------------------------------------------------------------


def held(frontend: str, server: str, destination: Destination = ONE, **service) -> Table:
    return Table(
        {
            parse_frontend(frontend): replace(
                RR, destinations={_endpoint(server): destination}, **service
            )
        }
    )


def _endpoint(text: str) -> Endpoint:
    """As `Endpoint.parse`, and port 0 for what stands behind a firewall mark."""
    if text.endswith(":0"):
        return replace(Endpoint.parse(text.removesuffix("0") + "1"), port=0)
    return Endpoint.parse(text)


GUE = Forwarding(Mode.TUN, Tunnel(Encapsulation.GUE, 6080))
SAMPLES: dict[str, tuple[set[str], Table]] = {
    "tcp": ({"tcp"}, held("192.0.2.1:80/tcp", "198.51.100.1:8080")),
    "udp": ({"udp"}, held("192.0.2.1:53/udp", "198.51.100.1:5353")),
    "sctp": ({"sctp"}, held("192.0.2.1:36412/sctp", "198.51.100.1:36412")),
    "ipv6": ({"ipv6"}, held("[2001:db8::1]:80/tcp", "[2001:db8:1::1]:8080")),
    "ipv6 udp": ({"ipv6", "udp"}, held("[2001:db8::1]:53/udp", "[2001:db8:1::1]:53")),
    "fwmark": ({"fwmark"}, held("fwmark:7/ipv4", "198.51.100.1:0")),
    "fwmark ipv6": ({"fwmark", "ipv6"}, held("fwmark:7/ipv6", "[2001:db8:1::1]:0")),
    "the highest port": (set(), held("192.0.2.1:65535/tcp", "198.51.100.1:65535")),
    "the highest weight": (
        set(),
        held("192.0.2.1:80/tcp", "198.51.100.1:80", Destination(MAX_WEIGHT)),
    ),
    "fullnat": (
        {"fullnat"},
        held("192.0.2.1:80/tcp", "198.51.100.1:80", Destination(1, Forwarding(Mode.FULLNAT))),
    ),
    "dr": (
        {"dr"},
        held("192.0.2.1:80/tcp", "198.51.100.1:80", Destination(1, Forwarding(Mode.DR))),
    ),
    "tun": (
        {"tun"},
        held("192.0.2.1:80/tcp", "198.51.100.1:80", Destination(1, Forwarding(Mode.TUN, Tunnel()))),
    ),
    "gue": ({"tun"}, held("192.0.2.1:80/tcp", "198.51.100.1:80", Destination(1, GUE))),
    "a limit": (
        {"max_connections"},
        held("192.0.2.1:80/tcp", "198.51.100.1:80", Destination(1, max_connections=100)),
    ),
    "persistence": (
        {"persistence"},
        held("192.0.2.1:80/tcp", "198.51.100.1:80", persistence=Persistence(120, 24)),
    ),
    "oneshot": ({"oneshot", "udp"}, held("192.0.2.1:53/udp", "198.51.100.1:53", oneshot=True)),
    **{
        name: (
            {f"scheduler {name}"},
            held("192.0.2.1:80/tcp", "198.51.100.1:80", scheduler=Scheduler(name)),
        )
        for name in SCHEDULERS
    },
}


@pytest.mark.parametrize(("needs", "table"), SAMPLES.values(), ids=SAMPLES.keys())
def test_what_it_can_do_it_holds_and_what_it_cannot_it_refuses(
    kind: Kind, plane: DataPlane, needs: set[str], table: Table
) -> None:
    if needs <= kind.can:
        have(plane, table)
        assert converge(plane, table).asked == ()
    else:
        report = converge(plane, table)
        assert report.refused, f"{kind.name} took what it cannot do: {needs - kind.can}"
        for frontend in plane.observe():
            assert plane.observe().services[frontend].destinations == {}


def test_it_holds_nothing_at_first(plane: DataPlane) -> None:
    assert plane.observe() == Table()
    assert plane.apply([]) == []


def test_a_service_may_be_empty(plane: DataPlane) -> None:
    have(plane, web())


# --- what exists, and what does not ---------------------------------------------------------

PRESENT = web(app1=1, app2=5)


@pytest.mark.parametrize(
    "op",
    [
        AddService(WEB, RR),
        AddServer(WEB, APP1, FIVE),
        SetServer(WEB, APP3, ONE),
        RemoveServer(WEB, APP3),
        AddServer(TLS, APP1, ONE),
        SetServer(TLS, APP1, ONE),
        RemoveServer(TLS, APP1),
        SetService(TLS, RR),
        RemoveService(TLS),
    ],
    ids=str,
)
def test_what_is_there_cannot_be_added_and_what_is_not_cannot_be_changed(
    plane: DataPlane, op: Op
) -> None:
    have(plane, PRESENT)
    assert do(plane, op) == [op]
    assert plane.observe() == PRESENT


def test_a_refused_operation_does_not_stop_the_others(plane: DataPlane) -> None:
    have(plane, web(app1=1))
    no_such_server = SetServer(WEB, APP3, ONE)
    no_such_service = AddServer(TLS, APP1, ONE)
    refused = do(
        plane,
        AddServer(WEB, APP2, FIVE),
        no_such_server,
        SetServer(WEB, APP1, ZERO),
        no_such_service,
        AddServer(WEB, APP3, ONE),
    )
    assert refused == [no_such_server, no_such_service]
    assert plane.observe() == web(app1=0, app2=5, app3=1)


def test_what_stands_behind_a_refused_service_is_refused_with_it(plane: DataPlane) -> None:
    have(plane, web(app1=1))
    again, server = AddService(WEB, RR), AddServer(TLS, APP1, ONE)
    assert do(plane, again, server) == [again, server]


# --- order ----------------------------------------------------------------------------------


def test_operations_are_done_in_order(plane: DataPlane) -> None:
    refused = do(
        plane,
        AddService(WEB, RR),
        AddServer(WEB, APP1, ONE),
        AddServer(WEB, APP2, ONE),
        SetServer(WEB, APP1, FIVE),
        RemoveServer(WEB, APP2),
        AddServer(WEB, APP2, ZERO),
        SetServer(WEB, APP1, Destination(7)),
    )
    assert refused == []
    assert plane.observe() == web(app1=7, app2=0)


def test_a_service_can_go_and_come_within_one_batch(plane: DataPlane) -> None:
    have(plane, web(app1=1, app2=1))
    refused = do(plane, RemoveService(WEB), AddService(WEB, RR), AddServer(WEB, APP3, FIVE))
    assert refused == []
    assert plane.observe() == web(app3=5)


# --- changes --------------------------------------------------------------------------------


def test_weight_zero_stays_in_the_table(plane: DataPlane) -> None:
    have(plane, web(app1=0, app2=1))
    have(plane, web(app1=1, app2=0))
    have(plane, web(app1=0, app2=0))


def test_another_scheduler_keeps_the_servers(kind: Kind, plane: DataPlane) -> None:
    if "scheduler wrr" not in kind.can:
        pytest.skip(f"{kind.name} has no second scheduler with memory")
    have(plane, PRESENT)
    assert do(plane, SetService(WEB, VirtualService(Scheduler("wrr")))) == []
    assert plane.observe() == web(VirtualService(Scheduler("wrr")), app1=1, app2=5)


@pytest.mark.parametrize(("before", "after"), [("mh", "sh"), ("sh", "rr"), ("rr", "sh")])
def test_another_way_of_hashing_breaks_no_connection(
    kind: Kind, plane: DataPlane, before: str, after: str
) -> None:
    """Who finds servers by a hash alone would send nearly all elsewhere, and refuses."""
    if not {f"scheduler {one}" for one in (before, after)} <= kind.can:
        pytest.skip(f"{kind.name} has not both of {before} and {after}")
    old, new = (VirtualService(Scheduler(name)) for name in (before, after))
    have(plane, web(old, app1=1, app2=5))
    refused = plane.apply([SetService(WEB, new)])
    if "rehash" in kind.can:
        assert refused == []
        assert plane.observe() == web(new, app1=1, app2=5)
        return
    assert str(WEB) in str(refused[0].error)
    assert "nearly every connection would change its server" in str(refused[0].error)
    assert plane.observe() == web(old, app1=1, app2=5)
    have(plane, web(old))
    assert do(plane, SetService(WEB, new)) == [], "nobody is there"


def test_removing_a_service_takes_its_servers_along(plane: DataPlane) -> None:
    have(plane, PRESENT)
    assert do(plane, RemoveService(WEB)) == []
    assert plane.observe() == Table()
    assert do(plane, AddService(WEB, RR)) == []
    assert plane.observe() == web()


def test_what_was_removed_can_be_added_again(plane: DataPlane) -> None:
    have(plane, PRESENT)
    have(plane, web(app2=5))
    have(plane, web(app1=3, app2=5))
    have(plane, Table())
    have(plane, PRESENT)


def test_two_listens_with_one_server_are_two(plane: DataPlane) -> None:
    here = {APP1: ONE, APP2: FIVE}
    both = Table({listen: replace(RR, destinations=here) for listen in (WEB, TLS)})
    have(plane, both)
    assert do(plane, SetServer(TLS, APP1, ZERO), RemoveServer(WEB, APP2)) == []
    assert plane.observe() == Table(
        {
            WEB: replace(RR, destinations={APP1: ONE}),
            TLS: replace(RR, destinations={APP1: ZERO, APP2: FIVE}),
        }
    )
    assert do(plane, RemoveService(WEB)) == []
    assert plane.observe().services.keys() == {TLS}


# --- adoption -------------------------------------------------------------------------------


def test_a_plane_that_is_opened_again_finds_what_was_left_and_writes_nothing(stand: Open) -> None:
    table = Table({WEB: PRESENT.services[WEB], TLS: replace(RR, destinations={APP1: ZERO})})
    first = stand()
    have(first, table)
    first.close()
    second = stand()
    assert second.observe() == table
    assert converge(second, table).asked == ()
    second.tend()
    assert not any(second.stats().writes.values())
    second.close()


def test_an_adopted_table_can_be_changed(stand: Open) -> None:
    first = stand()
    have(first, PRESENT)
    first.close()
    second = stand()
    have(second, web(app2=1, app3=1))
    have(second, Table())
    second.close()


# --- numbers, flows, news -------------------------------------------------------------------


def test_changes_are_counted_and_looking_is_not(plane: DataPlane) -> None:
    have(plane, PRESENT)
    before = sum(plane.stats().writes.values())
    assert before > 0
    have(plane, PRESENT)
    assert sum(plane.stats().writes.values()) == before
    have(plane, web(app1=2, app2=5))
    assert sum(plane.stats().writes.values()) > before


def test_counters_are_of_servers_in_the_table_and_start_at_zero(plane: DataPlane) -> None:
    have(plane, PRESENT)
    stats = plane.stats()
    places = {(WEB, APP1), (WEB, APP2)}
    assert stats.servers.keys() <= places
    assert stats.active.keys() <= places
    assert stats.service(WEB).packets_in == 0


def test_news_and_housekeeping_change_nothing_by_themselves(plane: DataPlane) -> None:
    have(plane, PRESENT)
    plane.catch_up()
    plane.tend()
    assert plane.observe() == PRESENT


def test_flows_go_over_to_a_plane_that_knows_their_server(kind: Kind, plane: DataPlane) -> None:
    have(plane, PRESENT)
    assert list(plane.export_flows()) == []
    assert plane.import_flows([]) == 0
    if kind.flow is None:
        return
    known, other_server, other_listen = (
        kind.flow(WEB, APP1),
        kind.flow(WEB, APP3),
        kind.flow(TLS, APP1),
    )
    assert plane.import_flows([known, other_server, other_listen]) == 1
    (exported,) = plane.export_flows()
    assert replace(exported, idle=known.idle) == known
    have(plane, web(app2=5))
    assert list(plane.export_flows()) == []


# --- laws -----------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn, can: frozenset[str]) -> Table:
    """Any table that a data path with these abilities has to take."""
    listens = [WEB, TLS, *([DNS] if "udp" in can else []), *([SIX] if "ipv6" in can else [])]
    schedulers = [
        Scheduler(name)
        for name in SCHEDULERS
        if f"scheduler {name}" in can and (name != "sh" or "rehash" in can)
    ]
    services = {}
    for listen in draw(st.sets(st.sampled_from(listens))):
        network = "[2001:db8:1::{}]:80" if listen is SIX else "198.51.100.{}:80"
        endpoints = [Endpoint.parse(network.format(n)) for n in range(1, 5)]
        weights = draw(st.dictionaries(st.sampled_from(endpoints), st.integers(0, 10)))
        servers = {endpoint: Destination(weight) for endpoint, weight in weights.items()}
        services[listen] = VirtualService(draw(st.sampled_from(schedulers)), servers)
    return Table(services)


def test_any_table_to_any_other_then_rest(kind: Kind, plane: DataPlane) -> None:
    @settings(
        max_examples=kind.examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(tables(kind.can))
    def law(goal: Table) -> None:
        have(plane, goal)
        assert plan(goal, plane.observe()) == []

    law()
