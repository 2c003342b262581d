"""The reconcile loop: the only place that programs the data path."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lbctl.daemon.acts import Refusal
from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.journal import Journal
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.reconcile import AT_ONCE, FIRST_RETRY, LAST_RETRY, Reconciler
from lbctl.errors import DataPlaneError
from lbctl.events import DatapathRetired, Trouble
from lbctl.model import Router

IDLE = 10.0  # seconds; also the proof of life for the watchdog


@dataclass
class ReconcileLoop:
    """Runs passes when they are due.

    turns: how often it looked, for the watchdog. operations: those done since it started.
    """

    control: Control
    reconciler: Reconciler
    plane: PlaneThread
    journal: Journal
    clock: Clock
    turns: int = 0
    trouble: str = ""  # why the data path as a whole does not answer
    operations: int = 0
    adopted: int = 0  # listens that were there when this process first looked
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _turned: asyncio.Condition = field(default_factory=asyncio.Condition)
    _begun: int = 0
    _ended: int = 0
    _stopping: bool = False
    _retired: bool = False
    _routers: Mapping[str, Router] = field(default_factory=dict)

    def touched(self, services: Iterable[str]) -> None:
        """These may have to be served differently now."""
        self.reconciler.mark(services)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """End after the turn that is under way."""
        self._stopping = True
        self._wake.set()

    async def settle(self) -> None:
        """Until a pass that began after this call has ended: what was marked before is then
        with the data path, or refused by it."""
        wanted = self._begun + 1
        self._wake.set()
        async with self._turned:
            await self._turned.wait_for(lambda: self._ended >= wanted)

    async def run(self) -> None:
        """Until `stop`."""
        delay = FIRST_RETRY
        while not self._stopping:
            self._wake.clear()
            self._begun += 1
            try:
                await self._turn()
            except DataPlaneError as error:
                self._tell_trouble(str(error))
                self.reconciler.doubt()
                wait, delay = delay, min(delay * 2, LAST_RETRY)
            else:
                self.trouble, delay = "", FIRST_RETRY
                wait = self._until_due()
            self._ended = self._begun
            async with self._turned:
                self._turned.notify_all()
            await self._sleep(wait)

    async def _turn(self) -> None:
        """Look at the time, and make passes until nothing is due."""
        self.turns += 1
        self.control.pass_time()
        await self._follow()
        while self.reconciler.deadline <= self.clock.now():
            await self._pass()
        await self.control.save()

    async def _follow(self) -> None:
        """Tell the data path of virtual routers that are others than before."""
        config = self.control.world.config
        if config.routers != self._routers:
            self._routers = config.routers
            await self.plane.follow(config)

    async def _pass(self) -> None:
        if self.reconciler.must_observe(self.clock.now()):
            held = await self.plane.observe(self.clock.now())
            if self.reconciler.held is None:
                self.adopted = len(held.table.services)
                self.control.world.start_from(held.table)
            self.reconciler.observed(held.table, held.vips, self.clock.now())
        step = self.reconciler.step(self.control.world, self.clock.now())
        self.journal.tell(*step.events)
        refusals: list[Refusal] = []
        if step.acts:
            await self.control.save_intent()
            refusals = await self.plane.carry_out(step)
            await self.control.save(at_once=True)  # before it counts as done
            self.operations += len(step.acts) - len(refusals)
        self.journal.tell(*self.reconciler.finish(step, refusals, self.clock.now()))
        self.control.turn_away(self.reconciler.outside())

    async def retire(self) -> None:
        """Take down what another data path of ours left, once; not while this one lacks
        anything."""
        if self._retired or self.trouble or self.reconciler.stuck:
            return
        try:
            if gone := await self.plane.retire():
                self.journal.tell(DatapathRetired(gone))
        except DataPlaneError as error:
            self._in_doubt(error)
        else:
            self._retired = True

    async def tend(self) -> None:
        """Let the data path do its housekeeping."""
        await self.retire()
        try:
            await self.plane.tend()
        except DataPlaneError as error:
            self._in_doubt(error)

    async def hear(self) -> None:
        """Take the kernel's news in; what it refused before may be possible now."""
        try:
            retry = await self.plane.catch_up()
        except DataPlaneError as error:
            self._in_doubt(error)
        else:
            if retry:
                self.reconciler.retry_now(self.clock.now())
                self._wake.set()

    def _in_doubt(self, error: DataPlaneError) -> None:
        """The next pass looks at what is held, and says when all is well again."""
        self._tell_trouble(str(error))
        self.reconciler.doubt()
        self._wake.set()

    def _tell_trouble(self, error: str) -> None:
        if error != self.trouble:
            self.journal.tell(Trouble("data path", error))
        self.trouble = error

    def _until_due(self) -> float:
        moments = [self.reconciler.deadline, self.control.deadline]
        due = min(moment for moment in moments if moment is not None)
        return 0.0 if due == AT_ONCE else max(0.0, min(due - self.clock.now(), IDLE))

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
