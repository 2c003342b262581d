"""One file on both gateways or on neither, whichever word between them is lost."""

import asyncio
import zlib
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
NEWER = NEW.replace("weight: 5", "weight: 7")
LONG = 60.0  # seconds for each step: nothing here waits for its end
Lost = Callable[[Word], bool]


class Half:
    """One gateway. other: where its words go; lost: which of them do not arrive."""

    def __init__(self, home: Path, lost: Lost) -> None:
        home.mkdir()
        self.desk, self.lost, self.heard = Desk(home), lost, list[Vote]()
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
        self.commit = PairCommit(self.control, loop, self.desk.journal, self.send, LONG)

    def send(self, word: Word) -> bool:
        assert self.other is not None
        if self.lost(word):
            self.miss(word, self.other)
        else:
            if isinstance(word, Vote):
                self.other.heard.append(word)
            self.other.commit.hear(word)  # type: ignore[arg-type]
        return True

    def miss(self, word: Word, other: "Half") -> None:
        """End the time of who waits for what is lost."""
        if isinstance(word, Undo):
            other.end_time()
            return
        asking = other if isinstance(word, Vote) else self
        (answer,) = asking.commit._votes.values()
        answer.set_exception(TimeoutError())

    def end_time(self) -> None:
        """Of what is armed here, as its timer does."""
        armed = self.commit._armed
        assert armed is not None
        assert armed.timer is not None
        assert armed.timer.when() <= asyncio.get_running_loop().time() + 3 * LONG
        self.commit.hear(Undo(armed.proposal.id))

    @property
    def weight(self) -> int:
        return self.control.world.config.services["web"].servers["app1"].weight


def story(home: Path, lost: Lost, work: Callable[[Half, Half], Awaitable[None]]) -> None:
    async def run() -> None:
        here, there = Half(home / "here", lost), Half(home / "there", lost)
        here.other, there.other = there, here
        async with asyncio.timeout(60), AsyncExitStack() as stack:
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
        assert (here.weight, there.weight) == (5, 5)
        assert await apply(there) == ""  # it holds nothing that could still go back

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
        assert f"the peer did not answer within {LONG:g} s" in said
        await both(here, there, (1, 1))
        assert await apply(here) == said  # nothing is left armed that would refuse another

    story(tmp_path, lost, work)


@pytest.mark.parametrize("cut", [True, False])
def test_who_only_proposed_and_went_away_is_in_nobody_s_way(tmp_path: Path, cut: bool) -> None:
    async def work(here: Half, there: Half) -> None:
        there.commit.hear(Propose("1", zlib.compress(NEW.encode()), "new.yaml", "ada"))
        await asyncio.to_thread(eventually, lambda: here.heard)
        assert here.heard == [Vote("1", "armed")]
        assert "another one is under way" in await apply(there)
        if cut:
            there.commit.cut()
        else:  # it is forgotten in a while
            there.end_time()
            await asyncio.gather(*there.commit._tasks)
        assert await apply(there) == ""
        assert (here.weight, there.weight) == (5, 5)

    story(tmp_path, lambda word: False, work)


def test_what_was_applied_since_is_not_taken_back(tmp_path: Path) -> None:
    async def work(here: Half, there: Half) -> None:
        first = Propose("1", zlib.compress(NEW.encode()), "new.yaml", "ada")
        there.commit.hear(first)
        there.commit.hear(Switch("1"))
        await asyncio.to_thread(eventually, lambda: Vote("1", "switched") in here.heard)
        await there.control.take_file(NEWER.encode(), "newer.yaml", BY_ADA)
        there.commit.hear(Undo("1"))
        await asyncio.to_thread(eventually, lambda: "back to generation" in there.desk.told[-1])
        assert there.weight == 7

    story(tmp_path, lambda word: False, work)


def test_a_switch_that_is_taken_back_at_once_is_taken_back(tmp_path: Path) -> None:
    """Words that come together are carried out one after the other."""

    async def work(here: Half, there: Half) -> None:
        there.commit.hear(Propose("1", zlib.compress(NEW.encode()), "new.yaml", "ada"))
        there.commit.hear(Switch("1"))
        there.commit.hear(Undo("1"))
        await asyncio.to_thread(eventually, lambda: Vote("1", "switched") in here.heard)
        await both(here, there, (1, 1))

    story(tmp_path, lambda word: False, work)


def test_garbage_is_refused(tmp_path: Path) -> None:
    async def work(here: Half, there: Half) -> None:
        there.commit.hear(Propose("1", b"no file", "new.yaml", "ada"))
        await asyncio.to_thread(eventually, lambda: here.heard)
        (vote,) = here.heard
        assert "the proposed file is garbage" in vote.refused
        assert await apply(there) == ""

    story(tmp_path, lambda word: False, work)


def test_a_peer_that_sealed_and_was_not_heard_keeps_the_new_one(tmp_path: Path) -> None:
    """`lbctl ha peer` then says that the file is not the same."""

    async def work(here: Half, there: Half) -> None:
        assert "rolled back" in await apply(here)
        await both(here, there, (1, 5))

    story(tmp_path, voted("sealed"), work)
