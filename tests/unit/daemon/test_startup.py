"""What a daemon starts from: the running generation, the file, or nothing at all."""

import asyncio
import os
from pathlib import Path

import pytest

from lbctl.daemon.control import Manner
from lbctl.daemon.state import Unkept
from lbctl.errors import InvalidConfig

from .test_control import FILE, WEIGHT, Desk, weights


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def run_once(desk: Desk) -> None:
    """A daemon that ran, with a live change, and ended."""
    control = await desk.open()
    await control.override(WEIGHT, 5, Manner(by="ada"))
    await control.save(at_once=True)


def test_the_same_file_brings_back_what_ran(desk: Desk) -> None:
    async def work() -> None:
        await run_once(desk)
        again = await desk.open()
        assert (again.intent.generation, weights(again)) == (1, {"app1": 5, "app2": 1})
        assert desk.told[-1].startswith("override 1")

    asyncio.run(work())


def test_an_edited_file_is_a_new_generation_under_the_same_overrides(desk: Desk) -> None:
    async def work() -> None:
        await run_once(desk)
        desk.file.write_text(FILE.replace("app2: 198.51.100.2", "app3: 198.51.100.3"))
        again = await desk.open()
        assert (again.intent.generation, weights(again)) == (2, {"app1": 5, "app3": 1})
        assert [one.id for one in again.intent.overrides] == [1]
        assert [one.name.server for one in again.world.leaving] == ["app2"]

    asyncio.run(work())


def test_a_file_that_only_came_by_apply_stays_until_the_own_file_is_edited(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.take_file(FILE.replace("rr", "wrr").encode(), "other", Manner())
        await control.save(at_once=True)
        again = await desk.open()
        assert again.intent.generation == 2
        await again.save(at_once=True)
        desk.file.write_text(FILE.replace("rr", "mh"))
        assert (await desk.open()).intent.generation == 3

    asyncio.run(work())


@pytest.mark.parametrize("damage", ["broken", "missing"])
def test_a_bad_file_keeps_what_ran(desk: Desk, damage: str) -> None:
    async def work() -> None:
        await run_once(desk)
        if damage == "missing":
            desk.file.unlink()
        else:
            desk.file.write_text("apiVersion: lbctl/v7")
        again = await desk.open()
        assert weights(again) == {"app1": 5, "app2": 1}
        assert "not taken, generation 1 stays" in desk.told[-1]

    asyncio.run(work())


@pytest.mark.parametrize("what", ["huge", "pipe", "device", "directory"])
def test_a_file_without_end_is_not_read_and_keeps_what_ran(desk: Desk, what: str) -> None:
    async def work() -> None:
        await run_once(desk)
        spoil(desk.file, what)
        again = await desk.open()
        assert weights(again) == {"app1": 5, "app2": 1}
        assert "not taken, generation 1 stays" in desk.told[-1]
        assert "lbctl.yaml: " in desk.told[-1]

    asyncio.run(work())


def spoil(file: Path, what: str) -> None:
    """Put something else in the place of a file."""
    file.unlink()
    match what:
        case "huge":
            file.touch()
            os.truncate(file, 1 << 40)  # takes no room
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case _:
            file.mkdir()


def test_a_disk_that_takes_no_new_generation_keeps_what_ran(desk: Desk) -> None:
    async def work() -> None:
        await run_once(desk)
        desk.file.write_text(FILE.replace("rr", "wrr"))
        (desk.directory.path / "generations" / ".2.new").symlink_to("/dev/full")
        again = await desk.open()
        assert (again.intent.generation, weights(again)) == (1, {"app1": 5, "app2": 1})
        assert "not taken, generation 1 stays: " in desk.told[-1]
        assert "generation 2 cannot be kept: No space left on device" in desk.told[-1]
        await again.save(at_once=True)
        assert (await desk.open()).intent.generation == 2, "once there is room"

    asyncio.run(work())


def test_a_disk_that_takes_nothing_and_nothing_that_ran_is_an_error(desk: Desk) -> None:
    (desk.directory.path / "generations").mkdir(parents=True)
    (desk.directory.path / "generations" / ".1.new").symlink_to("/dev/full")
    with pytest.raises(Unkept, match="generation 1 cannot be kept: No space left on device"):
        asyncio.run(desk.open())


@pytest.mark.parametrize("damage", ["broken", "missing"])
def test_a_bad_file_and_nothing_that_ran_is_an_error_with_its_faults(
    desk: Desk, damage: str
) -> None:
    if damage == "missing":
        desk.file.unlink()
    else:
        desk.file.write_text("apiVersion: lbctl/v7")
    with pytest.raises(InvalidConfig, match=r"lbctl\.yaml"):
        asyncio.run(desk.open())


def test_without_a_state_file_the_newest_generation_counts(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.take_file(FILE.replace("rr", "wrr").encode(), "other", Manner())
        desk.directory.file.write_bytes(b"{")
        desk.file.write_text("broken: [")
        again = await desk.open()
        assert again.intent.generation == 2
        assert any(text.startswith("state: set aside as") for text in desk.told)

    asyncio.run(work())


def test_a_state_that_names_what_cannot_be_is_put_aside(desk: Desk) -> None:
    async def work() -> None:
        await run_once(desk)
        text = desk.directory.file.read_text()
        bad = '{"name": "web/x", "address": "nowhere", "port": 1, "weight": 1, '
        bad += '"max_connections": 0, "deadline": 1.0}'
        assert '"leaving": []' in text
        desk.directory.file.write_text(text.replace('"leaving": []', f'"leaving": [{bad}]'))
        again = await desk.open()
        assert weights(again)["app2"] == 1
        assert any(text.startswith("state: set aside as") for text in desk.told)

    asyncio.run(work())


def test_a_generation_that_cannot_be_read_gives_way_to_the_file(desk: Desk) -> None:
    async def work() -> None:
        await run_once(desk)
        (desk.directory.path / "generations" / "1").write_text("apiVersion: lbctl/v0")
        again = await desk.open()
        assert again.intent.generation == 2
        assert any(text.startswith("generation 1: not taken") for text in desk.told)

    asyncio.run(work())
