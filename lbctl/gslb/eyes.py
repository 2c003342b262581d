"""The tasks that look at sites and listen to observers, each on its own beat."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from lbctl.gslb.control import Control
from lbctl.gslb.looks import (
    Silent,
    ask,
    handshake,
    probe_external,
    probe_vips,
    whole,
)
from lbctl.gslb.measure import EVERY, WAIT, Fed, Smoothed
from lbctl.gslb.model import Api, ExternalCheck, Site, SiteApi
from lbctl.gslb.overview import SITE_TIMING
from lbctl.gslb.reports import SiteReport, Unintelligible, decode
from lbctl.model import Endpoint, Network
from lbctl.mutualtls import client_context, pem_stamp

BESIDE = 1.0  # seconds for the daemon on this machine to answer
RENEW = 5.0  # seconds between looks at the PEM files
BEAT = SITE_TIMING.interval


class Eyes:
    """Looks at every site of a control's configuration."""

    def __init__(self, control: Control, session: aiohttp.ClientSession, daemon: str) -> None:
        self.control = control
        self._session = session
        self._daemon = daemon  # the local daemon's socket; "" where there is none
        self._context: ssl.SSLContext | None = None
        self._files: SiteApi | None = control.gslb.api
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._here: tuple[SiteReport, float] | None = None  # what the daemon said, and when
        self._times: dict[Network, Smoothed] = {}
        self.fed = Fed()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run: one task per site and per observer."""
        gslb = self.control.gslb
        tasks = []
        if self._files is not None:
            tasks.append(self._beat("certificates", RENEW, self.renew))
        for name, site in gslb.sites.items():
            if site.check is not None and not site.apis:
                look = partial(self._external, name, site.check)
                tasks.append(self._beat(f"look at {name}", site.check.timing.interval, look))
            elif site.apis or site.vips:
                look = partial(self._site, name, site)
                tasks.append(self._beat(f"look at {name}", BEAT, look))
        for name, api in gslb.observers.peers.items():
            tasks.append(self._beat(f"ask {name}", BEAT, partial(self._peer, name, api)))
        if self._daemon:
            tasks.append(self._beat("ask the daemon", BEAT, self._local))
        tasks.append(self._beat("own report", BEAT, self._own))
        for network, target in gslb.measure.items():
            measure = partial(self._measure, network, target)
            tasks.append(self._beat(f"measure {network}", EVERY, measure))
        return tasks

    async def _beat(self, what: str, every: float, look: Callable[[], Awaitable[None]]) -> None:
        """Look every so many seconds, for ever: a fault in one look is told, and is not the
        last of the looks."""
        while True:
            started = time.monotonic()
            try:
                await look()
            except Exception as error:
                self.control.errors[what] = f"{type(error).__name__}: {error}"
            else:
                self.control.errors.pop(what, None)
            self.control.mark()
            await asyncio.sleep(max(0.05, every - (time.monotonic() - started)))

    async def renew(self) -> None:
        """Take certificates that were renewed. Raises OSError; what we had stays."""
        if self._files is not None and (stamp := pem_stamp(self._files)) != self._stamp:
            self._context = client_context(self._files)
            self._stamp = stamp

    async def _external(self, name: str, check: ExternalCheck) -> None:
        try:
            passed, why = True, await probe_external(self._session, check)
        except Silent as error:
            passed, why = False, str(error)
        self.control.overview.looked(name, passed, why, check.timing, time.monotonic())

    async def _site(self, name: str, site: Site) -> None:
        """Ask all gateways; one that answers is enough. All silent: try the VIPs."""
        answers = await asyncio.gather(
            *(self._gateway(name, number, api) for number, api in enumerate(site.apis))
        )
        passed, why = True, "its API answers"
        if not any(answer == "" for answer in answers):
            try:
                why = await probe_vips(site.vips, SITE_TIMING.timeout)
            except Silent as error:
                passed, why = False, "; ".join([*answers, str(error)])
        self.control.overview.looked(name, passed, why, SITE_TIMING, time.monotonic())

    async def _gateway(self, site: str, number: int, api: Api) -> str:
        """Ask one gateway; "" if it answered, else why not."""
        if self._context is None:
            return "no api section: no certificate to ask with"
        try:
            report = await ask(self._session, api, self._context, SITE_TIMING.timeout)
        except Silent as error:
            return str(error)
        self.control.overview.reported(site, number, report, time.monotonic())
        return ""

    async def _peer(self, name: str, api: Api) -> None:
        if self._context is not None:
            with suppress(Silent):  # its silence is what the verdict sees
                report = await ask(self._session, api, self._context, SITE_TIMING.timeout)
                self.control.overview.heard(name, report, time.monotonic())

    async def _local(self) -> None:
        """What our own gateway's daemon says, for our report to others."""
        with suppress(OSError, Unintelligible, aiohttp.ClientError, TimeoutError):
            self._here = await local_report(Path(self._daemon)), time.monotonic()

    async def _own(self) -> None:
        """What agents told us counts here as it does for those who hear it from us."""
        overview = self.control.overview
        now = time.monotonic()
        overview.fed(overview.gslb.observers.me, self.report(now), now)

    async def _measure(self, network: Network, target: Endpoint) -> None:
        """How far it is from here to `network`."""
        seen = await handshake(target, WAIT)
        self._times[network] = self._times.get(network, Smoothed()).after(seen)

    def report(self, now: float) -> SiteReport:
        """What we tell peers: what the daemon beside us said last, for as long as its word
        counts (a restart of it is not the end of its services); what we see; what we measured,
        and over it what agents did."""
        overview, fed = self.control.overview, self.fed.at(now)
        observers = self.control.gslb.observers
        here = SiteReport("", gateway=False)
        if self._here is not None and now - self._here[1] <= observers.silent_after:
            here = self._here[0]
        own = {str(network): one.shown for network, one in self._times.items()}
        measured = {network: seconds for network, seconds in own.items() if seconds is not None}
        return SiteReport(
            observers.me, here.services, max(here.load, fed.load), overview.mine(),
            overview.drains, {**measured, **fed.times}, here.gateway,
        )  # fmt: skip


async def local_report(path: Path) -> SiteReport:
    """What the daemon behind `path` says of its gateway. Raises Unintelligible."""
    connector = aiohttp.UnixConnector(path=str(path))
    async with aiohttp.ClientSession(connector=connector) as session:
        limit = aiohttp.ClientTimeout(total=BESIDE)
        async with session.get("http://lbctl/v1/site", timeout=limit) as response:
            return decode(await whole(response))


@asynccontextmanager
async def looking(control: Control, daemon: str) -> AsyncIterator[Eyes]:
    """Look at all sites while in the context."""
    async with aiohttp.ClientSession() as session:
        eyes = Eyes(control, session, daemon)
        await eyes.renew()
        tasks = [asyncio.create_task(one) for one in eyes.tasks()]
        try:
            yield eyes
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
