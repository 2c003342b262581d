"""The control process's heart: facts in, blobs out.

Level-triggered: whatever changes calls `mark`; one loop looks at the facts as they are and
publishes what follows. Databases and configuration make `Knowledge` (slow, in a thread),
the state of the sites makes answers (milliseconds).
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from lbctl.errors import LbctlError
from lbctl.gslb import geo
from lbctl.gslb.answers import Answers, read_names
from lbctl.gslb.board import Board
from lbctl.gslb.compiler import Compiler
from lbctl.gslb.crew import Tally
from lbctl.gslb.geo import Database, Kind
from lbctl.gslb.knowledge import Knowledge, learn, read_databases
from lbctl.gslb.model import Gslb
from lbctl.gslb.overview import Overview
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.regions import RegionMap
from lbctl.gslb.regions import read as read_regions
from lbctl.gslb.responder import Responder
from lbctl.model import Network

WATCH = 2.0  # seconds between looks at the database files
LOOK = 0.2  # seconds between looks at what time alone changes (silence)

Load = Callable[[], Gslb]  # reads the configuration; raises LbctlError


@dataclass
class Control:
    """Everything one GSLB server knows. load: reads the configuration anew."""

    load: Load
    board: Board
    gslb: Gslb
    responder: Responder  # for TCP
    overview: Overview
    tally: Tally = field(default_factory=Tally)
    weather: Weather = field(default_factory=Weather)
    errors: dict[str, str] = field(default_factory=dict)  # what is wrong now, by what
    changes: int = 0
    turns: int = 0  # of the loop: a sign of life
    slow: str = ""  # why workers run on Python alone, if they do
    _known: Knowledge | None = None
    _compiler: Compiler | None = None
    _answers: bytes = b""
    _maps: list[RegionMap] = field(default_factory=list)
    _stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def known(self) -> Knowledge:
        assert self._known is not None  # `start` has run
        return self._known

    @property
    def maps(self) -> list[RegionMap]:
        return self._maps

    def mark(self) -> None:
        """Something changed: look."""
        self._dirty.set()

    async def start(self) -> None:
        """Read the databases and publish the first answers. Raises LbctlError."""
        self._stamps = self._stat()
        await self._learn(self.gslb, {}, again=True)

    async def run(self) -> None:
        """Publish what follows from the facts, for ever."""
        last_watch = time.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._dirty.wait(), LOOK)
            self._dirty.clear()
            self.turns += 1
            if time.monotonic() - last_watch >= WATCH:
                last_watch = time.monotonic()
                await self._watch()
            await self._follow()

    async def reload(self) -> None:
        """Read the configuration again. Raises LbctlError; what runs stays."""
        gslb = self.load()
        self._stamps = self._stat(gslb)
        await self._learn(gslb, self.known.databases)
        self.mark()

    async def _watch(self) -> None:
        """Take databases that were replaced."""
        stamps = self._stat()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            await self._learn(self.gslb, self.known.databases, again=True)
        except LbctlError as error:
            self.errors["databases"] = str(error)
        else:
            self.errors.pop("databases", None)

    def _stat(self, gslb: Gslb | None = None) -> dict[str, tuple[int, int, int]]:
        stamps = {}
        for kind in Kind:
            path = getattr((gslb or self.gslb).databases, kind)
            try:
                if path:
                    stamps[path] = geo.stamp(path)
            except OSError:
                stamps[path] = (0, 0, 0)  # gone: reading it will say so
        return stamps

    async def _learn(
        self, gslb: Gslb, before: Mapping[Kind, Database], *, again: bool = False
    ) -> None:
        measured = _measured(gslb, self.weather)

        def work() -> Knowledge:
            return learn(gslb, read_databases(gslb, before, again=again), measured)

        known = await asyncio.to_thread(work)
        compiler = known.compiler()
        if self._compiler is not None:
            compiler.adopt(self._compiler)
        self.gslb, self.overview.gslb = gslb, gslb
        self._known, self._compiler = known, compiler
        self.weather = self.overview.weather(time.monotonic())
        answers = compiler.answers(self.weather)
        self._publish({"names": known.names, "networks": known.networks, "answers": answers})

    async def _follow(self) -> None:
        """Publish the answers that follow from the weather, if they are others."""
        weather = self.overview.weather(time.monotonic())
        if _measured(self.gslb, weather) != self.known.measured:
            self.weather = weather
            await self._learn(self.gslb, self.known.databases)
            return
        if weather == self.weather:
            return
        self.weather = weather
        assert self._compiler is not None
        answers = self._compiler.answers(weather)
        if answers != self._answers:
            self._publish({"answers": answers})

    def _publish(self, blobs: dict[str, bytes]) -> None:
        self.board.put(blobs)
        self.changes += 1
        self._answers = blobs["answers"]
        answers = Answers(memoryview(self._answers))
        if "networks" in blobs:
            self._maps = read_regions(memoryview(blobs["networks"]))
            self.responder.load(read_names(memoryview(blobs["names"])), answers, self._maps)
        else:
            self.responder.swap(answers)

    def standing(self, site: str) -> Standing:
        return self.weather.standings.get((site, ""), Standing())

    def longest_ttl(self, site: str) -> int:
        """Seconds after which no resolver remembers `site`, once it left the answers."""
        ttls = [
            name.ttl
            for zone in self.gslb.zones
            for name in zone.names
            if any(member.site == site for member in name.members)
        ]
        return max(ttls, default=0)


def _measured(gslb: Gslb, weather: Weather) -> frozenset[Network]:
    """The networks that tables tell apart for `measured`: those of the file always, so that
    a target that falls silent changes answers only."""
    return frozenset(gslb.measure) | frozenset(weather.times)
