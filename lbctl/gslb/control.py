"""The control process's heart: facts in, blobs out.

Level-triggered: whatever changes calls `mark`; one loop looks at the facts as they are and
publishes what follows. Databases and configuration make `Knowledge` (slow: in a thread, one
at a time, while answers go on following the sites with what was known before), the state of
the sites makes answers (milliseconds). All is made before any of it is taken, so what cannot
be made leaves everything as it was.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from lbctl.gslb import geo
from lbctl.gslb.answers import Answers, read_names
from lbctl.gslb.board import Board
from lbctl.gslb.compiler import Compiler
from lbctl.gslb.crew import Tally
from lbctl.gslb.geo import Database, Kind
from lbctl.gslb.knowledge import Knowledge, learn, read_databases
from lbctl.gslb.model import Gslb
from lbctl.gslb.orders import Unreadable, read_orders, write_orders
from lbctl.gslb.overview import Overview
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.regions import RegionMap
from lbctl.gslb.regions import read as read_regions
from lbctl.gslb.reports import DrainOrder
from lbctl.gslb.responder import Responder
from lbctl.model import Network

WATCH = 2.0  # seconds between looks at the database files
LOOK = 0.2  # seconds between looks at what time alone changes (silence)

Load = Callable[[], Gslb]  # reads the configuration; raises LbctlError


@dataclass
class Control:
    """Everything one GSLB server knows. load: reads the configuration anew. left_at: since
    when a site is in no answer (monotonic seconds), by site."""

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
    orders: Path | None = None  # the file that keeps the drains over a restart
    left_at: dict[str, float] = field(default_factory=dict)
    started: Gslb | None = None  # what runs since the start, whatever was reloaded
    _known: Knowledge | None = None
    _compiler: Compiler | None = None
    _answers: bytes = b""
    _maps: list[RegionMap] = field(default_factory=list)
    _stamps: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)
    _stale: asyncio.Event = field(default_factory=asyncio.Event)  # other networks are measured
    _kept: dict[str, DrainOrder] = field(default_factory=dict)  # the drains in the file
    _keeper: asyncio.Lock = field(default_factory=asyncio.Lock)
    _learner: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def known(self) -> Knowledge:
        assert self._known is not None  # `start` has run
        return self._known

    @property
    def compiler(self) -> Compiler:
        assert self._compiler is not None  # `start` has run
        return self._compiler

    @property
    def maps(self) -> list[RegionMap]:
        return self._maps

    def mark(self) -> None:
        """Something changed: look."""
        self._dirty.set()

    async def start(self) -> None:
        """Read drains and databases, and publish the first answers. Raises LbctlError."""
        self.started = self.gslb
        if self.orders is not None:
            try:
                self.overview.drains = read_orders(self.orders)
            except Unreadable as error:
                self.errors["drains"] = str(error)
            self._kept = dict(self.overview.drains)
        self._stamps = self._stat()
        await self._learn(self.gslb, {}, again=True)

    async def run(self) -> None:
        """Publish what follows from the facts, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watching())
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._dirty.wait(), LOOK)
                self._dirty.clear()
                self.turns += 1
                await self._told("answers", self._follow())
                await self.keep()

    async def keep(self) -> None:
        """Keep the drains in their file, if they are others; where that fails they hold
        until the next start, and that is told."""
        await self._told("drains", self._keep())

    async def _keep(self) -> None:
        async with self._keeper:
            drains = dict(self.overview.drains)
            if self.orders is not None and drains != self._kept:
                await asyncio.to_thread(write_orders, self.orders, drains)
                self._kept = drains
                self.errors.pop("drains", None)

    async def _watching(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stale.wait(), WATCH)
            self._stale.clear()
            await self._told("databases", self._watch())
            await self._told("measured", self._remeasure())

    async def _told(self, what: str, work: Awaitable[None]) -> None:
        """Do a part of the work. Whatever goes wrong in it is told, and what was published
        stays: a server that ended would leave every query unanswered."""
        try:
            await work
        except Exception as error:
            self.errors[what] = str(error) or type(error).__name__

    async def reload(self) -> None:
        """Read the configuration again. Raises LbctlError; what runs stays."""
        async with self._learner:
            gslb = await asyncio.to_thread(self.load)
            stamps = self._stat(gslb)
            await self._learn(gslb, self.known.databases)
            # A file that was replaced a moment ago is still to be read: the watch sees it.
            self._stamps = {path: self._stamps.get(path, new) for path, new in stamps.items()}
        self.mark()

    async def _watch(self) -> None:
        """Take databases that were replaced."""
        async with self._learner:
            stamps = self._stat()
            if stamps != self._stamps:
                self._stamps = stamps
                await self._learn(self.gslb, self.known.databases, again=True)
                self.errors.pop("databases", None)

    async def _remeasure(self) -> None:
        """Tell apart the networks that are newly measured."""
        async with self._learner:
            if _measured(self.gslb, self.weather) != self.known.measured:
                await self._learn(self.gslb, self.known.databases)
                self.errors.pop("measured", None)

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
        weather = replace(self.overview, gslb=gslb).weather(time.monotonic())
        answers = compiler.answers(weather)
        names, maps = read_names(memoryview(known.names)), read_regions(memoryview(known.networks))
        self.board.put({"names": known.names, "networks": known.networks, "answers": answers})
        if gslb.databases != self.gslb.databases:
            self.errors.pop("databases", None)
        self.gslb, self.overview.gslb = gslb, gslb
        self._known, self._compiler, self._maps = known, compiler, maps
        self.weather, self._answers = weather, answers
        self.responder.load(names, Answers(memoryview(answers)), maps)
        self._note_answered()
        self.errors.pop("answers", None)
        self.changes += 1

    async def _follow(self) -> None:
        """Publish the answers that follow from the weather, if they are others."""
        weather = self.overview.weather(time.monotonic())
        if weather == self.weather:
            return
        self.weather = weather  # before what may fail: the same weather would fail again
        if _measured(self.gslb, weather) != self.known.measured:
            self._stale.set()
        answers = self.compiler.answers(weather)
        self.errors.pop("answers", None)
        if answers != self._answers:
            self.board.put({"answers": answers})
            self._answers = answers
            self.responder.swap(Answers(memoryview(answers)))
            self._note_answered()
            self.changes += 1

    def _note_answered(self) -> None:
        answered, now = self.compiler.answered, time.monotonic()
        self.left_at = {
            site: self.left_at.get(site, now) for site in self.gslb.sites if site not in answered
        }

    def names_with(self, site: str) -> list[str]:
        """The names whose answers hold `site` now."""
        return self.compiler.names_with(site)

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
