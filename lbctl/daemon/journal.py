"""Where events go: the history, the log, and whoever follows."""

import asyncio
import logging
from collections.abc import AsyncIterator

from lbctl.daemon.clock import Clock
from lbctl.events import AnyEvent, History, Record

log = logging.getLogger("lbctl")


class Journal:
    """Takes each event once. Followers read from the history at their own pace, so a slow
    one holds nobody up; it misses what the history no longer keeps."""

    def __init__(self, clock: Clock) -> None:
        self.history = History()
        self._clock = clock
        self._more = asyncio.Event()

    def tell(self, *events: AnyEvent) -> None:
        for event in events:
            record = self.history.add(self._clock.wall(), event)
            log.info("%s", record.text)
        if events:
            self._more.set()
            self._more = asyncio.Event()

    async def follow(self, after: int) -> AsyncIterator[Record]:
        """Records after number `after`, for ever."""
        while True:
            more = self._more
            for record in self.history.since(after):
                after = record.number
                yield record
            await more.wait()
