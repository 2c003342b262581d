"""What a server counts, how it is said, and that its workers are kept."""

import asyncio
import os
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest

from lbctl.gslb import api
from lbctl.gslb.board import Board
from lbctl.gslb.control import Control
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.crew import Tally, _keep
from lbctl.gslb.eyes import Eyes
from lbctl.gslb.metrics import exposition
from lbctl.gslb.overview import Overview
from lbctl.gslb.responder import Responder
from lbctl.gslb.rrl import RateLimit
from lbctl.gslb.run import _clock
from lbctl.gslb.worker import Report
from tests.unit.gslb.scene import GSLB, query

SOURCE = bytes((198, 18, 0, 9))


def started(directory: Path) -> Control:
    """A server without sockets."""
    responder = Responder(RateLimit(), Cookies(b"0123456789abcdef"))
    control = Control(lambda: GSLB, Board(directory), GSLB, responder, Overview(GSLB))
    asyncio.run(control.start())
    return control


def test_answers_by_tcp_are_counted_and_shown(tmp_path: Path) -> None:
    control = started(tmp_path)
    for _ in range(3):
        control.responder.stream_reply(query("ns1.gslb.example"), SOURCE)
    control.responder.stream_reply(query("geo.example"), SOURCE)
    control.responder.stream_reply(query("geo.gslb.example")[:-2], SOURCE)

    async def once() -> None:
        clock = asyncio.create_task(_clock(control.responder, control.tally))
        await asyncio.sleep(0)
        clock.cancel()

    asyncio.run(once())
    lines = exposition(control).splitlines()
    labels = 'name="ns1.gslb.example.",site="",reason="static"'
    assert f"lbctl_gslb_answers_total{{{labels}}} 3" in lines
    assert 'lbctl_gslb_events_total{event="refused"} 1' in lines
    assert 'lbctl_gslb_events_total{event="formerr"} 1' in lines
    assert 'lbctl_gslb_site_up{site="seoul"} 1' in lines
    assert "lbctl_gslb_errors 0" in lines


def test_a_large_count_keeps_its_digits(tmp_path: Path) -> None:
    control = started(tmp_path)
    control.tally.restarts = 12345678
    control.tally.add({("www.gslb.example.\tseoul", "geo"): 1_800_000_123}, {})
    text = exposition(control)
    assert "lbctl_gslb_worker_restarts_total 12345678\n" in text
    assert 'site="seoul",reason="geo"} 1800000123\n' in text


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: `sudo make test`")
def test_the_socket_is_the_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control, path = started(tmp_path), tmp_path / "gslb.sock"
    monkeypatch.setattr(api, "group_id", lambda: 4242)  # a machine that has the group

    async def look() -> os.stat_result:
        async with api.serving(control, cast(Eyes, None), path):
            return path.stat()

    found = asyncio.run(look())
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 4242, 0o660)


def test_a_report_that_makes_no_sense_counts_nothing() -> None:
    tally = Tally()
    numbers, counts = array("I", [7]).tobytes(), array("Q", [1]).tobytes()
    for report in (Report([], {}, numbers, counts), Report([], {}, numbers[:3], counts)):
        with pytest.raises((KeyError, ValueError)):
            tally.take(report, tally.open())
    assert not tally.answers


@pytest.mark.parametrize("fault", [BlockingIOError(11, "no process"), KeyError("counter 7")])
def test_a_worker_that_cannot_start_is_started_again(fault: Exception) -> None:
    tally, errors, starts = Tally(), {}, []

    async def start(well: Callable[[], object]) -> None:
        starts.append(dict(errors))
        if len(starts) == 1:
            raise fault
        well()
        if len(starts) == 3:
            raise asyncio.CancelledError

    with suppress(asyncio.CancelledError):
        asyncio.run(_keep("worker 0", start, tally, errors, again=0.0))
    assert starts[0] == starts[2] == {}
    assert "worker 0: failed: " in starts[1]["worker 0"]
    assert tally.restarts == 2
