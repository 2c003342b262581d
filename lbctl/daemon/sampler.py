"""The data path's counters, read now and then, so that an answer need not wait for them."""

import asyncio
from dataclasses import dataclass, field

from lbctl.daemon.clock import Clock
from lbctl.daemon.plane import PlaneThread
from lbctl.dataplane.port import Stats
from lbctl.errors import DataPlaneError

EVERY = 2.0  # seconds


@dataclass
class Sampler:
    """latest: the last snapshot. at: when it was taken."""

    plane: PlaneThread
    clock: Clock
    latest: Stats = field(default_factory=Stats)
    at: float = float("-inf")
    error: str = ""
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def fresh(self, age: float) -> Stats:
        """A snapshot at most `age` seconds old; those who ask at once share one."""
        async with self._one:
            if self.clock.now() - self.at > age:
                try:
                    self.latest = await self.plane.stats()
                except DataPlaneError as error:
                    self.error = str(error)
                else:
                    self.error = ""
                self.at = self.clock.now()
        return self.latest
