"""The keeper of the probe worker, with workers that die, hang, talk garbage or do well."""

import asyncio
import base64
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lbctl.daemon.assignment import Assignment, through_servers
from lbctl.daemon.control import Control, Manner
from lbctl.daemon.passage import Passage
from lbctl.daemon.workers import WorkerKeeper
from lbctl.health.judge import Health

from .test_control import FILE, Desk

SPEAK = """
import json, socket, sys
line = socket.socket(fileno=0)
def say(**message):
    body = json.dumps(message).encode()
    line.sendall(len(body).to_bytes(4, "big") + body)
def hear():
    size = int.from_bytes(line.recv(4, socket.MSG_WAITALL), "big")
    return json.loads(line.recv(size, socket.MSG_WAITALL))
def hang():
    while line.recv(1 << 16): pass
whole = hear()
"""
WELL = (
    SPEAK
    + """
say(kind="pulse", jobs=len(whole["start"]), probes=2, late_p99=0.0)
for job in whole["start"]:
    say(kind="verdict", id=job["id"], health="down", evidence=job["endpoint"], took=0.1)
hang()
"""
)
BAD = {
    "dies": ("import sys; sys.exit(3)", "ended with status 3"),
    "says nothing": (SPEAK + "hang()", "silent for 0.3 s"),
    "falls silent": (
        SPEAK + "say(kind='pulse', jobs=2, probes=0, late_p99=0.0); hang()",
        "silent for 0.2 s",
    ),
    "talks garbage": (SPEAK + "line.sendall(b'\\xff' * 8); hang()", "a message of"),
    "says what is not its to say": (
        SPEAK + "say(kind='quorum', service='web', holds=True); hang()",
        "sent Quorum, which is not its to send",
    ),
}


class Kept:
    """A keeper whose worker is a few lines of Python."""

    def __init__(self, desk: Desk, control: Control, script: str) -> None:
        # One that sleeps is silent; any other has all the time it needs.
        silence = 0.2 if script == BAD["falls silent"][0] else 30.0
        starting = 0.3 if script == BAD["says nothing"][0] else 30.0
        self.desk = desk
        self.control = control
        self.keeper = WorkerKeeper(
            control,
            desk.journal,
            desk.time.clock,
            (sys.executable, "-c", script),
            silence=silence,
            starting=starting,
        )

    async def until(self, said: str) -> None:
        async with asyncio.timeout(20):
            async for record in self.desk.journal.follow(0):
                if said in record.text:
                    return


def story(home: Path, script: str, work: Callable, text: str = FILE) -> None:
    async def run() -> None:
        desk = Desk(home, text)
        kept = Kept(desk, await desk.open(), script)
        keeping = asyncio.create_task(kept.keeper.keep())
        try:
            await work(kept)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(run())


def test_verdicts_become_sightings_and_pulses_are_counted(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        await kept.until("web/app2: down (198.51.100.2:8080)")
        sightings = kept.control.world.sightings.values()
        assert [seen.health for seen in sightings] == [Health.DOWN, Health.DOWN]
        assert kept.keeper.probes == 2
        assert kept.keeper.checks == 2

    story(tmp_path, WELL, work)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_worker_is_replaced_with_growing_delay(tmp_path: Path, kind: str) -> None:
    script, says = BAD[kind]

    async def work(kept: Kept) -> None:
        await kept.until("starting another in 1.0 s")
        lost = [text for text in kept.desk.told if "starting another" in text]
        assert lost[0].startswith("probe worker: ")
        assert says in lost[0]
        assert "starting another in 0.5 s" in lost[0]

    story(tmp_path, script, work)


def test_a_worker_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        kept.keeper.command = ("/nonexistent",)
        await kept.until("No such file or directory")

    story(tmp_path, WELL, work)


def test_changes_reach_the_worker(tmp_path: Path) -> None:
    script = WELL.replace(
        "\nhang()\n",
        '\nchange = hear(); say(kind="verdict", id=change["start"][0]["id"], health="up", '
        "evidence=f\"cancelled {change['cancel']}\", took=0.0)\nhang()\n",
    )

    async def work(kept: Kept) -> None:
        await kept.until("probe worker: started")
        kept.control.on_changed.append(kept.keeper.tell_changes)
        new = FILE.replace("app2: 198.51.100.2", "app3: 198.51.100.3").encode()
        await kept.control.take_file(new, "new", Manner())
        await kept.until("web/app3: up (cancelled [2])")

    story(tmp_path, script, work)


def test_a_worker_that_nothing_is_for_does_not_run(tmp_path: Path) -> None:
    async def work(kept: Kept) -> None:
        kept.control.on_changed.append(kept.keeper.tell_changes)
        await kept.control.take_file(WITH_A_WAY.encode(), "new", Manner())
        await kept.until("web/app1: down (192.0.2.10:80")
        assert kept.keeper.pid is not None
        await kept.control.take_file(FILE.encode(), "old", Manner())
        async with asyncio.timeout(20):
            # The loop has to turn meanwhile.
            while kept.keeper.pid is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        lost = [text for text in kept.desk.told if "starting another" in text]
        assert lost == []

    async def run() -> None:
        desk = Desk(tmp_path, FILE)
        kept = Kept(desk, await desk.open(), WELL)
        kept.keeper.always = False
        kept.keeper.assignment = Assignment(through_servers)
        keeping = asyncio.create_task(kept.keeper.keep())
        try:
            await work(kept)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(run())


def test_a_server_that_comes_while_ways_are_laid_is_told_with_the_next_change(
    tmp_path: Path,
) -> None:
    async def work() -> None:
        desk = Desk(tmp_path, FILE)
        control = await desk.open()
        passage = Passage()
        told = Assignment(through_servers, passage.mark)
        await control.take_file(WITH_A_WAY.encode(), "new", Manner())
        first, second = sorted(told.vias(control.world, 0.0))
        passage.marks[first] = 1
        assert [job.mark for job in told.whole(control.world, 0.0).start] == [1]
        assert told.change(control.world, 0.0) is None
        passage.marks[second] = 2
        change = told.change(control.world, 0.0)
        assert change is not None
        assert [job.mark for job in change.start] == [2]

    asyncio.run(work())


WITH_A_WAY = (
    FILE.replace("{front: front0}", "{front: front0, probe: 198.51.100.9/24}")
    .replace("    scheduler: rr\n", "    scheduler: rr\n    mode: dr\n    check: {through: true}\n")
    .replace(":8080", "")
)


def test_files_are_handed_over_before_the_checks_that_name_them_and_when_they_change(
    tmp_path: Path,
) -> None:
    script = SPEAK.replace("whole = hear()", "files = hear(); whole = hear()") + (
        "say(kind='verdict', id=1, health='down', evidence=files['files'][0]['data'], took=0.1)\n"
        "files = hear()\n"
        "say(kind='verdict', id=1, health='up', evidence=files['files'][0]['data'], took=0.1)\n"
        "line.recv(1)\n"
    )
    token = tmp_path / "token"
    token.write_text("old")

    async def work(kept: Kept) -> None:
        await kept.until(f"agent is silent ({b64('old')})")
        token.write_text("new")
        kept.keeper.tell_changes()
        await kept.until(f"agent speaks ({b64('new')})")

    text = FILE.replace(
        "    scheduler: rr\n",
        f"    scheduler: rr\n    check: none\n    agent: {{tls: none, token: {token}}}\n",
    ).replace("      app2: 198.51.100.2:8080\n", "")
    story(tmp_path, script, work, text)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
