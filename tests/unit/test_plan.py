"""Laws of `plan` and `converge`, on the fake: any table to any other, then rest."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.dataplane.converge import converge
from lbctl.dataplane.fake import FakePlane
from lbctl.dataplane.plan import plan
from lbctl.dataplane.port import (
    AddServer,
    AddService,
    Op,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
)
from lbctl.model import (
    Destination,
    Endpoint,
    FirewallMark,
    Forwarding,
    Frontend,
    Listen,
    Mode,
    Persistence,
    Scheduler,
    Table,
    VirtualService,
    parse_frontend,
)

FRONTENDS: list[Frontend] = [
    parse_frontend(text)
    for text in ("192.0.2.1:80/tcp", "192.0.2.1:53/udp", "[2001:db8::1]:80/tcp", "fwmark:7/ipv4")
]
ENDPOINTS = [Endpoint.parse(f"198.51.100.{n}:8080") for n in range(1, 5)]

destinations = st.builds(
    Destination,
    weight=st.integers(0, 3),
    forwarding=st.sampled_from([Forwarding(), Forwarding(Mode.DR)]),
    max_connections=st.sampled_from([0, 100]),
)
services = st.builds(
    VirtualService,
    scheduler=st.sampled_from([Scheduler("rr"), Scheduler("mh", frozenset({"mh-port"}))]),
    destinations=st.dictionaries(st.sampled_from(ENDPOINTS), destinations),
    persistence=st.sampled_from([None, Persistence()]),
    oneshot=st.booleans(),
)
tables = st.builds(Table, st.dictionaries(st.sampled_from(FRONTENDS), services))


def holding(table: Table) -> FakePlane:
    plane = FakePlane()
    assert converge(plane, table).refused == ()
    plane.log.clear()
    return plane


def steps(plane: FakePlane, ops: list[Op]) -> Iterator[Table]:
    for op in ops:
        assert plane.apply([op]) == []
        yield plane.observe()


def scheduled(table: Table, frontend: Frontend) -> bool:
    service = table.get(frontend)
    return service is not None and any(d.weight > 0 for d in service.destinations.values())


@given(tables, tables)
def test_any_table_to_any_other_then_rest(start: Table, goal: Table) -> None:
    plane = holding(start)
    report = converge(plane, goal)
    assert report.refused == ()
    assert plane.observe() == goal
    assert plan(goal, plane.observe()) == []
    assert converge(plane, goal).asked == ()


@given(tables, tables)
def test_who_can_serve_at_both_ends_can_serve_at_every_step(start: Table, goal: Table) -> None:
    plane = holding(start)
    for between in steps(plane, plan(goal, start)):
        for frontend in FRONTENDS:
            if scheduled(start, frontend) and scheduled(goal, frontend):
                assert scheduled(between, frontend)


@given(tables, tables)
def test_what_stays_is_not_touched(start: Table, goal: Table) -> None:
    """No server that is at both ends is removed on the way, nor a service."""
    plane = holding(start)
    for between in steps(plane, plan(goal, start)):
        for frontend, service in start.services.items():
            kept = goal.get(frontend)
            if kept is not None:
                here = between.services[frontend].destinations
                assert service.destinations.keys() & kept.destinations.keys() <= here.keys()


@given(tables, tables, st.data())
def test_refusals_do_not_stop_the_rest(start: Table, goal: Table, data: st.DataObject) -> None:
    ops = plan(goal, start)
    unwanted = [op for op in ops if data.draw(st.booleans())]
    plane = holding(start)
    plane.refuses = lambda op: op in unwanted
    report = converge(plane, goal)
    refused = [refusal.op for refusal in report.refused]
    new = {op.frontend for op in refused if isinstance(op, AddService)}
    homeless = [op for op in ops if isinstance(op, AddServer) and op.frontend in new]
    assert refused == [op for op in ops if op in unwanted or op in homeless]
    assert plane.log == [op for op in ops if op not in refused]
    assert list(report.applied) == plane.log
    plane.refuses = lambda op: False
    assert converge(plane, goal).refused == ()
    assert plane.observe() == goal


@given(tables, tables)
def test_converge_trusts_what_it_is_told_is_there(start: Table, goal: Table) -> None:
    told, asked = holding(start), holding(start)
    assert converge(told, goal, observed=start) == converge(asked, goal)


# --- by example -----------------------------------------------------------------------------

WEB = Listen.parse("192.0.2.10:80/tcp")
RR, MH = Scheduler("rr"), Scheduler("mh")
A, B = ENDPOINTS[:2]


def web(scheduler: Scheduler = RR, **weights: int) -> Table:
    places = {"a": A, "b": B}
    servers = {places[name]: Destination(weight) for name, weight in weights.items()}
    return Table({WEB: VirtualService(scheduler, servers)})


@pytest.mark.parametrize(
    ("start", "goal", "ops"),
    [
        (Table(), Table(), []),
        (
            Table(),
            web(a=1),
            [AddService(WEB, VirtualService(RR)), AddServer(WEB, A, Destination(1))],
        ),
        (web(a=1), Table(), [RemoveService(WEB)]),
        (web(a=1), web(b=1), [AddServer(WEB, B, Destination(1)), RemoveServer(WEB, A)]),
        (
            web(a=1, b=0),
            web(a=0, b=1),
            [SetServer(WEB, B, Destination(1)), SetServer(WEB, A, Destination(0))],
        ),
        (web(RR, a=1), web(MH, a=1), [SetService(WEB, VirtualService(MH))]),
    ],
)
def test_the_operations(start: Table, goal: Table, ops: list[Op]) -> None:
    assert plan(goal, start) == ops


def test_a_mark_is_a_frontend_like_any_other() -> None:
    mark = FirewallMark.parse("fwmark:7/ipv4")
    goal = Table({mark: VirtualService(RR, {A: Destination()})})
    plane = FakePlane()
    converge(plane, goal)
    assert plane.observe() == goal
