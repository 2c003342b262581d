"""`lbctl gslb serve`: sockets, workers, TCP, eyes and APIs, put together."""

import asyncio
import os
import secrets
import signal
import time
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from pathlib import Path

from lbctl.config.gslb import load_gslb
from lbctl.daemon.systemd import notify, watchdog_interval
from lbctl.errors import InvalidConfig
from lbctl.gslb.api import serving, telling
from lbctl.gslb.board import Board
from lbctl.gslb.check import warnings
from lbctl.gslb.control import Control
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.crew import Tally, crew
from lbctl.gslb.eyes import looking
from lbctl.gslb.model import Databases, Gslb, SiteApi
from lbctl.gslb.native import Unbuilt, build_in
from lbctl.gslb.overview import Overview
from lbctl.gslb.responder import Responder
from lbctl.gslb.sockets import buffer_fault, open_group, open_stream
from lbctl.gslb.tcp import answering
from lbctl.gslb.worker import Settings
from lbctl.mutualtls import pem_faults

CLOCK = 0.5  # seconds between looks at the clock, for TCP's cookies


def read(config: Path, me: str) -> Gslb:
    """The `gslb` section of a file, as `serve` uses it: paths in it are relative to the file,
    and its PEM files can be used. Raises InvalidConfig."""
    try:
        text = config.read_bytes()
    except OSError as error:
        raise InvalidConfig([f"{config}: cannot be read: {error.strerror}"]) from None
    there = config.absolute().parent  # `chdir` changes nothing
    found = load_gslb(text, str(config), me, lambda path: (there / path).read_text())
    databases = {
        one.name: str(there / path)
        for one in fields(found.databases)
        if (path := getattr(found.databases, one.name))
    }
    found = replace(found, databases=Databases(**databases))
    if found.api is None:
        return found
    api = found.api
    api = SiteApi(api.listen, *(str(there / path) for path in (api.certificate, api.key, api.ca)))
    if faults := pem_faults(api):
        raise InvalidConfig([f"{config}: gslb.api.{key}: {text}" for key, text in faults])
    return replace(found, api=api)


def doubts(gslb: Gslb) -> list[str]:
    """A line for each thing that is valid and probably not meant."""
    return [f"gslb.{'.'.join(map(str, path))}: {text}" for path, text in warnings(gslb)]


async def serve(config: Path, me: str, runtime: Path, daemon: str) -> None:
    """Run a GSLB server until SIGTERM or SIGINT. Raises LbctlError if it cannot start."""

    def load() -> Gslb:
        return read(config, me)

    gslb = load()
    board = Board(runtime / "gslb")
    library, pure = _library(board.directory)
    settings = Settings(
        gslb.rate_limit,
        gslb.cookie_secrets or (secrets.token_bytes(16),),
        gslb.identity,
        library,
    )
    responder = Responder(settings.limit, Cookies(*settings.secrets), settings.identity)
    control = Control(
        load, board, gslb, responder, Overview(gslb), slow=pure,
        orders=_state(runtime) / "gslb-drains.json",
    )  # fmt: skip
    workers = gslb.processes or len(os.sched_getaffinity(0))
    async with AsyncExitStack() as stack:
        groups = [open_group(endpoint, workers) for endpoint in gslb.listens]
        streams = [open_stream(endpoint) for endpoint in gslb.listens]
        for sock in [one for group in groups for one in group]:
            stack.callback(sock.close)
        await control.start()
        if fault := buffer_fault(one for group in groups for one in group):
            control.errors["receive buffer"] = fault
        eyes = await stack.enter_async_context(looking(control, daemon))
        await stack.enter_async_context(serving(control, eyes, runtime / "gslb.sock"))
        if gslb.api is not None:
            await stack.enter_async_context(
                telling(gslb.api, lambda: eyes.report(time.monotonic()), control.errors)
            )
        await stack.enter_async_context(answering(streams, responder.stream_reply))
        await stack.enter_async_context(
            crew(board.directory, settings, groups, control.tally, control.errors)
        )
        notify("READY=1")
        await _until_told(control, responder)
        notify("STOPPING=1")


def _state(runtime: Path) -> Path:
    """Where what survives a restart is kept: systemd's StateDirectory=, if it gives one."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(state) if state else runtime


def _library(directory: Path) -> tuple[str, str]:
    """The native library's path; or "" and why workers run on Python alone."""
    cache = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]  # systemd's CacheDirectory=
    try:
        return str(build_in([*([Path(cache)] if cache else []), directory])), ""
    except Unbuilt as error:
        return "", str(error)


async def _until_told(control: Control, responder: Responder) -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    tasks = {
        asyncio.create_task(told.wait()),
        asyncio.create_task(control.run()),
        asyncio.create_task(_clock(responder, control.tally)),
        asyncio.create_task(_watchdog(control)),
    }
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()  # a fault in the loop ends the server loudly, not silently


async def _watchdog(control: Control) -> None:
    """A sign of life for as long as the control loop turns."""
    interval = watchdog_interval()
    if interval is None:
        await asyncio.Event().wait()
        return
    while True:
        turns = control.turns
        await asyncio.sleep(interval)
        if control.turns != turns:
            notify("WATCHDOG=1")


async def _clock(responder: Responder, tally: Tally) -> None:
    """Tell TCP's responder the time, and count what it answered."""
    while True:
        responder.tick(time.monotonic(), int(time.time()))
        tally.add(*responder.harvest())
        await asyncio.sleep(CLOCK)
