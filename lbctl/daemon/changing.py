"""What the API does for those who may change things. Each answers an `Outcome`, once the
data path was asked."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from lbctl.daemon.control import Manner, Outcome
from lbctl.daemon.names import (
    Known,
    configured,
    server_named,
    servers_named,
    service_named,
)
from lbctl.daemon.parts import Parts
from lbctl.daemon.peer import Peer, peer_of
from lbctl.daemon.reader import own_file
from lbctl.daemon.reading import answer
from lbctl.daemon.requests import (
    BadRequest,
    OrderRequest,
    OverrideRequest,
    PlainRequest,
    RollbackRequest,
    Value,
    decode,
)
from lbctl.errors import InvalidConfig, LbctlError
from lbctl.ha.drill import Drill
from lbctl.said import plain

LONGEST_NAME = 1024  # characters of what a file is called
SETTLE = 30.0  # seconds that a change waits for the data path to be asked


class Exists(LbctlError):
    """There is one of this name already."""


class Changing:
    """The handlers of POST and DELETE."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/apply", self.apply),
            web.post("/v1/diff", self.diff),
            web.post("/v1/reload", self.reload),
            web.post("/v1/rollback", self.rollback),
            web.post("/v1/orders", self.order),
            web.post("/v1/overrides", self.override),
            web.delete("/v1/overrides/{id}", self.drop_override),
            web.post("/v1/drills", self.note_drill),
            web.post("/v1/servers/{service}/{server}/check", self.check),
        ]

    async def apply(self, request: web.Request) -> web.Response:
        """The body is the file; `?name=` is what it is called, `?dry_run=1` only tries,
        `?pair=1`: on both gateways of a pair, or on neither."""
        dry_run = request.query.get("dry_run") == "1"
        if request.query.get("pair") == "1":
            text = await request.read()
            manner = Manner(_by(request), dry_run=dry_run)
            own = await asyncio.to_thread(_says, self._parts.file, text)
            commit = self._parts.replicator.commit
            return await self._settled(commit.apply(text, _name_in(request), manner, own))
        return await self._settled(self._take(request, dry_run))

    async def diff(self, request: web.Request) -> web.Response:
        """The file in the body against what runs."""
        return answer(await self._take(request, dry_run=True))

    async def reload(self, request: web.Request) -> web.Response:
        """Take the daemon's own file again."""
        body = decode(await request.read(), PlainRequest)
        file = self._parts.file
        text = await asyncio.to_thread(own_file, file)
        manner = body.manner(_by(request), self._parts.clock.now())
        taking = self._parts.control.take_file(text, str(file), manner, own=True)
        return await self._settled(taking)

    async def rollback(self, request: web.Request) -> web.Response:
        body = decode(await request.read(), RollbackRequest)
        manner = body.manner(_by(request), self._parts.clock.now())
        return await self._settled(self._parts.control.rollback(body.to, manner))

    async def order(self, request: web.Request) -> web.Response:
        body = decode(await request.read(), OrderRequest)
        control = self._parts.control
        names = servers_named(configured(control.world.config), body.target)
        manner = body.manner(_by(request), self._parts.clock.now())
        return await self._settled(control.order(names, body.admin, manner))

    async def override(self, request: web.Request) -> web.Response:
        body = decode(await request.read(), OverrideRequest)
        control, values = self._parts.control, body.values()
        for one in values:
            _check_names(one, configured(control.world.config))
        manner = body.manner(_by(request), self._parts.clock.now())
        pairs = [(one.path, one.value) for one in values]
        return await self._settled(control.override_all(pairs, manner))

    async def drop_override(self, request: web.Request) -> web.Response:
        text = request.match_info["id"]
        if not (text.isascii() and text.isdigit()):
            raise BadRequest(f"{text}: not the number of an override")
        body = decode(await request.read(), PlainRequest)
        manner = body.manner(_by(request), self._parts.clock.now())
        return await self._settled(self._parts.control.drop_override(int(text), manner))

    async def note_drill(self, request: web.Request) -> web.Response:
        """Remember what `lbctl ha failover --drill` measured; answers the record."""
        try:
            drill = msgspec.json.decode(await request.read(), type=Drill)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"request body: {error}", "docs/api.md has its shape") from None
        at = self._parts.clock.wall()
        drill = msgspec.structs.replace(drill, by=_by(request), at=at)
        self._parts.control.note_drill(drill)
        return answer(drill)

    async def check(self, request: web.Request) -> web.Response:
        """Probe a server now, and ask its agent; answers a list of `ProbeView`."""
        match = request.match_info
        known = configured(self._parts.control.world.config)
        name = server_named(known, f"{match['service']}/{match['server']}")
        return answer(await self._parts.probe(name))

    async def _take(self, request: web.Request, dry_run: bool) -> Outcome:
        text = await request.read()
        name = _name_in(request)
        manner = Manner(_by(request), dry_run=dry_run)
        own = await asyncio.to_thread(_says, self._parts.file, text)
        return await self._parts.control.take_file(text, name, manner, own)

    async def _settled(self, change: Awaitable[Outcome]) -> web.Response:
        """The outcome of `change`, with what became of it."""
        before = {subject: one.act for subject, one in self._parts.reconciler.stuck.items()}
        outcome = await change
        if outcome.dry_run:
            return answer(outcome)
        try:
            async with asyncio.timeout(SETTLE):
                await self._parts.loop.settle()
        except TimeoutError:
            late = f"the data path has not answered within {SETTLE:g} s; it is still asked"
            return answer(msgspec.structs.replace(outcome, refused=(late,)))
        refused = self._parts.refused(outcome, before)
        return answer(msgspec.structs.replace(outcome, refused=refused))


def _says(file: Path, text: bytes) -> bool:
    """Whether the daemon's own file says just that: then it need not be taken again."""
    try:
        return file.stat().st_size == len(text) and own_file(file) == text
    except (OSError, InvalidConfig):
        return False


def _check_names(body: Value, known: Known) -> None:
    """Raise where `path` names what is not there, or what is and should not be."""
    match body.path:
        case ("services", service):
            _check_last(service in known, body, lambda: service_named(known, service))
        case ("services", service, "servers", server):
            there = server in known[service_named(known, service)]
            name = f"{service}/{server}"
            _check_last(there, body, lambda: server_named(known, name))
        case ("services", service, "servers", server, *_):
            server_named(known, f"{service}/{server}")
        case ("services", service, *_):
            service_named(known, service)


def _check_last(there: bool, body: Value, look: Callable[[], object]) -> None:
    if body.expect == "absent" and there:
        raise Exists(f"{'.'.join(body.path)}: exists already", "`lbctl set` changes it")
    if body.expect == "present":
        look()


def _name_in(request: web.Request) -> str:
    """What the file in the body is called, in faults, events and the list of generations."""
    return plain(request.query.get("name", "the file"), LONGEST_NAME)


def _by(request: web.Request) -> str:
    return requester(request).name


def requester(request: web.Request) -> Peer:
    assert request.transport is not None
    return peer_of(request.transport.get_extra_info("socket"))
