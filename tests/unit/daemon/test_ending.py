"""What a daemon says that ends by an error of its own."""

import pytest

from lbctl.daemon import run
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
