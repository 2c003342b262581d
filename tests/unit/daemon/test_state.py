"""What survives: the state file, through clocks that start anew and files that are damaged."""

import os
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from lbctl.daemon.overrides import Override
from lbctl.daemon.state import (
    KEPT_GENERATIONS,
    Saved,
    StateDirectory,
    Unkept,
    move_override,
    restore_facts,
    with_facts,
)
from lbctl.errors import LbctlError, NotFound
from lbctl.health.judge import Health
from lbctl.model import Server, ServerName
from lbctl.world import Admin, Leaving, Order, Sighting, World, target_of

from .stand import WALL, VirtualTime, config, service

APP1, APP2 = ServerName("web", "app1"), ServerName("web", "app2")


def busy_world() -> World:
    """One with something to remember of every kind."""
    world = World(config(web=service(1, 2, 3)))
    web = world.config.services["web"]
    target = target_of(web, web.servers["app1"])
    assert target is not None
    world.sightings[target] = Sighting(Health.DOWN, "3 of 3 probes: timed out", 90.0)
    world.orders[APP2] = Order(Admin.DRAIN, 80.0, 380.0, 700.0, "disk", "ada")
    gone = Server(ip_address("2001:db8::9"), None, 3, 100)
    world.leaving.append(Leaving(ServerName("web", "gone"), gone, 150.0))
    world.newcomers.add(ServerName("web", "app3"))
    return world


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    directory = StateDirectory(tmp_path / "state")
    with directory.locked():
        pass
    return directory


def test_all_facts_come_back_after_a_reboot_set_the_clock_to_zero(directory) -> None:
    before, after = VirtualTime(now=100.0), VirtualTime(now=5.0, drift=155.0)
    world = busy_world()
    directory.save(with_facts(Saved(), world, before.clock))
    saved, _ = directory.load()
    found = World(world.config)
    restore_facts(found, saved, after.clock)  # a minute of wall clock later
    assert found.newcomers == world.newcomers
    [sighting] = found.sightings.values()
    assert sighting == Sighting(Health.DOWN, "3 of 3 probes: timed out", 90.0 - 155.0)
    assert found.orders == {APP2: Order(Admin.DRAIN, -75.0, 225.0, 545.0, "disk", "ada")}
    [leaving] = found.leaving
    assert (leaving.server, leaving.deadline) == (world.leaving[0].server, -5.0)


def test_what_the_configuration_does_not_know_any_more_stays_behind(directory) -> None:
    time = VirtualTime(100.0)
    directory.save(with_facts(Saved(), busy_world(), time.clock))
    saved, _ = directory.load()
    other = World(config(dns=service(7, listens="192.0.2.11:53/udp")))
    restore_facts(other, saved, time.clock)
    assert (other.orders, other.sightings, other.leaving, other.newcomers) == ({}, {}, [], set())


def test_an_override_keeps_its_end_through_the_wall_clock() -> None:
    one = Override(3, ("services", "web"), {"a": [1, None]}, "why", "ada", 50.0, 160.0)
    before, after = VirtualTime(now=100.0), VirtualTime(now=0.0, drift=160.0)
    saved = msgspec.json.decode(
        msgspec.json.encode(move_override(one, before.clock.to_wall)), type=Override
    )
    assert saved.until == WALL + 160.0
    again = move_override(saved, after.clock.from_wall)
    assert (again.since, again.until) == (-110.0, 0.0)
    assert again.value == one.value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x01",
        b"[]",
        b'{"version": "x"}',
        b'{"orders": {"web/app1": {}}}',
        bytes(range(157, 256)),
    ],
)
def test_a_damaged_file_is_no_state_and_says_why(directory, data: bytes) -> None:
    directory.file.write_bytes(data)
    saved, why = directory.load()
    assert saved is None
    assert why
    aside = directory.set_aside()
    assert aside.read_bytes() == data
    assert directory.load() == (None, "")


def test_a_file_of_another_version_is_not_guessed_at(directory) -> None:
    directory.save(Saved(version=2))
    assert directory.load() == (None, "version 2; this lbctl writes version 1")


def test_a_write_that_fails_leaves_the_old_file_whole(directory, monkeypatch) -> None:
    directory.save(Saved(generation=1))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        directory.save(Saved(generation=2))
    saved, _ = directory.load()
    assert saved.generation == 1


def test_the_newest_generations_are_kept(directory) -> None:
    for number in range(1, KEPT_GENERATIONS + 5):
        directory.keep_generation(number, f"{number}".encode())
    kept = directory.generations()
    assert (kept[0], kept[-1], len(kept)) == (5, KEPT_GENERATIONS + 4, KEPT_GENERATIONS)
    assert directory.generation(7) == b"7"
    with pytest.raises(NotFound, match="generation 4: it is not kept"):
        directory.generation(4)


def test_a_full_disk_keeps_nothing_and_says_what_would_mend_it(directory) -> None:
    directory.keep_generation(1, b"one")
    scratch = directory.path / "generations" / ".2.new"
    scratch.symlink_to("/dev/full")
    with pytest.raises(Unkept, match="generation 2 cannot be kept: No space left") as caught:
        directory.keep_generation(2, b"two")
    assert "make room there" in caught.value.hint
    assert directory.generations() == [1]
    assert not scratch.is_symlink(), "what was begun is in the way of nobody"
    directory.keep_generation(2, b"two")
    assert directory.generation(2) == b"two"


def test_somebody_may_tidy_up_the_generations(directory) -> None:
    (directory.path / "generations").rmdir()
    assert directory.generations() == []
    directory.keep_generation(3, b"three")
    assert directory.generations() == [3]


def test_what_is_no_directory_or_file_is_told(directory) -> None:
    (directory.path / "generations" / "4").mkdir()
    with pytest.raises(Unkept, match="generations/4: cannot be read: Is a directory"):
        directory.generation(4)
    (directory.path / "generations" / "4").rmdir()
    (directory.path / "generations").rmdir()
    (directory.path / "generations").touch()
    with pytest.raises(Unkept, match="generations: cannot be read: Not a directory"):
        directory.generations()
    directory.file.mkdir()
    assert directory.load() == (None, "Is a directory")


def test_two_daemons_do_not_share_a_directory(tmp_path: Path) -> None:
    one = StateDirectory(tmp_path)
    with one.locked(), pytest.raises(LbctlError, match="another daemon"), one.locked():
        pass
    with one.locked():
        pass


def test_a_directory_that_cannot_be_says_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unusable = StateDirectory(tmp_path / "file" / "state")
    with pytest.raises(LbctlError, match="cannot keep state here: Not a directory"):
        unusable.locked().__enter__()
