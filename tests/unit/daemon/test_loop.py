"""The loop that programs the data path, with one that fails as a whole now and then."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lbctl.daemon.control import Manner
from lbctl.daemon.fake import OpenedFake
from lbctl.daemon.loop import ReconcileLoop
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.reconcile import Reconciler
from lbctl.dataplane.fake import FakePlane, FakeVips
from lbctl.dataplane.port import RemoveServer
from lbctl.errors import DataPlaneError
from lbctl.model import Config, Endpoint, Listen, Table

from .test_control import FILE, WEIGHT, Desk

ROUTERS = "virtual_routers: {edge: {vrid: 7, addresses: 192.0.2.10}}\n"
WEB = Listen.parse("192.0.2.10:80/tcp")


class FailingPlane(FakePlane):
    """trouble: what it says instead of working. routers: those it was told of, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble = ""
        self.observed = 0
        self.routers: list[list[str]] = []

    def observe(self) -> Table:
        self._maybe()
        self.observed += 1
        return super().observe()

    def tend(self) -> None:
        self._maybe()

    def catch_up(self) -> bool:
        self._maybe()
        return True

    def _maybe(self) -> None:
        if self.trouble:
            raise DataPlaneError(self.trouble)


class Opened(OpenedFake):
    def follow(self, config: Config) -> None:
        assert isinstance(self.plane, FailingPlane)
        self.plane.routers.append([*config.routers])


def story(home: Path, work: Callable[[Desk, FailingPlane, ReconcileLoop], Awaitable]) -> None:
    async def run() -> None:
        desk, plane = Desk(home), FailingPlane()
        control = await desk.open()
        async with PlaneThread(lambda: Opened(plane, FakeVips(), "a test")) as thread:
            loop = ReconcileLoop(control, Reconciler(), thread, desk.journal, desk.time.clock)
            control.on_touched.append(loop.touched)
            running = asyncio.create_task(loop.run())
            async with asyncio.timeout(20):
                await work(desk, plane, loop)
                loop.stop()
                await running

    asyncio.run(run())


def test_when_it_has_settled_what_was_changed_is_with_the_data_path(tmp_path: Path) -> None:
    async def work(desk: Desk, plane: FailingPlane, loop: ReconcileLoop) -> None:
        await loop.settle()
        for weight in (5, 6, 7):
            await loop.control.override(WEIGHT, weight, Manner())
            await loop.settle()
            held = plane.observe().services[WEB].destinations
            assert held[Endpoint.parse("198.51.100.1:8080")].weight == weight
        assert loop.operations == 7

    story(tmp_path, work)


def test_the_data_path_hears_of_virtual_routers_that_come_and_go(tmp_path: Path) -> None:
    """Also while the daemon runs: a new gateway of a pair must take what its peer tells."""

    async def work(desk: Desk, plane: FailingPlane, loop: ReconcileLoop) -> None:
        await loop.settle()
        for text in (FILE + ROUTERS, FILE + ROUTERS + "# again", FILE):
            await loop.control.take_file(text.encode(), "lbctl.yaml", Manner())
            await loop.settle()
        assert plane.routers == [["edge"], []]

    story(tmp_path, work)


def test_the_intent_is_on_disk_before_the_kernel_has_it(tmp_path: Path) -> None:
    async def work(desk: Desk, plane: FailingPlane, loop: ReconcileLoop) -> None:
        await loop.settle()
        saved = []

        def note(_: object) -> bool:
            state, _ = desk.directory.load()
            saved.append([one.value for one in state.overrides])
            return False

        plane.refuses = note
        await loop.control.override(WEIGHT, 5, Manner())
        await loop.settle()
        assert saved == [[5]]

    story(tmp_path, work)


def test_a_data_path_that_does_not_answer_is_told_once_and_asked_again(tmp_path: Path) -> None:
    async def work(desk: Desk, plane: FailingPlane, loop: ReconcileLoop) -> None:
        await loop.settle()
        plane.trouble = "maps: gone"
        loop.reconciler.doubt()
        for _ in range(3):
            await loop.settle()
        assert loop.trouble == "maps: gone"
        assert desk.told.count("data path: maps: gone") == 1
        plane.trouble = ""
        await loop.settle()
        assert loop.trouble == ""

    story(tmp_path, work)


@pytest.mark.parametrize("what", ["tend", "hear"])
def test_housekeeping_that_fails_is_told_and_what_is_held_read_back(
    tmp_path: Path, what: str
) -> None:
    async def work(desk: Desk, plane: FailingPlane, loop: ReconcileLoop) -> None:
        await loop.settle()
        seen = plane.observed
        plane.apply([RemoveServer(WEB, Endpoint.parse("198.51.100.1:8080"))])
        plane.trouble = "maps: gone"
        await getattr(loop, what)()
        plane.trouble = ""
        await loop.settle()
        assert plane.observed > seen
        assert "data path: maps: gone" in desk.told
        assert len(plane.observe().services[WEB].destinations) == 2

    story(tmp_path, work)
