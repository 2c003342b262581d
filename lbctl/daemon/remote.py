"""The API for other machines: the same answers as on the socket, over TLS 1.3.

Who asks shows a certificate of the listener's CA. The names in it (its alternative names,
or the common name) say what they may: `peer`, how the site does; `read`, all that can be
asked. Nothing can be changed from here.

The listener follows the configuration, and its certificate the files: one that is renewed is
taken within seconds. What cannot be opened is told once and tried again.
"""

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from lbctl.daemon.control import Control
from lbctl.daemon.failures import errors
from lbctl.daemon.journal import Journal
from lbctl.errors import NotPermitted
from lbctl.events import Trouble
from lbctl.model import ApiListener
from lbctl.mutualtls import pem_stamp, server_context

LOOK = 5.0  # seconds between looks at the files
SITE = "/v1/site"
Stamp = tuple[tuple[int, int], ...]


@dataclass
class RemoteApi:
    """trouble: why nobody is listening."""

    control: Control
    journal: Journal
    trouble: str = ""
    _runner: web.AppRunner | None = None
    _have: tuple[ApiListener, Stamp] | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell_changes(self) -> None:
        """The configuration may want another listener than before."""
        self._news.set()

    async def keep(self, routes: list[web.RouteDef]) -> None:
        """For ever: what the configuration wants is what listens."""
        try:
            while True:
                await self._follow(routes)
                self._news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK)
        finally:
            await self._close()

    async def _follow(self, routes: list[web.RouteDef]) -> None:
        wanted = self.control.world.config.gateway.api
        if wanted is None:
            await self._close()
            self.trouble = ""
            return
        try:
            have = (wanted, pem_stamp(wanted))
            if have != self._have:
                context = server_context(wanted)  # before the old one closes
                await self._close()
                await self._open(wanted, context, routes)
                self._have = have
        except (OSError, ssl.SSLError) as error:
            self._complain(f"{wanted.listen}: {_said(error)}")
        else:
            self.trouble = ""

    async def _open(
        self, wanted: ApiListener, context: ssl.SSLContext, routes: list[web.RouteDef]
    ) -> None:
        app = web.Application(middlewares=[errors, permission(wanted)])
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        host, port = str(wanted.listen.address), wanted.listen.port
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def _close(self) -> None:
        runner, self._runner, self._have = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    def _complain(self, text: str) -> None:
        """Once for each trouble."""
        if text != self.trouble:
            self.trouble = text
            self.journal.tell(Trouble("api", text))


def _said(error: OSError) -> str:
    text = error.strerror or str(error)
    return f"{error.filename}: {text}" if error.filename else text


def permission(wanted: ApiListener) -> Any:
    """Lets through what the names in the asker's certificate may ask."""

    @web.middleware
    async def _permission(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        found = transport.get_extra_info("peercert") if transport is not None else None
        names = set(certificate_names(found or {}))
        if request.method not in ("GET", "HEAD"):
            hint = f"changes are made on the gateway itself ({request.method} {request.path})"
            raise NotPermitted(f"{_listed(names)}: nothing can be changed from here", hint)
        if names.isdisjoint(wanted.read) and (
            request.path != SITE or names.isdisjoint(wanted.peer)
        ):
            hint = "gateway.api.read and gateway.api.peer name those who may"
            raise NotPermitted(f"{_listed(names)}: may not ask for {request.path}", hint)
        return await handler(request)

    return _permission


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "a certificate without a name"


def certificate_names(found: Mapping[str, Any]) -> Iterator[str]:
    """The names in a certificate as Python's `ssl` shows it; the common name counts only
    where there is no alternative name (RFC 6125 section 6.4.4)."""
    alternative = [value for kind, value in found.get("subjectAltName", ()) if kind == "DNS"]
    if alternative:
        yield from alternative
        return
    for part in found.get("subject", ()):
        yield from (value for key, value in part if key == "commonName")
