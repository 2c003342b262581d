"""One file on both gateways or on neither, whichever word between them is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lbctl.daemon.fake import OpenedFake
from lbctl.daemon.loop import ReconcileLoop
from lbctl.daemon.paircommit import PairCommit
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.reconcile import Reconciler
from lbctl.dataplane.fake import FakePlane, FakeVips
from lbctl.errors import LbctlError
from lbctl.ha.words import Propose, Seal, Switch, Undo, Vote, Word
from lbctl.lab.waiting import eventually

from .test_control import BY_ADA, FILE, Desk

NEW = FILE.replace("app1: 198.51.100.1:8080", "app1: {address: '198.51.100.1:8080', weight: 5}")
SHORT = 0.4  # seconds for each step, in place of ten
Lost = Callable[[Word], bool]


class Half:
    """One gateway. other: where its words go; lost: which of them do not arrive."""

    def __init__(self, home: Path, lost: Lost) -> None:
        home.mkdir()
        self.desk, self.lost = Desk(home), lost
        self.other: Half | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        self.control = await self.desk.open()
        plane = PlaneThread(lambda: OpenedFake(FakePlane(), FakeVips(), "a test"))
        thread = await stack.enter_async_context(plane)
        clock = self.desk.time.clock
        loop = ReconcileLoop(self.control, Reconciler(), thread, self.desk.journal, clock)
        self.control.on_touched.append(loop.touched)
        running = asyncio.create_task(loop.run())
        stack.push_async_callback(lambda: running)
        stack.callback(loop.stop)
        self.commit = PairCommit(self.control, loop, self.desk.journal, self.send, SHORT)

    def send(self, word: Word) -> bool:
        assert self.other is not None
        if not self.lost(word):
            self.other.commit.hear(word)  # type: ignore[arg-type]
        return True

    @property
    def weight(self) -> int:
        return self.control.world.config.services["web"].servers["app1"].weight


def story(home: Path, lost: Lost, work: Callable[[Half, Half], Awaitable[None]]) -> None:
    async def run() -> None:
        here, there = Half(home / "here", lost), Half(home / "there", lost)
        here.other, there.other = there, here
        async with asyncio.timeout(20), AsyncExitStack() as stack:
            for half in (here, there):
                await half.open(stack)
            await work(here, there)

    asyncio.run(run())


async def apply(half: Half) -> str:
    """What is said of it; "" where it is done."""
    try:
        await half.commit.apply(NEW.encode(), "new.yaml", BY_ADA, own=False)
    except LbctlError as error:
        return str(error)
    return ""


async def both(here: Half, there: Half, weights: tuple[int, int]) -> None:
    """Until both serve so; the peer may have to find by itself that nobody speaks any more."""
    await asyncio.to_thread(eventually, lambda: (here.weight, there.weight) == weights)


def voted(stage: str) -> Lost:
    return lambda word: isinstance(word, Vote) and word.stage == stage


def test_what_both_confirm_stays(tmp_path: Path) -> None:
    async def work(here: Half, there: Half) -> None:
        assert await apply(here) == ""
        await asyncio.sleep(3 * SHORT)  # when one that nobody sealed would go back
        assert (here.weight, there.weight) == (5, 5)

    story(tmp_path, lambda word: False, work)


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(lambda word: isinstance(word, Propose), id="the proposal"),
        pytest.param(voted("armed"), id="that it is armed"),
        pytest.param(lambda word: isinstance(word, Switch), id="the order to switch"),
        pytest.param(voted("switched"), id="that it has switched"),
        pytest.param(lambda word: isinstance(word, Seal), id="the seal"),
        pytest.param(lambda word: isinstance(word, Seal | Undo), id="the line, once it switched"),
    ],
)
def test_a_word_that_is_lost_leaves_both_with_what_ran_before(tmp_path: Path, lost: Lost) -> None:
    async def work(here: Half, there: Half) -> None:
        said = await apply(here)
        assert f"the peer did not answer within {SHORT:g} s" in said
        await both(here, there, (1, 1))
        assert await apply(here) == said  # nothing is left armed that would refuse another

    story(tmp_path, lost, work)


def test_a_peer_that_sealed_and_was_not_heard_keeps_the_new_one(tmp_path: Path) -> None:
    """`lbctl ha peer` then says that the file is not the same."""

    async def work(here: Half, there: Half) -> None:
        assert "rolled back" in await apply(here)
        await both(here, there, (1, 5))

    story(tmp_path, voted("sealed"), work)
