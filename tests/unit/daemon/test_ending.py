"""What a daemon says that ends by an error of its own, and that it ends at all."""

import asyncio
import gc

import pytest

from lbctl.daemon import run
from lbctl.daemon.replication import _end
from lbctl.errors import LbctlError, NotPermitted


def test_an_error_that_took_its_task_group_along_is_told_like_one_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cause = NotPermitted("/run/lbctl.sock: cannot listen here")

    async def fail(_: object) -> None:
        raise ExceptionGroup("inner", [ExceptionGroup("innermost", [cause]), LbctlError("later")])

    monkeypatch.setattr(run, "_run", fail)
    with pytest.raises(NotPermitted) as told:
        run.run(None)  # type: ignore[arg-type]
    assert told.value is cause


def test_a_fault_of_ours_among_them_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: object) -> None:
        raise ExceptionGroup("inner", [LbctlError("one"), ZeroDivisionError()])

    monkeypatch.setattr(run, "_run", fail)
    with pytest.raises(ExceptionGroup):
        run.run(None)  # type: ignore[arg-type]


def test_who_waits_for_an_end_is_not_deaf_to_its_own() -> None:
    """A line that was just cut, and waits for its other half, when the daemon stops."""

    async def story() -> None:
        begun, ending, may = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def ends_late() -> None:
            try:
                begun.set()
                await asyncio.Event().wait()
            finally:
                ending.set()
                await may.wait()

        late = asyncio.create_task(ends_late())
        await begun.wait()
        waits = asyncio.create_task(_end(late))
        await ending.wait()
        waits.cancel()
        await asyncio.wait([waits])
        assert waits.cancelled()
        may.set()
        await asyncio.wait([late])

    asyncio.run(story())


def test_what_failed_as_it_ended_is_not_told() -> None:
    async def fails(begun: asyncio.Event) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            raise OSError("the line was cut")

    async def story() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, said: told.append(said))
        begun = asyncio.Event()
        failed = asyncio.create_task(fails(begun))
        await begun.wait()
        await _end(failed)
        del failed
        gc.collect()
        assert not told

    asyncio.run(story())
