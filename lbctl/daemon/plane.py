"""The data path as the event loop sees it: one thread of its own, one caller at a time.

A data path's calls block (a map swap waits for RCU, a netlink dump takes what it takes) and
it is not thread-safe; a single worker thread answers both.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from lbctl.daemon.acts import AddVip, Held, Refusal, RemoveVip
from lbctl.daemon.reconcile import Step
from lbctl.dataplane.port import DataPlane, Stats, VipAddresses
from lbctl.errors import DataPlaneError
from lbctl.model import Address, Config

T = TypeVar("T")


class Opened(Protocol):
    """What opening a data path gives. why: how it was chosen. retire: takes down what
    another data path of ours left, and says what that was. follow: told of a configuration
    whose virtual routers may be others."""

    @property
    def plane(self) -> DataPlane: ...
    @property
    def vips(self) -> VipAddresses: ...
    @property
    def why(self) -> str: ...
    def retire(self) -> str: ...
    def follow(self, config: Config) -> None: ...


class PlaneThread:
    """Owns a data path from `open` to `close`; use as an async context manager."""

    def __init__(self, open_plane: Callable[[], Opened]) -> None:
        self._open = open_plane
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plane")
        self._opened: Opened | None = None

    async def __aenter__(self) -> "PlaneThread":
        try:
            self._opened = await self._run(self._open)
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._run(self._plane.close)
        self._thread.shutdown()

    @property
    def name(self) -> str:
        return self._plane.name

    @property
    def why(self) -> str:
        assert self._opened is not None
        return self._opened.why

    async def retire(self) -> str:
        """Take down what another data path of ours left. Raises DataPlaneError."""
        return await self._run(self._retire)

    async def follow(self, config: Config) -> None:
        """Run as a gateway with these virtual routers does."""
        await self._run(lambda: self._follow(config))

    def fileno(self) -> int | None:
        return self._plane.fileno()

    async def observe(self, now: float) -> Held:
        """What the kernel holds of ours. Raises DataPlaneError."""
        return await self._run(lambda: self._observe(now))

    async def carry_out(self, step: Step) -> list[Refusal]:
        """Do what `step` asks, in its order; return what was refused."""
        return await self._run(lambda: self._carry_out(step))

    async def stats(self) -> Stats:
        return await self._run(lambda: self._plane.stats())

    async def ask(self, question: Callable[[DataPlane], T]) -> T:
        """What only one kind of data path can answer."""
        return await self._run(lambda: question(self._plane))

    async def catch_up(self) -> bool:
        return await self._run(lambda: self._plane.catch_up())

    async def tend(self) -> None:
        await self._run(lambda: self._plane.tend())

    @property
    def _plane(self) -> DataPlane:
        assert self._opened is not None
        return self._opened.plane

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _follow(self, config: Config) -> None:
        assert self._opened is not None
        self._opened.follow(config)

    def _retire(self) -> str:
        assert self._opened is not None
        return self._opened.retire()

    def _observe(self, now: float) -> Held:
        assert self._opened is not None
        return Held(self._opened.plane.observe(), frozenset(self._opened.vips.held()), now)

    def _carry_out(self, step: Step) -> list[Refusal]:
        assert self._opened is not None
        return carry_out(step, self._opened.plane, self._opened.vips)


def carry_out(step: Step, plane: DataPlane, vips: VipAddresses) -> list[Refusal]:
    """Do what `step` asks, in its order; one refusal does not stop the rest."""
    refusals: list[Refusal] = []
    for act in step.before:
        refusals += _attempt(act, vips.add)
    if step.ops:
        refusals += [Refusal(refused.op, str(refused.error)) for refused in plane.apply(step.ops)]
    for gone in step.after:
        refusals += _attempt(gone, vips.remove)
    return refusals


def _attempt(act: AddVip | RemoveVip, change: Callable[[Address], None]) -> list[Refusal]:
    try:
        change(act.address)
    except DataPlaneError as error:
        return [Refusal(act, str(error))]
    return []
