"""Counters for those who ask, from a data path that may be slow, busy or broken."""

import asyncio
from collections.abc import Awaitable, Callable

from lbctl.daemon.fake import OpenedFake
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.sampler import Sampler
from lbctl.dataplane.fake import FakePlane, FakeVips
from lbctl.dataplane.port import Stats
from lbctl.errors import DataPlaneError

from .stand import VirtualTime


class CountingPlane(FakePlane):
    """Numbers its snapshots. trouble: it has none to give."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.trouble = ""

    def stats(self) -> Stats:
        if self.trouble:
            raise DataPlaneError(self.trouble)
        self.reads += 1
        return Stats(writes={"reads": self.reads})


def story(work: Callable[[CountingPlane, PlaneThread, Sampler, VirtualTime], Awaitable]) -> None:
    async def run() -> None:
        plane, time = CountingPlane(), VirtualTime()
        async with PlaneThread(lambda: OpenedFake(plane, FakeVips(), "a test")) as thread:
            await work(plane, thread, Sampler(thread, time.clock), time)

    asyncio.run(run())


def test_a_snapshot_is_read_again_when_it_is_too_old() -> None:
    async def work(plane, thread, sampler, time) -> None:
        await sampler.fresh(1.0)
        time.now = 1.0
        await sampler.fresh(1.0)
        assert plane.reads == 1
        time.now = 1.5
        assert (await sampler.fresh(1.0)).writes == {"reads": 2}

    story(work)


def test_those_who_ask_at_once_share_a_snapshot() -> None:
    async def work(plane, thread, sampler, time) -> None:
        await asyncio.gather(*(sampler.fresh(1.0) for _ in range(10)))
        assert plane.reads == 1

    story(work)


def test_a_data_path_in_trouble_leaves_the_last_snapshot_and_says_why() -> None:
    async def work(plane, thread, sampler, time) -> None:
        await sampler.fresh(1.0)
        plane.trouble, time.now = "maps: gone", 9.0
        assert (await sampler.fresh(1.0)).writes == {"reads": 1}
        assert sampler.error == "maps: gone"
        plane.trouble, time.now = "", 19.0
        await sampler.fresh(1.0)
        assert sampler.error == ""

    story(work)


def test_a_glance_does_not_wait_for_a_busy_data_path() -> None:
    async def work(plane, thread, sampler, time) -> None:
        await sampler.fresh(1.0)
        time.now = 9.0
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def busy() -> None:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(timeout=10)

        plane.tend = busy
        tending = asyncio.create_task(thread.tend())
        await begun.wait()
        assert (await sampler.glance()).writes == {"reads": 1}
        go_on.set()
        await tending
        assert (await sampler.fresh(0.5)).writes == {"reads": 2}

    story(work)


def test_a_large_table_is_read_as_seldom_as_it_takes_long() -> None:
    async def work(plane, thread, sampler, time) -> None:
        await sampler.fresh(0.0)
        assert sampler.pause == 2.0
        read = plane.stats

        def slow() -> Stats:
            time.now += 3.0
            return read()

        plane.stats = slow
        time.now = 1.0
        await sampler.fresh(0.0)
        assert sampler.pause == 30.0

    story(work)
