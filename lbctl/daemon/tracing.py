"""What the API says of single packets and of the interfaces that they come in on."""

import os
from dataclasses import asdict

import msgspec
from aiohttp import web

from lbctl.daemon.parts import Parts
from lbctl.daemon.reading import answer
from lbctl.daemon.requests import BadRequest
from lbctl.daemon.shapes import NicView, TraceView
from lbctl.dataplane.madeup import MadeUp, Trace
from lbctl.dataplane.nics import Nic, findings
from lbctl.dataplane.port import DataPlane, ShowsPackets
from lbctl.errors import Unsupported
from lbctl.model import Config, Endpoint, Listen, ServerName


class TraceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """source: `ADDRESS:PORT`. to: `ADDRESS:PORT/PROTO`. The rest as in MadeUp."""

    source: str
    to: str
    flags: str = "S"
    seq: int = 1
    ttl: int = 64
    size: int = 0
    interface: str = ""

    def packet(self) -> MadeUp:
        """Raises BadRequest."""
        try:
            source, to = Endpoint.parse(self.source), Listen.parse(self.to)
            return MadeUp(source, to, self.flags, self.seq, self.ttl, self.size, self.interface)
        except ValueError as error:
            raise BadRequest(f"no such packet: {error}") from None


class Tracing:
    """The handlers of /v1/trace and /v1/nics."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/trace", self.trace), web.get("/v1/nics", self.nics)]

    async def trace(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=TraceRequest)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"request body: {error}", "docs/api.md has its shape") from None
        packet = asked.packet()
        found = await self._parts.plane.ask(lambda plane: _own(plane).trace(packet))
        return answer(_trace_view(found, self._parts.control.world.config))

    async def nics(self, request: web.Request) -> web.Response:
        found = await self._parts.plane.ask(lambda plane: _own(plane).nics())
        return answer([_nic_view(nic) for nic in found])


def _own(plane: DataPlane) -> ShowsPackets:
    if isinstance(plane, ShowsPackets):
        return plane
    raise Unsupported(
        f"data path {plane.name}: no program of lbctl's own runs there",
        "`datapath: xdp` has one",
    )


def _trace_view(trace: Trace, config: Config) -> TraceView:
    name = _name(trace, config)
    fields = asdict(trace) | {
        "service": name.service if name else "",
        "server": str(name) if name else "",
        "address": str(trace.server or ""),
    }
    return msgspec.convert(fields, TraceView)


def _name(trace: Trace, config: Config) -> ServerName | None:
    """The server as people call it."""
    for service, one in config.services.items():
        if trace.listen is not None and trace.listen in one.listens:
            for server, spec in one.servers.items():
                if trace.server == spec.endpoint(trace.listen):
                    return ServerName(service, server)
    return None


def _nic_view(nic: Nic) -> NicView:
    found = [asdict(one) for one in findings(nic, os.cpu_count() or 1)]
    return msgspec.convert(asdict(nic) | {"findings": found}, NicView)
