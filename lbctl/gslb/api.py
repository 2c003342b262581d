"""What the GSLB server answers: its operators on a Unix socket, its peers over mutual TLS.

    GET  /v1/gslb/status                          sites, names, databases, errors
    GET  /v1/gslb/explain?name=&client=[&ecs=]    the chain for one client
    GET  /v1/gslb/simulate?name=[&fail=SITE]      shares over the databases' networks
    GET  /v1/gslb/drain/SITE                      how far a drain is
    POST /v1/gslb/drain/SITE   {reason}           take a site out of the answers
    POST /v1/gslb/ready/SITE                      put it back
    POST /v1/gslb/feed         {load, times}      an agent's word on this site
    POST /v1/gslb/reload                          read the configuration again
    GET  /metrics

Peers get /v1/site alone.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from lbctl.daemon.peer import group_id
from lbctl.errors import Exit, InvalidConfig, LbctlError, NotFound
from lbctl.gslb.control import Control
from lbctl.gslb.explain import explain, simulate
from lbctl.gslb.eyes import RENEW, Eyes
from lbctl.gslb.metrics import exposition
from lbctl.gslb.model import SiteApi
from lbctl.gslb.reports import Load, SiteReport, Times, check_times, encode
from lbctl.mutualtls import pem_stamp, server_context
from lbctl.said import plain

# Seconds beside the TTL: what a cache rounds up, and until an order has reached all servers.
MARGIN = 3
STATUS = {Exit.INVALID: 422, Exit.REFUSED: 409, Exit.USAGE: 400}


class Feed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """load: share of the site's capacity. times: seconds to client networks."""

    load: Load | None = None
    times: Times | None = None


class SiteView(msgspec.Struct, frozen=True):
    """connections: those its gateways count; None: none of them says."""

    site: str
    state: str  # up | down | draining
    why: str
    load: float
    connections: int | None
    observers: dict[str, str]


class DrainView(msgspec.Struct, frozen=True):
    """names: those whose answers hold the site still. left: seconds until no resolver
    remembers it. connections: those its gateways count; None: none of them says. gateways:
    how many there are to ask. empty: in no answer, remembered by nobody, and counted empty."""

    site: str
    draining: bool
    names: list[str]
    left: float
    connections: int | None
    gateways: int
    empty: bool


def seconds_left(left_at: float | None, ttl: int, now: float) -> float:
    """Until no resolver remembers a site. left_at: since when no answer here holds it
    (monotonic; None: some does). ttl: the longest of its names."""
    since = now if left_at is None else left_at
    return max(0.0, since + ttl + MARGIN - now)


def drain_view(control: Control, site: str, now: float) -> DrainView:
    """How far the drain of `site` is."""
    order = control.overview.drains.get(site)
    draining = order is not None and order.draining
    names = control.names_with(site)
    left = seconds_left(control.left_at.get(site), control.longest_ttl(site), now)
    connections = control.overview.connections(site, now)
    empty = draining and not names and not left and connections == 0
    gateways = len(control.gslb.sites[site].apis)
    return DrainView(site, draining, names, left, connections, gateways, empty)


def _ok(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except LbctlError as error:
        return _failure(error)
    except KeyError as error:
        return _failure(LbctlError(f"{request.path}: {error} is missing"), 400)
    except (ValueError, msgspec.MsgspecError) as error:
        return _failure(LbctlError(f"{request.path}: {error}"), 400)


def _failure(error: LbctlError, status: int | None = None) -> web.Response:
    if status is None:
        status = 404 if isinstance(error, NotFound) else STATUS.get(error.exit_code, 500)
    faults = error.faults if isinstance(error, InvalidConfig) else []
    body = {
        "error": error.message, "hint": error.hint, "exit_code": int(error.exit_code),
        "faults": faults,
    }  # fmt: skip
    return web.Response(
        body=msgspec.json.encode(body), content_type="application/json", status=status
    )


class Operators:
    """The handlers behind the Unix socket."""

    def __init__(self, control: Control, eyes: Eyes) -> None:
        self._control = control
        self._eyes = eyes

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/gslb/status", self.status),
            web.get("/v1/gslb/explain", self.explain),
            web.get("/v1/gslb/simulate", self.simulate),
            web.get("/v1/gslb/drain/{site}", self.drained),
            web.post("/v1/gslb/drain/{site}", self.drain),
            web.post("/v1/gslb/ready/{site}", self.ready),
            web.post("/v1/gslb/feed", self.feed),
            web.post("/v1/gslb/reload", self.reload),
            web.get("/metrics", self.metrics),
        ]

    async def status(self, request: web.Request) -> web.Response:
        control, now = self._control, time.monotonic()
        overview = control.overview
        sites = []
        for name in control.gslb.sites:
            standing = control.standing(name)
            state = "down" if not standing.up else "draining" if standing.draining else "up"
            words = {
                who: str(word.health)
                for (who, what), word in overview.words.items()
                if what == name and word.counts(control.gslb.observers.silent_after, now)
            }
            connections = overview.connections(name, now)
            why = standing.why or (overview.verdict(name, now).why if words else "")
            sites.append(SiteView(name, state, why, standing.load, connections, words))
        databases = {
            str(kind): {"path": one.path, "epoch": one.epoch, "networks": one.networks}
            for kind, one in control.known.databases.items()
        }
        return _ok(
            {
                "sites": sites,
                "names": sum(len(zone.names) for zone in control.gslb.zones),
                "databases": databases,
                "changes": control.changes,
                "slow": control.slow,
                "errors": control.errors,
            }
        )

    async def explain(self, request: web.Request) -> web.Response:
        control = self._control
        ecs = request.query.get("ecs")
        found = explain(
            control.known,
            control.compiler,
            control.maps,
            control.weather,
            request.query["name"],
            ip_address(request.query["client"]),
            ip_network(ecs) if ecs else None,
        )
        return _ok(found)

    async def simulate(self, request: web.Request) -> web.Response:
        control = self._control
        query = request.query
        # Seconds over a large database: apart from the loop that looks at sites.
        name, failed = query["name"], query.get("fail", "")
        return _ok(await asyncio.to_thread(simulate, control.known, control.weather, name, failed))

    async def drain(self, request: web.Request) -> web.Response:
        site = self._site(request)
        body = await request.read()
        reason = msgspec.json.decode(body, type=dict[str, str]).get("reason", "") if body else ""
        await self._order(site, draining=True, reason=plain(reason))
        return _ok(self._drain_view(site))

    async def ready(self, request: web.Request) -> web.Response:
        site = self._site(request)
        await self._order(site, draining=False, reason="")
        return _ok(self._drain_view(site))

    async def drained(self, request: web.Request) -> web.Response:
        return _ok(self._drain_view(self._site(request)))

    async def _order(self, site: str, *, draining: bool, reason: str) -> None:
        self._control.overview.ordered(site, draining, reason, time.time())
        self._control.mark()
        await self._control.keep()

    def _drain_view(self, site: str) -> DrainView:
        return drain_view(self._control, site, time.monotonic())

    def _site(self, request: web.Request) -> str:
        site = request.match_info["site"]
        if site not in self._control.gslb.sites:
            raise NotFound(f"{site}: no such site", f"known: {', '.join(self._control.gslb.sites)}")
        return site

    async def feed(self, request: web.Request) -> web.Response:
        feed = msgspec.json.decode(await request.read(), type=Feed)
        check_times(feed.times or {})
        self._eyes.fed = self._eyes.fed.told(feed.load, feed.times, time.monotonic())
        return _ok({})

    async def reload(self, request: web.Request) -> web.Response:
        await self._control.reload()
        control = self._control
        return _ok({"changes": control.changes, "restart": control.gslb.differs(control.started)})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=exposition(self._control), content_type="text/plain")


@asynccontextmanager
async def serving(control: Control, eyes: Eyes, path: Path) -> AsyncIterator[None]:
    """Answer operators on the Unix socket at `path` while in the context."""
    app = web.Application(middlewares=[_errors])
    app.add_routes(Operators(control, eyes).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    _unlink(path)
    before = os.umask(0o117)  # root and the group
    try:
        await web.UnixSite(runner, str(path)).start()
    finally:
        os.umask(before)
    if (group := group_id()) is not None and os.geteuid() == 0:
        os.chown(path, -1, group)
    try:
        yield
    finally:
        await runner.cleanup()
        _unlink(path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


class _Peers:
    """The listener for peers. Its certificate follows the files."""

    def __init__(self, files: SiteApi, report: Callable[[], SiteReport]) -> None:
        self._files = files
        self._report = report
        self._runner: web.AppRunner | None = None
        self._stamp: tuple[tuple[int, int], ...] = ()

    async def site(self, request: web.Request) -> web.Response:
        return web.Response(body=encode(self._report()), content_type="application/json")

    async def follow(self) -> None:
        """Listen with the files as they are. Raises OSError; what listens goes on."""
        stamp = pem_stamp(self._files)
        if stamp == self._stamp:
            return
        context = server_context(self._files)  # before the old one closes
        await self.close()
        app = web.Application()
        app.add_routes([web.get("/v1/site", self.site)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        host, port = str(self._files.listen.address), self._files.listen.port
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._stamp = runner, stamp

    async def keep(self, errors: dict[str, str]) -> None:
        """For ever: follow the files; what is wrong with them is told."""
        while True:
            await asyncio.sleep(RENEW)
            try:
                await self.follow()
            except OSError as error:  # ssl.SSLError is one
                errors["listener for peers"] = f"{self._files.certificate}: {error}"
            else:
                errors.pop("listener for peers", None)

    async def close(self) -> None:
        runner, self._runner, self._stamp = self._runner, None, ()
        if runner is not None:
            await runner.cleanup()


@asynccontextmanager
async def telling(
    files: SiteApi, report: Callable[[], SiteReport], errors: dict[str, str]
) -> AsyncIterator[None]:
    """Answer peers over mutual TLS while in the context."""
    peers = _Peers(files, report)
    await peers.follow()
    keeper = asyncio.create_task(peers.keep(errors))
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await peers.close()
