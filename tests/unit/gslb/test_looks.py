"""Looks at sites, over real sockets on loopback."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from lbctl.gslb.eyes import SITE_TIMING, Eyes, local_report
from lbctl.gslb.looks import Silent, ask, probe_vips
from lbctl.gslb.model import Api, Site, SiteApi
from lbctl.gslb.reports import ServiceState, SiteReport, encode
from lbctl.gslb.tcp import answering
from lbctl.model import Endpoint, Listen
from lbctl.mutualtls import client_context, server_context
from tests.unit.gslb.scene import GSLB
from tests.unit.gslb.test_control import control_of

LARGE = SiteReport("tokyo", {f"service-{n}": ServiceState(True, n) for n in range(5000)})


@contextmanager
def port(*, open: bool) -> Iterator[Listen]:
    """A TCP port that answers; or one that drops what comes: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(8 if open else 0)
        for _ in range(0 if open else 2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield Listen.parse(f"127.0.0.1:{listener.getsockname()[1]}/tcp")


def test_many_vips_that_drop_cost_one_timeout() -> None:
    with ExitStack() as stack:
        vips = [stack.enter_context(port(open=False)) for _ in range(5)]
        with pytest.raises(Silent, match=r"no answer in 0\.3 s, "):
            asyncio.run(probe_vips(vips, 0.3))
        vips.append(stack.enter_context(port(open=True)))
        assert asyncio.run(probe_vips(vips, 60.0)) == f"{vips[-1]} answers"  # waits for no other


@pytest.mark.parametrize("vip", ["198.51.100.1:53/udp", None])
def test_a_site_without_a_vip_to_connect_to_is_silent(vip: str | None) -> None:
    with pytest.raises(Silent, match="no VIP to probe"):
        asyncio.run(probe_vips([Listen.parse(vip)] if vip else [], 0.1))


@pytest.mark.parametrize(("open", "up"), [(True, True), (False, False)])
def test_a_silent_api_is_backed_by_the_vips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open: bool, up: bool
) -> None:
    if open:
        monkeypatch.setattr("lbctl.gslb.eyes.SITE_TIMING", replace(SITE_TIMING, timeout=60.0))
    control = control_of(GSLB, tmp_path)

    async def look(vip: Listen) -> None:
        eyes = Eyes(control, None, "")  # type: ignore[arg-type]
        nobody = Api(Endpoint.parse("127.0.0.1:1"), "tokyo")
        for _ in range(3):
            await eyes._site("tokyo", Site(apis=(nobody,), vips=(vip,)))

    with port(open=open) as vip:
        asyncio.run(look(vip))
    sight = control.overview.sights["tokyo"]
    assert (sight.track.health == "up") == up
    if not up:
        assert "no certificate to ask with; 127.0.0.1:" in sight.why


@asynccontextmanager
async def told(body: bytes, context: object, path: Path | None = None) -> AsyncIterator[Endpoint]:
    """A server that answers /v1/site with `body`, in pieces."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(body), 10_000):
            await response.write(body[start : start + 10_000])
        return response

    app = web.Application()
    app.add_routes([web.get("/v1/site", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        if path is not None:
            await web.UnixSite(runner, str(path)).start()
            yield Endpoint.parse("127.0.0.1:1")
            return
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)  # type: ignore[arg-type]
        await site.start()
        yield Endpoint.parse("{}:{}".format(*runner.addresses[0]))
    finally:
        await runner.cleanup()


def pem(directory: Path, name: str = "tokyo") -> SiteApi:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    issued = authority.issue_cert(name)
    issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "me.pem"))
    me = str(directory / "me.pem")
    return SiteApi(Endpoint.parse("127.0.0.1:1"), me, me, str(directory / "ca.pem"))


def test_a_report_is_read_whole_and_one_without_end_is_not(tmp_path: Path) -> None:
    files = pem(tmp_path)

    async def story() -> None:
        async with aiohttp.ClientSession() as session:
            async with told(encode(LARGE), server_context(files)) as endpoint:
                api = Api(endpoint, "tokyo")
                for _ in range(5):
                    assert await ask(session, api, client_context(files), 10.0) == LARGE
            async with told(b" " * (5 << 20), server_context(files)) as endpoint:
                with pytest.raises(Silent, match="more than 4 MiB"):
                    await ask(session, Api(endpoint, "tokyo"), client_context(files), 10.0)

    asyncio.run(story())


def test_one_failed_ask_of_the_daemon_is_no_word_of_its_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lbctl.gslb.eyes.BESIDE", 60.0)
    control = control_of(GSLB, tmp_path)
    path = tmp_path / "daemon.sock"

    async def story() -> None:
        eyes = Eyes(control, None, str(path))  # type: ignore[arg-type]
        await eyes._local()
        assert not eyes.report(time.monotonic()).gateway
        async with told(encode(LARGE), None, path):
            assert await local_report(path) == LARGE
            await eyes._local()
        await eyes._local()  # it restarts
        assert eyes._here is not None
        _, now = eyes._here
        assert eyes.report(now).services == LARGE.services
        late = eyes.report(now + control.gslb.observers.silent_after + 1)
        assert (late.services, late.gateway) == ({}, False)

    asyncio.run(story())


def test_pipelined_queries_leave_the_loop_to_others() -> None:
    """60 connections with 200 queries each, all there at once: few in each turn."""
    count = most = 0

    def reply(query: bytes, source: bytes) -> bytes:
        nonlocal count
        count += 1
        return query

    async def story() -> None:
        nonlocal most
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            listener.setblocking(False)
            where = listener.getsockname()
            async with answering([listener], reply):
                lines = [await asyncio.open_connection(*where) for _ in range(60)]
                for _, writer in lines:
                    writer.write(b"\0\4abcd" * 200)
                done = [asyncio.create_task(reader.readexactly(1200)) for reader, _ in lines]
                while not all(task.done() for task in done):
                    before = count
                    await asyncio.sleep(0)
                    most = max(most, count - before)
                for _, writer in lines:
                    writer.close()

    asyncio.run(story())
    assert count == 12_000
    assert most <= 2
