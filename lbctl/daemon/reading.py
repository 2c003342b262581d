"""What the API answers to those who only ask. From memory, but for what says otherwise."""

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec
from aiohttp import web

from lbctl.config import dump
from lbctl.daemon.names import server_named, service_named
from lbctl.daemon.parts import Parts
from lbctl.daemon.reconcile import differences
from lbctl.daemon.requests import BadRequest
from lbctl.daemon.shapes import SwitchView
from lbctl.dataplane.port import DataPlane, Remarks, SharesKernel
from lbctl.model import Config, ServerName, parse_frontend

_encode = msgspec.json.Encoder().encode


def answer(value: object, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value) + b"\n", status=status, content_type="application/json")


class Reading:
    """The handlers of GET."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/status", self.status),
            web.get("/v1/site", self.site),
            web.get("/v1/replication", self.replication),
            web.get("/v1/drills", self.drills),
            web.get("/v1/services", self.services),
            web.get("/v1/services/{service}", self.service),
            web.get("/v1/servers", self.servers),
            web.get("/v1/servers/{service}/{server}", self.server),
            web.get("/v1/servers/{service}/{server}/why", self.why),
            web.get("/v1/agents", self.agents),
            web.get("/v1/hooks", self.hooks),
            web.get("/v1/overrides", self.overrides),
            web.get("/v1/generations", self.generations),
            web.get("/v1/config", self.config),
            web.get("/v1/stats", self.stats),
            web.get("/v1/diff", self.diff),
            web.get("/v1/events", self.events),
            web.get("/metrics", self.metrics),
        ]

    async def site(self, request: web.Request) -> web.Response:
        """What GSLB servers ask for, each of them every second."""
        return answer(self._parts.site())

    async def replication(self, request: web.Request) -> web.Response:
        """The line to the other gateway of a pair."""
        return answer(self._parts.replicator.view())

    async def drills(self, request: web.Request) -> web.Response:
        """Hand-overs that were tried and measured, oldest first."""
        return answer(list(self._parts.control.drills))

    async def services(self, request: web.Request) -> web.Response:
        return answer(list(self._parts.show().services()))

    async def service(self, request: web.Request) -> web.Response:
        return answer(self._parts.show().describe(self._service(request.match_info["service"])))

    async def servers(self, request: web.Request) -> web.Response:
        name = request.query.get("service")
        service = None if name is None else self._service(name)
        if "fresh" in request.query:
            # Who waits for a drain must not see connections counted before the drain.
            await self._parts.sampler.fresh(0.0)
        return answer(list(self._parts.show().servers(service)))

    async def server(self, request: web.Request) -> web.Response:
        name = self._server(request)
        return answer(self._parts.show().server(name))

    async def why(self, request: web.Request) -> web.Response:
        name = self._server(request)
        return answer(self._parts.show().why(name, self._parts.overrides()))

    async def agents(self, request: web.Request) -> web.Response:
        return answer(list(self._parts.show().agents()))

    async def hooks(self, request: web.Request) -> web.Response:
        return answer(list(self._parts.hook_runs()))

    async def overrides(self, request: web.Request) -> web.Response:
        return answer(list(self._parts.overrides()))

    async def generations(self, request: web.Request) -> web.Response:
        control = self._parts.control
        kept = await asyncio.to_thread(control.generations)
        origins = control.origins
        rows = [
            {
                "generation": n,
                "origin": origins.get(n, ""),
                "running": n == control.intent.generation,
            }
            for n in kept
        ]
        return answer(rows)

    async def config(self, request: web.Request) -> web.Response:
        """The effective configuration as a file; `?source`: the text that was taken;
        `?listen=`: of the services, the one that has this listen."""
        control = self._parts.control
        if "source" in request.query:
            return web.Response(body=control.intent.text, content_type="text/plain")
        config = control.world.config
        if "listen" in request.query:
            config = _behind(config, request.query["listen"])
        text = await asyncio.to_thread(dump, config)
        return web.Response(text=text, content_type="text/plain")

    async def stats(self, request: web.Request) -> web.Response:
        name = request.query.get("service")
        service = None if name is None else self._service(name)
        await self._parts.sampler.glance()
        return answer(self._parts.show().stats(self._parts.sampler.at, service))

    async def diff(self, request: web.Request) -> web.Response:
        """What the kernel holds against what is wanted, read back now."""
        parts = self._parts
        held = await parts.plane.observe(parts.clock.now())
        acts = differences(parts.control.world, held, parts.clock.now())
        _, foreign, _ = await parts.plane.ask(_peculiar)
        return answer({"operations": [str(act) for act in acts], "foreign": foreign})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Those kept, after number `after`; with `follow`, those to come too, one a line."""
        after = _number(request.query.get("after", "0"))
        if "follow" not in request.query:
            return answer(list(self._parts.journal.history.since(after)))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        # Who follows goes away without a word.
        with contextlib.suppress(ConnectionError):
            async for record in self._parts.journal.follow(after):
                await response.write(_encode(record) + b"\n")
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        from lbctl.daemon.metrics import exposition  # its library is for those who scrape

        await self._parts.sampler.glance()
        body = exposition(self._parts.snapshot())
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def status(self, request: web.Request) -> web.Response:
        await self._parts.sampler.glance()
        status = self._parts.status()
        switches, foreign, remarks = await self._parts.plane.ask(_peculiar)
        path = msgspec.structs.replace(
            status.datapath, switches=switches, foreign=foreign, remarks=remarks
        )
        return answer(msgspec.structs.replace(status, datapath=path))

    def _service(self, name: str) -> str:
        return service_named(self._parts.known(), name)

    def _server(self, request: web.Request) -> ServerName:
        match = request.match_info
        return server_named(self._parts.known(), f"{match['service']}/{match['server']}")


def _peculiar(
    plane: DataPlane,
) -> tuple[tuple[SwitchView, ...], tuple[str, ...], tuple[str, ...]]:
    """What not every data path has: switches, listens of other tools, remarks."""
    remarks = tuple(plane.remarks()) if isinstance(plane, Remarks) else ()
    if not isinstance(plane, SharesKernel):
        return (), (), remarks
    switches = (SwitchView(s.name, s.wanted, s.found, s.reason) for s in plane.switches())
    return tuple(switches), tuple(_of_others(plane)), remarks


def _of_others(plane: SharesKernel) -> Iterator[str]:
    """Listens; of one that is ours, the servers that another tool put behind it."""
    for frontend, service in plane.foreign().services.items():
        if plane.shared(frontend):
            yield from (f"{frontend}: {endpoint}" for endpoint in service.destinations)
        else:
            yield str(frontend)


def _behind(config: Config, listen: str) -> Config:
    """A configuration of the one service with this listen, if any; nothing watches it."""
    try:
        frontend = parse_frontend(listen)
    except ValueError as error:
        raise BadRequest(f"listen={listen}: {error}") from None
    services = {n: one for n, one in config.services.items() if frontend in one.listens}
    return Config(config.gateway, services)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f"after={text}: not the number of an event")
    return int(text)
