"""What a peer says of orders, live changes and health, and what is made of it here."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lbctl.daemon.hearsay import Hearsay
from lbctl.ha import items
from lbctl.health.judge import Health
from lbctl.model import ServerName, parse_frontend
from lbctl.world import Admin, Order

from .test_control import APP1_NAME, BY_ADA, FILE, WEIGHT, Desk

WEB = parse_frontend("192.0.2.10:80/tcp")
OFFSET = 100.0  # of our clock to the peer's
CHANGE = items.Change(9, WEIGHT, 7, "bigger", "bob", 50.0, None)
CHECKED = FILE.replace("    drain:", "    check: {type: tcp}\n    drain:")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, CHECKED)


def listen(desk: Desk, story: Callable[[Hearsay], Awaitable[None]]) -> list[str]:
    """Run `story`; returns what was complained of."""
    complaints: list[str] = []

    async def whole() -> None:
        control = await desk.open()
        await story(Hearsay(control, desk.touched.append, complaints.append))

    asyncio.run(whole())
    return complaints


def test_a_live_change_of_the_author_holds_here_and_goes_when_it_is_taken_back(desk: Desk) -> None:
    async def story(heard: Hearsay) -> None:
        await heard.take_changes({WEIGHT: CHANGE}, {WEB}, set(), OFFSET)
        (one,) = heard.control.intent.overrides
        assert (one.id, one.value, one.reason, one.by, one.since) == (1, 7, "bigger", "bob", 150.0)
        await heard.take_changes({WEIGHT: CHANGE}, {WEB}, set(), OFFSET)  # said again
        assert heard.control.intent.overrides == (one,)
        await heard.take_changes({WEIGHT: None}, {WEB}, set(), OFFSET)
        assert heard.control.intent.overrides == ()

    assert listen(desk, story) == []
    assert desk.told[-1].endswith("dropped (taken back on the other gateway)")


def test_where_we_are_the_author_the_peer_changes_nothing(desk: Desk) -> None:
    async def story(heard: Hearsay) -> None:
        await heard.control.override(WEIGHT, 5, BY_ADA)
        before = heard.control.intent.overrides
        order = Order(Admin.DRAIN, 1.0, 301.0)
        for change in (CHANGE, None):
            await heard.take_changes({WEIGHT: change}, set(), {WEB}, OFFSET)
        heard.take_orders({"web/app1": order}, set(), {WEB}, OFFSET)
        heard.take_verdicts({"web/app1": "down"}, set(), {WEB})
        assert heard.control.intent.overrides == before
        assert heard.control.world.orders == {}
        assert heard.control.world.sightings == {}
        assert list(heard.changes({WEB}, set())) != []

    assert listen(desk, story) == []


def test_a_gateway_that_gives_a_listen_away_takes_nothing_back(desk: Desk) -> None:
    async def story(heard: Hearsay) -> None:
        await heard.take_changes({WEIGHT: CHANGE}, {WEB}, set(), OFFSET)
        heard.take_orders({"web/app1": Order(Admin.DRAIN, 1.0, 301.0)}, {WEB}, set(), OFFSET)
        await heard.take_changes({WEIGHT: None}, set(), set(), OFFSET)
        heard.take_orders({"web/app1": None}, set(), set(), OFFSET)
        assert len(heard.control.intent.overrides) == 1
        assert heard.control.world.orders[APP1_NAME].since == 101.0
        assert list(heard.changes(set(), {WEB})) == []  # and what is not ours is not said

    assert listen(desk, story) == []


def test_what_was_taken_back_without_a_line_is_found_in_a_whole_copy(desk: Desk) -> None:
    async def story(heard: Hearsay) -> None:
        await heard.take_changes({WEIGHT: CHANGE}, {WEB}, set(), OFFSET)
        mine = ("services", "web", "servers", "app2", "weight")
        await heard.control.override(mine, 5, BY_ADA)  # made here: not the peer's to forget
        assert heard.left_over({WEB}, {items.change_key(WEIGHT)}) == {}
        assert heard.left_over({WEB}, set()) == {WEIGHT: None}
        assert heard.left_over(set(), set()) == {}

    assert listen(desk, story) == []


def test_a_service_that_was_deleted_there_comes_back_when_that_is_taken_back(desk: Desk) -> None:
    """Without any listen the author says nothing for a while."""
    path = ("services", "web")
    gone = items.Change(9, path, None, "", "bob", 50.0, None)

    async def story(heard: Hearsay) -> None:
        await heard.take_changes({path: gone}, {WEB}, set(), OFFSET)
        assert heard.control.world.config.services == {}
        await heard.take_changes({path: None}, set(), set(), OFFSET)
        assert heard.left_over(set(), set()) == {}
        assert heard.left_over({WEB}, set()) == {path: None}

    assert listen(desk, story) == []


def test_a_change_that_does_not_fit_the_file_here_is_named_and_changes_nothing(desk: Desk) -> None:
    bad = items.Change(9, WEIGHT, "many", "", "bob", 50.0, None)

    async def story(heard: Hearsay) -> None:
        await heard.take_changes({WEIGHT: bad}, {WEB}, set(), OFFSET)
        assert heard.control.intent.overrides == ()

    (complaint,) = listen(desk, story)
    assert complaint.startswith("live changes of the peer do not fit the file here: ")


def test_a_change_that_is_too_large_for_a_message_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(heard: Hearsay) -> None:
        await heard.control.override(WEIGHT, 5, BY_ADA)
        assert len(list(heard.changes({WEB}, set()))) == 1
        monkeypatch.setattr("lbctl.daemon.hearsay.LARGEST", 20)
        assert list(heard.changes({WEB}, set())) == []

    (complaint,) = listen(desk, story)
    assert complaint.startswith("override 1: too large for the peer (")


def test_a_server_that_no_check_here_has_seen_is_as_the_author_sees_it(desk: Desk) -> None:
    async def story(heard: Hearsay) -> None:
        control = heard.control
        heard.take_verdicts({"web/app1": "down", "web/app9": "up"}, {WEB}, set())
        service = control.world.config.services["web"]
        seen = control.world.seen(service, service.servers["app1"])
        assert seen is not None
        assert (seen.health, seen.evidence) == (Health.DOWN, "as the other gateway sees it")
        heard.take_verdicts({"web/app1": "up"}, {WEB}, set())  # ours counts from then on
        seen = control.world.seen(service, service.servers["app1"])
        assert seen is not None
        assert seen.health is Health.DOWN
        assert list(heard.differing_verdicts()) == ["web/app1: up there, down here"]

    assert listen(desk, story) == []


def test_an_order_of_the_author_holds_here(desk: Desk) -> None:
    async def story(heard: Hearsay) -> None:
        order = Order(Admin.DRAIN, 1.0, 301.0, None, "kernel", "bob")
        heard.take_orders({"web/app1": order, "web/gone": order}, {WEB}, set(), OFFSET)
        assert heard.control.world.orders.keys() == {ServerName("web", "app1")}
        assert heard.control.world.orders[APP1_NAME].deadline == 401.0
        heard.take_orders({"web/app1": None}, {WEB}, set(), OFFSET)
        assert heard.control.world.orders == {}

    assert listen(desk, story) == []
