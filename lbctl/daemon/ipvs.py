"""What the API says and does about the kernel's IPVS beyond services and servers: the whole
table with its numbers, connections, timeouts, the sync daemon, counters. `lbctl ipvsadm`
is made of it. None of this is configuration, so none of it is an override."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from lbctl.daemon.parts import Parts
from lbctl.daemon.reading import answer
from lbctl.daemon.requests import BadRequest
from lbctl.dataplane.ipvs.codec import SyncDaemon, SyncRole, Timeouts
from lbctl.dataplane.ipvs.plane import IpvsPlane
from lbctl.dataplane.ipvs.view import view
from lbctl.dataplane.port import DataPlane
from lbctl.errors import LbctlError
from lbctl.model import parse_frontend

T = TypeVar("T")
Shape = TypeVar("Shape", bound=msgspec.Struct)
# What the messages to the kernel have room for, and the kernel's own limits.
Seconds = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Port = Annotated[int, Meta(ge=0, le=65535)]
DatagramSize = Annotated[int, Meta(ge=0, le=65507)]
CHUNK = 2000  # lines, some 150 KB
CONNECTIONS = Path("/proc/thread-self/net/ip_vs_conn")


class ZeroRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """frontend "": all services."""

    frontend: str = ""


class TimeoutsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds; 0 leaves that one as it is."""

    tcp: Seconds = 0
    fin: Seconds = 0
    udp: Seconds = 0


class SyncRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """run: start it, or stop it."""

    role: SyncRole
    run: bool = True
    interface: str = ""
    id: Byte = 0
    maxlen: DatagramSize = 0
    group: str = ""
    port: Port = 0
    ttl: Byte = 0


class Ipvs:
    """The handlers under /v1/ipvs."""

    def __init__(self, parts: Parts, connections: Path = CONNECTIONS) -> None:
        self._parts = parts
        self._connections = connections

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/ipvs", self.table),
            web.get("/v1/ipvs/connections", self.connections),
            web.post("/v1/ipvs/zero", self.zero),
            web.post("/v1/ipvs/timeouts", self.timeouts),
            web.post("/v1/ipvs/sync", self.sync),
        ]

    async def table(self, request: web.Request) -> web.Response:
        return answer(await self._ask(_view))

    async def connections(self, request: web.Request) -> web.StreamResponse:
        """There may be millions, so they are read beside the data path's thread, and are
        sent as they are read."""
        await self._ask(lambda plane: None)
        lines = await asyncio.to_thread(_open, self._connections)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        with lines:
            await response.prepare(request)
            async for chunk in json_array(lines):
                await response.write(chunk)
        await response.write_eof()
        return response

    async def zero(self, request: web.Request) -> web.Response:
        body = _decode(await request.read(), ZeroRequest)
        frontend = _named(parse_frontend, "frontend", body.frontend)
        await self._ask(lambda plane: plane.zero(frontend))
        return answer({})

    async def timeouts(self, request: web.Request) -> web.Response:
        body = _decode(await request.read(), TimeoutsRequest)
        await self._ask(lambda plane: plane.set_timeouts(Timeouts(body.tcp, body.fin, body.udp)))
        return answer({})

    async def sync(self, request: web.Request) -> web.Response:
        body = _decode(await request.read(), SyncRequest)
        group = _named(ip_address, "group", body.group)
        numbers = (body.id, body.maxlen, group, body.port, body.ttl)
        daemon = SyncDaemon(body.role, body.interface, *numbers)
        if body.run:
            await self._ask(lambda plane: plane.start_sync(daemon))
        else:
            await self._ask(lambda plane: plane.stop_sync(body.role))
        return answer({})

    async def _ask(self, question: Callable[[IpvsPlane], T]) -> T:
        """`question`, on the data path's thread. Raises LbctlError where that is no IPVS."""

        def put(plane: DataPlane) -> T:
            if not isinstance(plane, IpvsPlane):
                problem = f"the data path is {plane.name}: it has no IPVS table"
                raise LbctlError(problem, "`lbctl get servers` shows what is served")
            return question(plane)

        return await self._parts.plane.ask(put)


def _open(file: Path) -> TextIO:
    try:
        return file.open()
    except OSError as error:
        raise LbctlError(f"{file}: cannot be read: {error.strerror}") from None


async def json_array(lines: TextIO) -> AsyncIterator[bytes]:
    """`lines` as one JSON array in pieces, each read and encoded in a thread."""
    before = b"["
    while chunk := await asyncio.to_thread(_encoded, lines):
        yield before + chunk
        before = b","
    yield b"[]\n" if before == b"[" else b"]\n"


def _encoded(lines: TextIO) -> bytes:
    """The next lines as an array without its brackets; empty after the last."""
    chunk = [line.rstrip("\n") for line in islice(lines, CHUNK)]
    return msgspec.json.encode(chunk)[1:-1]


def _view(plane: IpvsPlane) -> dict[str, Any]:
    return view(plane.listing(), plane.info(), plane.timeouts(), plane.sync_daemons())


def _named(read: Callable[[str], T], field: str, text: str) -> T | None:
    """What `text` says; None where it is empty. Raises BadRequest."""
    try:
        return read(text) if text else None
    except ValueError as error:
        raise BadRequest(f"{field}: {error}", "docs/api.md has its shape") from None


def _decode(data: bytes, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(data or b"{}", type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadRequest(f"request body: {error}", "docs/api.md has its shape") from None
