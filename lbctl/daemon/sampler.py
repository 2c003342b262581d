"""The data path's counters, read now and then, so that an answer need not wait for them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from lbctl.daemon.clock import Clock
from lbctl.daemon.plane import PlaneThread
from lbctl.dataplane.port import Stats
from lbctl.errors import DataPlaneError

EVERY = 2.0  # seconds
SHARE = 0.1  # of the time, at most: changes wait for a snapshot that is being taken
RECENT = 0.5
PATIENCE = 0.2


@dataclass
class Sampler:
    """latest: the last snapshot. at: when it was begun. hearers: told each new one."""

    plane: PlaneThread
    clock: Clock
    latest: Stats = field(default_factory=Stats)
    at: float = float("-inf")
    error: str = ""
    hearers: list[Callable[[Stats], None]] = field(default_factory=list)
    _took: float = 0.0  # seconds, the last one
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)
    _glances: set[asyncio.Task[Stats]] = field(default_factory=set)

    async def fresh(self, age: float) -> Stats:
        """A snapshot that was begun at most `age` seconds before this call (0: after it);
        those who ask at once share one."""
        oldest = self.clock.now() - age
        async with self._one:
            if self.at < oldest:
                begun = self.clock.now()
                try:
                    self.latest = await self.plane.stats()
                except DataPlaneError as error:
                    self.error = str(error)
                else:
                    self.error = ""
                    for hearer in self.hearers:
                        hearer(self.latest)
                self.at, self._took = begun, self.clock.now() - begun
        return self.latest

    @property
    def pause(self) -> float:
        """Seconds between two snapshots that nobody asked for."""
        return max(EVERY, self._took / SHARE)

    async def keep(self) -> None:
        """For ever: a snapshot now and then."""
        while True:
            await asyncio.sleep(self.pause)
            await self.fresh(EVERY / 2)

    async def glance(self) -> Stats:
        """A recent snapshot; an old one where the data path is busy (it may be compiling)."""
        task = asyncio.create_task(self.fresh(RECENT))
        self._glances.add(task)
        task.add_done_callback(self._glances.discard)
        await asyncio.wait({task}, timeout=PATIENCE)
        return self.latest
