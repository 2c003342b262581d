"""The daemon, wired together: what is made, in which order, and what runs beside what.

Everything here is released in the opposite order by one stack: the API stops answering, the
probe worker ends, the data path's handles are closed, the state directory is unlocked. What
the data path was told stays in force.
"""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lbctl.daemon.api import listening, serving
from lbctl.daemon.clock import SYSTEM, Clock
from lbctl.daemon.control import Control, Manner, Standing
from lbctl.daemon.crew import Crew
from lbctl.daemon.fake import open_fake
from lbctl.daemon.hookrunner import HookRunner
from lbctl.daemon.hooks import Ledger
from lbctl.daemon.journal import Journal
from lbctl.daemon.loop import ReconcileLoop
from lbctl.daemon.parts import Parts
from lbctl.daemon.plane import Opened, PlaneThread
from lbctl.daemon.reader import ConfigReader, own_file
from lbctl.daemon.reading import Reading
from lbctl.daemon.reconcile import Reconciler
from lbctl.daemon.remote import RemoteApi
from lbctl.daemon.replication import Replicator
from lbctl.daemon.routers import RouterLink
from lbctl.daemon.sampler import Sampler
from lbctl.daemon.share import Share
from lbctl.daemon.startup import stand_up
from lbctl.daemon.state import StateDirectory, digest
from lbctl.daemon.systemd import notify, watchdog_interval
from lbctl.errors import LbctlError
from lbctl.events import DaemonStarted, DaemonStopping
from lbctl.ha.author import Author
from lbctl.model import Config
from lbctl.vrrp.control import PATH

TEND = 10.0  # seconds between the data path's housekeepings
EXPIRE = 1.0  # seconds that an override may outlive its time


@dataclass(frozen=True)
class Options:
    """What the daemon is told on its command line. datapath "": as the file says; `fake` or
    `fake:DIRECTORY`: nothing reaches a kernel."""

    config: Path
    socket: Path
    state: Path
    pins: Path
    node: str | None = None
    datapath: str = ""
    vrrp: Path = PATH


def run(options: Options) -> None:
    """Until a signal ends it. Raises LbctlError where it cannot start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    try:
        asyncio.run(_run(options))
    except BaseExceptionGroup as several:
        ours, others = several.split(LbctlError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from None


def _first(several: BaseExceptionGroup[LbctlError]) -> LbctlError:
    """Whatever fails takes the others with it, so the first is the cause."""
    one = several.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one


async def _run(options: Options) -> None:
    clock, journal = SYSTEM, Journal(SYSTEM)
    async with AsyncExitStack() as stack:
        directory = StateDirectory(options.state)
        stack.enter_context(directory.locked())
        listener = stack.enter_context(listening(options.socket))
        read = ConfigReader(options.node)
        standing = await stand_up(options.config, directory, journal, clock, read)
        opener = partial(_open, options, standing.world.config)
        plane = await stack.enter_async_context(PlaneThread(opener))
        standing.world.datapath = plane.name
        parts = _assemble(options, standing, directory, journal, clock, read, plane)
        await _live(parts, listener, stack)


def _open(options: Options, config: Config) -> Opened:
    kind, _, where = options.datapath.partition(":")
    if kind == "fake":
        return open_fake(Path(where) if where else None)
    from lbctl.dataplane.select import open_dataplane  # brings in netlink

    return open_dataplane(config, options.pins, options.state / "ipvs.json")


def _assemble(
    options: Options,
    standing: Standing,
    directory: StateDirectory,
    journal: Journal,
    clock: Clock,
    read: ConfigReader,
    plane: PlaneThread,
) -> Parts:
    reconciler = Reconciler()
    control = Control(standing, directory, journal, clock, read)
    crew = Crew.of(control, journal, clock)
    sampler = Sampler(plane, clock)
    sampler.hearers.append(lambda stats: control.calm(stats.unrest))
    loop = ReconcileLoop(control, reconciler, plane, journal, clock)
    routers = RouterLink(control, journal, clock, options.vrrp)
    ledger = Ledger(control.hooks)
    hooks = HookRunner(control, journal, clock, ledger, routers.acts_for)
    routers.on_role.append(hooks.look)
    control.on_touched.append(loop.touched)
    control.on_touched.append(lambda _: hooks.look())
    control.on_changed.append(loop.wake)
    control.on_changed.append(crew.tell_changes)
    control.on_touched.append(routers.touched)
    control.on_changed.append(routers.tell_changes)
    remote = RemoteApi(control, journal)
    control.on_changed.append(remote.tell_changes)
    share = Share(control, plane, loop, routers, journal, clock, Author(secrets.randbits(63) | 1))
    replicator = Replicator(
        share, options.node or os.uname().nodename, lambda: digest(control.intent.text)
    )
    control.on_changed.append(replicator.tell_changes)
    control.on_touched.append(share.mark)
    routers.on_role.append(replicator.roles_changed)
    return Parts(
        file=options.config,
        clock=clock,
        journal=journal,
        read=read,
        reconciler=reconciler,
        control=control,
        plane=plane,
        sampler=sampler,
        loop=loop,
        crew=crew,
        hooks=hooks,
        routers=routers,
        remote=remote,
        replicator=replicator,
        started=clock.now(),
    )


async def _live(parts: Parts, listener: socket.socket, stack: AsyncExitStack) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        reconciling = group.create_task(parts.loop.run())
        await parts.loop.settle()
        await parts.loop.retire()
        _tell_started(parts)
        tasks = [
            group.create_task(parts.crew.keep()),
            group.create_task(parts.hooks.run()),
            group.create_task(parts.routers.keep()),
            group.create_task(parts.remote.keep(Reading(parts).routes())),
            group.create_task(parts.replicator.keep()),
            group.create_task(_hear_kernel(parts)),
            group.create_task(_every(TEND, parts.loop.tend)),
            group.create_task(parts.sampler.keep()),
            group.create_task(_every(EXPIRE, parts.control.drop_expired)),
            group.create_task(_watchdog(parts)),
        ]
        await stack.enter_async_context(serving(parts, listener))
        _on_signals(parts, stop, group)
        gc.freeze()
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        parts.loop.stop()
        await reconciling
        for task in tasks:
            task.cancel()
    await parts.control.save(at_once=True)


def _tell_started(parts: Parts) -> None:
    generation, plane, loop = parts.control.intent.generation, parts.plane, parts.loop
    started = DaemonStarted(generation, plane.name, plane.why, loop.adopted, loop.operations)
    parts.journal.tell(started)


def _on_signals(parts: Parts, stop: asyncio.Event, group: asyncio.TaskGroup) -> None:
    loop = asyncio.get_running_loop()

    def end(name: str) -> None:
        parts.journal.tell(DaemonStopping(name))
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    loop.add_signal_handler(signal.SIGHUP, lambda: group.create_task(_reload(parts)))


async def _reload(parts: Parts) -> None:
    """Take the daemon's own file again. Nobody waits for the answer, so what is wrong with the
    file, or with the disk that should keep it, is told; what runs goes on."""
    try:
        text = await asyncio.to_thread(own_file, parts.file)
        await parts.control.take_file(text, str(parts.file), Manner("SIGHUP"), own=True)
    except LbctlError as error:
        parts.control.refuse_file(str(parts.file), error)


HEARING = 0.05  # seconds at least between two looks at the kernel's news


async def _hear_kernel(parts: Parts) -> None:
    """Take the kernel's news in as they come."""

    async def hear() -> None:
        await parts.loop.hear()
        await parts.check_suspects()

    if (descriptor := parts.plane.fileno()) is not None:
        await hearing(descriptor, hear)


async def hearing(descriptor: int, hear: Callable[[], Awaitable[None]]) -> None:
    """The first news at once, those that follow together: each look goes through all servers,
    and strangers can cause news (a server that answers a forged SYN from an address that
    nobody has looks for a neighbour)."""
    while True:
        await _readable(descriptor)
        await hear()
        await asyncio.sleep(HEARING)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await work()


async def _watchdog(parts: Parts) -> None:
    """A sign of life for as long as the reconcile loop turns."""
    interval = watchdog_interval()
    while interval is not None:
        turns = parts.loop.turns
        parts.loop.wake()
        await asyncio.sleep(interval)
        if parts.loop.turns != turns:
            notify("WATCHDOG=1")
