"""The control loop goes on, whatever it is told."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from lbctl.errors import LbctlError
from lbctl.gslb.board import Board
from lbctl.gslb.control import Control
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.eyes import Eyes
from lbctl.gslb.geo import Kind
from lbctl.gslb.model import Databases, Gslb
from lbctl.gslb.overview import Overview
from lbctl.gslb.reports import DrainOrder, SiteReport
from lbctl.gslb.responder import Responder
from lbctl.gslb.rrl import RateLimit
from tests.unit.gslb.scene import GSLB
from tests.unit.gslb.test_files import database


def control_of(gslb: Gslb, directory: Path) -> Control:
    responder = Responder(RateLimit(), Cookies(b"0123456789abcdef"), b"")
    return Control(lambda: gslb, Board(directory), gslb, responder, Overview(gslb))


async def turns(control: Control, count: int) -> None:
    """Until the loop of `control` has turned so often more, or ended."""
    until = control.turns + count
    task = asyncio.create_task(control.run())
    try:
        async with asyncio.timeout(20):
            while control.turns < until and not task.done():
                control.mark()
                await asyncio.sleep(0)
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_word_that_cannot_be_followed_does_not_end_the_loop(tmp_path: Path) -> None:
    control = control_of(GSLB, tmp_path)

    async def story() -> None:
        await control.start()
        # Past every check of reports: the loop has to hold by itself.
        odd = SiteReport("seoul", times={"2001:db8::1/128": 0.02})
        control.overview.reported("seoul", 0, odd, asyncio.get_running_loop().time())
        await turns(control, 5)
        control.overview.reports.clear()
        control.overview.drains["tokyo"] = DrainOrder(True, 1.0)
        await turns(control, 5)

    asyncio.run(story())
    assert control.standing("tokyo").draining  # it follows what came after


def test_a_reload_that_cannot_be_answered_changes_nothing(tmp_path: Path) -> None:
    control = control_of(GSLB, tmp_path)

    async def story() -> None:
        await control.start()
        before = (control.known, control.board.numbers, control.maps)
        control.load = lambda: replace(GSLB, databases=Databases(city=str(tmp_path / "none")))
        with pytest.raises(LbctlError):
            await control.reload()
        assert (control.gslb, control.overview.gslb) == (GSLB, GSLB)
        assert (control.known, control.board.numbers, control.maps) == before

    asyncio.run(story())


def test_what_answers_cannot_hold_is_refused_before_anything_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = control_of(GSLB, tmp_path)

    class Full:
        numbers = control.board.numbers

        def put(self, blobs: object) -> None:
            raise OSError(28, "No space left on device")

    async def story() -> None:
        await control.start()
        before = (control.known, control.weather, control.maps)
        control.board, real = Full(), control.board  # type: ignore[assignment]
        control.load = lambda: replace(GSLB, identity=b"new")
        with pytest.raises(OSError, match="No space"):
            await control.reload()
        assert (control.known, control.weather, control.maps) == before
        assert control.gslb.identity == b""
        control.overview.drains["tokyo"] = DrainOrder(True, 1.0)
        await turns(control, 3)
        assert "No space" in control.errors["answers"]
        control.board = real
        control.overview.drains["tokyo"] = DrainOrder(False, 2.0)
        await turns(control, 3)
        assert control.errors == {}

    asyncio.run(story())


def test_a_reload_and_a_new_database_do_not_undo_each_other(tmp_path: Path) -> None:
    path = database(tmp_path / "city.mmdb")
    old = replace(GSLB, databases=Databases(city=str(path)))
    control = control_of(old, tmp_path)

    async def story() -> None:
        await control.start()
        first = control.known.databases[Kind.CITY]
        database(path, size=24)  # replaced
        control.load = lambda: replace(old, identity=b"new")
        await asyncio.gather(control._watch(), control.reload())
        assert control.gslb.identity == b"new"
        await control._watch()
        assert control.known.databases[Kind.CITY] is not first
        # Replaced a moment before a reload: still to be read.
        second = control.known.databases[Kind.CITY]
        database(path, size=32)
        await control.reload()
        await control._watch()
        assert control.known.databases[Kind.CITY] is not second

    asyncio.run(story())


def test_a_look_that_fails_is_told_and_is_not_the_last(tmp_path: Path) -> None:
    control = control_of(GSLB, tmp_path)
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError("odd")
        if looks == 2:
            assert control.errors == {"look at x": "ZeroDivisionError: odd"}
        if looks > 3:
            raise asyncio.CancelledError

    async def story() -> None:
        eyes = Eyes(control, None, "")  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await eyes._beat("look at x", 0.0, look)

    asyncio.run(story())
    assert (looks, control.errors) == (4, {})
