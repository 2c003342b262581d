"""A drained site is empty when nobody answers with it, remembers it, or is on it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lbctl.cli.gslb import _how_far, _waited_for
from lbctl.gslb.api import MARGIN, drain_view, seconds_left
from lbctl.gslb.control import Control
from lbctl.gslb.model import AllDown, Failover, Gslb, Healthy, Name, Policy, Zone
from lbctl.gslb.orders import Unreadable, read_orders, write_orders
from lbctl.gslb.reports import DrainOrder, ServiceState, SiteReport
from lbctl.gslb.wire import name_to_wire
from tests.unit.gslb.scene import APEX, GSLB, RECORDS, SEOUL4, TOKYO4, member
from tests.unit.gslb.test_control import control_of

BOTH = (member("seoul", SEOUL4), member("tokyo", TOKYO4))


def gslb_of(policy: Policy, *members) -> Gslb:
    name = Name(name_to_wire("www.gslb.example"), "p", members, ttl=30)
    return replace(GSLB, zones=(Zone(APEX, RECORDS, (name,)),), policies={"p": policy})


GOOD = gslb_of(Policy((Healthy(), Failover())), *BOTH)


def run(control: Control, story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await control.start()
        await story()

    asyncio.run(whole())


async def order(control: Control, site: str, *, draining: bool = True) -> None:
    control.overview.ordered(site, draining, "test", time.time())
    await control._follow()
    await control.keep()


def counted(control: Control, connections: int) -> None:
    one = SiteReport("gw", {"web": ServiceState(True, connections)})
    control.overview.reported("seoul", 0, one, time.monotonic())


def test_it_is_empty_when_forgotten_and_counted_empty(tmp_path: Path) -> None:
    control = control_of(GOOD, tmp_path)

    async def story() -> None:
        before = time.monotonic()
        await order(control, "seoul")
        late = control.left_at["seoul"] + 30 + MARGIN
        assert before <= control.left_at["seoul"] <= time.monotonic()
        view = drain_view(control, "seoul", late - 1)
        assert (view.names, view.connections, view.empty) == ([], None, False)
        assert view.left == pytest.approx(1.0)
        assert not drain_view(control, "seoul", late).empty  # nobody counts
        control.overview.gslb = replace(
            GOOD, observers=replace(GOOD.observers, silent_after=100.0))  # fmt: skip
        counted(control, 3)
        assert not drain_view(control, "seoul", late).empty
        counted(control, 0)
        assert drain_view(control, "seoul", late).empty
        assert not drain_view(control, "tokyo", late).empty  # it does not drain

    run(control, story)


@pytest.mark.parametrize(
    ("policy", "members"),
    [
        (Policy((Healthy(), Failover()), AllDown.ANY), BOTH[:1]),  # the last one
        (Policy((Failover(),)), BOTH),  # health is not asked
    ],
)
def test_a_site_that_is_still_answered_is_not_empty(tmp_path: Path, policy, members) -> None:
    control = control_of(gslb_of(policy, *members), tmp_path)

    async def story() -> None:
        await order(control, "seoul")
        counted(control, 0)
        view = drain_view(control, "seoul", time.monotonic() + 3.0)
        assert (view.names, view.empty) == (["www.gslb.example."], False)
        assert view.left == pytest.approx(30 + MARGIN)
        assert "still the answer of www.gslb.example." in _how_far(
            {"names": view.names, "left": view.left, "connections": 0, "gateways": 1})  # fmt: skip

    run(control, story)


def test_a_new_drain_starts_anew(tmp_path: Path) -> None:
    control = control_of(GOOD, tmp_path)

    async def story() -> None:
        await order(control, "seoul")
        control.left_at["seoul"] -= 100.0  # long ago
        assert drain_view(control, "seoul", time.monotonic()).left == 0.0
        await order(control, "seoul", draining=False)
        assert "seoul" not in control.left_at
        await order(control, "seoul")
        assert drain_view(control, "seoul", control.left_at["seoul"]).left > 30.0

    run(control, story)


def test_drains_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "gslb-drains.json"
    first, second = (control_of(GOOD, tmp_path / name) for name in "ab")
    for control in (first, second):
        control.orders = path
    run(first, lambda: order(first, "seoul"))

    async def story() -> None:
        assert second.standing("seoul").draining
        assert second.overview.drains["seoul"].reason == "test"
        await order(second, "seoul", draining=False)

    run(second, story)
    assert not read_orders(path)["seoul"].draining


def test_a_drain_that_cannot_be_kept_holds_and_that_is_told(tmp_path: Path) -> None:
    control = control_of(GOOD, tmp_path)
    control.orders = tmp_path / "nowhere" / "gslb-drains.json"

    async def story() -> None:
        await order(control, "seoul")
        assert control.standing("seoul").draining
        assert "nowhere/gslb-drains.new" in control.errors["drains"]

    run(control, story)


@pytest.mark.parametrize("bad", [b"", b"[]", b'{"x": 1}', b"\xff", b"[" * 100_000])
def test_a_file_of_orders_that_is_none_is_told(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "gslb-drains.json"
    path.write_bytes(bad)
    with pytest.raises(Unreadable, match="so no site drains by it"):
        read_orders(path)
    control = control_of(GOOD, tmp_path)
    control.orders = path

    async def story() -> None:
        assert str(path) in control.errors["drains"]
        await order(control, "seoul")
        assert control.errors == {}

    run(control, story)
    assert read_orders(path)["seoul"].draining
    write_orders(path, {"x": DrainOrder(True, 1.0)})
    assert read_orders(path) == {"x": DrainOrder(True, 1.0)}


@pytest.mark.parametrize(
    ("left_at", "left"), [(None, 33.0), (100.0, 33.0), (90.0, 23.0), (60.0, 0.0)]
)
def test_resolvers_remember_for_a_ttl_after_the_last_answer(left_at, left) -> None:
    assert seconds_left(left_at, 30, 100.0) == left


@pytest.mark.parametrize(
    ("connections", "gateways", "said", "over"),
    [
        (0, 1, "0 connections", False),
        (None, 1, "connections unknown: none of its gateways says", False),
        (None, 0, "connections unknown: it has no gateways to count them", True),
    ],
)
def test_a_wait_ends_where_nobody_can_count(connections, gateways, said, over) -> None:
    found = {"names": [], "left": 0.0, "connections": connections, "gateways": gateways,
             "empty": False}  # fmt: skip
    assert said in _how_far(found)
    assert _waited_for(found) == over
