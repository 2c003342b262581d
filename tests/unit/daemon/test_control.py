"""Changes: tried, refused, taken, taken back. The file is read for real; time is virtual."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lbctl.daemon.control import Control, Manner, Outcome
from lbctl.daemon.journal import Journal
from lbctl.daemon.reader import ConfigReader
from lbctl.daemon.startup import stand_up
from lbctl.daemon.state import StateDirectory, Unkept
from lbctl.errors import InvalidConfig, NotFound, Refused
from lbctl.health.judge import Health
from lbctl.model import Listen, ServerName
from lbctl.world import Admin, target_of

from .stand import VirtualTime

FILE = """
apiVersion: lbctl/v1
gateway: {front: front0}
services:
  web:
    listen: 192.0.2.10:80/tcp
    scheduler: rr
    drain: {timeout: 100s}
    servers:
      app1: 198.51.100.1:8080
      app2: 198.51.100.2:8080
"""
BY_ADA = Manner(by="ada")
FORCED = Manner(by="ada", force=True)
WEIGHT = ("services", "web", "servers", "app1", "weight")
APP3 = ("services", "web", "servers", "app3")
APP1_NAME = ServerName("web", "app1")


class Desk:
    """A control with all that it needs, and what it told and marked."""

    def __init__(self, home: Path, text: str = FILE) -> None:
        self.time = VirtualTime(1000.0)
        self.file = home / "lbctl.yaml"
        self.file.write_text(text)
        self.directory = StateDirectory(home / "state")
        self.journal = Journal(self.time.clock)
        self.read = ConfigReader(None)
        self.touched: list[set[str]] = []
        self.changes = 0

    async def open(self) -> Control:
        with self.directory.locked():
            pass
        standing = await stand_up(
            self.file, self.directory, self.journal, self.time.clock, self.read
        )
        control = Control(standing, self.directory, self.journal, self.time.clock, self.read)
        control.on_touched.append(self.touched.append)
        control.on_changed.append(self.count)
        return control

    def count(self) -> None:
        self.changes += 1

    @property
    def told(self) -> list[str]:
        return [record.text for record in self.journal.history.since(0)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def weights(control: Control) -> dict[str, int]:
    servers = control.world.config.services["web"].servers
    return {name: server.weight for name, server in servers.items()}


def story(work: Callable[[], object]) -> None:
    asyncio.run(work())


def see(control: Control, health: Health, *names: str) -> None:
    web = control.world.config.services["web"]
    for name in names:
        target = target_of(web, web.servers[name])
        assert target is not None
        control.see(target, health, "seen")


def test_a_change_is_marked_told_and_shown_with_its_operations(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        outcome = await control.override(WEIGHT, 5, BY_ADA)
        assert outcome == Outcome(
            changed=True,
            generation=1,
            override=1,
            services=("web",),
            changes=("services.web.servers.app1.weight: 1 -> 5",),
            operations=("192.0.2.10:80/tcp: set 198.51.100.1:8080 weight 5",),
        )
        assert desk.touched == [{"web"}]
        assert desk.told[-1] == "override 1: services.web.servers.app1.weight = 5 by ada"
        assert weights(control) == {"app1": 5, "app2": 1}

    story(work)


def test_a_disk_that_does_not_take_a_file_changes_nothing(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        told, world = desk.told, control.world
        (desk.directory.path / "generations" / ".2.new").symlink_to("/dev/full")
        with pytest.raises(Unkept, match="generation 2 cannot be kept"):
            await control.take_file(FILE.replace("rr", "wrr").encode(), "x", BY_ADA)
        assert (control.intent.generation, control.world is world) == (1, True)
        assert (desk.told, desk.touched, desk.changes) == (told, [], 0)

    story(work)


def test_an_override_that_ends_asks_nothing_of_the_disk(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.override(WEIGHT, 5, replace(BY_ADA, until=1010.0))
        generations = desk.directory.path / "generations"
        (generations / "1").unlink()
        (generations / ".1.new").symlink_to("/dev/full")
        desk.time.now = 1011.0
        await control.drop_expired()
        assert weights(control) == {"app1": 1, "app2": 1}

    story(work)


def test_a_service_that_serves_is_removed_with_force_alone_and_hides_the_file(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        with pytest.raises(Refused, match="web: it serves, and would be gone at once"):
            await control.override(("services", "web"), None, BY_ADA)
        gone = await control.override(("services", "web"), None, FORCED)
        assert (gone.override, gone.warnings) == (1, ())
        taken = await control.take_file(FILE.replace("rr", "wrr").encode(), "x", BY_ADA)
        assert taken.warnings == (
            "override 1 (delete services.web) is on top of the file "
            "(`lbctl unset 1` takes it back)",
        )

    story(work)


def test_of_many_overrides_on_top_a_few_are_named(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        for number in range(7):
            path = ("services", "web", "servers", f"new{number}")
            value = {"address": f"198.51.100.{number + 10}", "port": 8080}
            await control.override(path, value, BY_ADA)
        *named, rest = (await control.take_file(FILE.encode(), "x", BY_ADA)).warnings
        assert len(named) == 5
        assert rest == "and 2 overrides more (`lbctl get overrides`)"

    story(work)


def test_a_dry_run_is_the_same_answer_and_no_change(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        told = desk.told
        dry = await control.override(WEIGHT, 5, replace(BY_ADA, dry_run=True))
        assert dry.operations == ("192.0.2.10:80/tcp: set 198.51.100.1:8080 weight 5",)
        await control.take_file(FILE.replace("rr", "wrr").encode(), "x", Manner(dry_run=True))
        await control.order([APP1_NAME], Admin.DRAIN, Manner(dry_run=True))
        assert weights(control) == {"app1": 1, "app2": 1}
        assert (desk.touched, desk.told, desk.directory.generations()) == ([], told, [1])
        assert control.world.orders == {}

    story(work)


def test_an_invalid_change_leaves_everything_as_it_was(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        for change in (
            control.override(WEIGHT, 70000, BY_ADA),
            control.take_file(b"\x00", "garbage", BY_ADA),
            control.override(("services", "web", "listen"), "192.0.2.10", BY_ADA),
        ):
            with pytest.raises(InvalidConfig):
                await change
        with pytest.raises(NotFound):
            await control.override(("services", "nowhere", "scheduler"), "rr", BY_ADA)
        assert control.intent.overrides == ()
        assert desk.touched == []
        assert desk.directory.generations() == [1]

    story(work)


def test_a_newer_override_takes_the_place_of_an_older_one_on_its_path(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.override(WEIGHT, 5, BY_ADA)
        await control.override(WEIGHT, 6, BY_ADA)
        assert [(one.id, one.value) for one in control.intent.overrides] == [(2, 6)]
        await control.drop_override(2, BY_ADA)
        assert weights(control) == {"app1": 1, "app2": 1}
        with pytest.raises(NotFound, match="override 2: there is none"):
            await control.drop_override(2, BY_ADA)

    story(work)


def test_deleting_what_only_an_override_made_takes_the_override(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.override(APP3, {"address": "198.51.100.3:8080"}, BY_ADA)
        await control.override((*APP3, "weight"), 4, BY_ADA)
        await control.override(APP3, None, BY_ADA)
        assert control.intent.overrides == ()
        assert [text for text in desk.told if "dropped (deleted by ada)" in text][1].startswith(
            "override 2: "
        )

    story(work)


def test_deleting_what_the_file_has_is_an_override_of_its_own(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.override(WEIGHT, 4, BY_ADA)
        await control.override(WEIGHT[:-1], None, BY_ADA)
        assert [str(one) for one in control.intent.overrides] == [
            "delete services.web.servers.app1"
        ]
        assert weights(control) == {"app2": 1}

    story(work)


def test_several_values_are_taken_together_or_not_at_all(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        before, told = control.intent, desk.told
        for wrong in ((WEIGHT, 70000), (("services", "nowhere", "scheduler"), "rr")):
            with pytest.raises((InvalidConfig, NotFound)):
                await control.override_all([(WEIGHT, 5), wrong], BY_ADA)
            assert (control.intent, desk.told, desk.touched) == (before, told, [])
        app2 = (*WEIGHT[:3], "app2", "weight")
        outcome = await control.override_all([(WEIGHT, 5), (app2, 6)], BY_ADA)
        assert outcome.override == 2
        assert weights(control) == {"app1": 5, "app2": 6}
        assert desk.touched == [{"web"}], "one change, looked at once"

    story(work)


def test_what_a_list_makes_and_deletes_leaves_nothing_and_its_number_is_used(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        added = {"address": "198.51.100.3:8080"}
        values = [(APP3, added), (APP3, None), (WEIGHT, 5)]
        outcome = await control.override_all(values, BY_ADA)
        assert [one.id for one in control.intent.overrides] == [2]
        assert (outcome.override, weights(control)) == (2, {"app1": 5, "app2": 1})
        assert "deleted by ada" in " ".join(desk.told)

    story(work)


def test_an_override_ends_when_its_time_is_over(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.override(WEIGHT, 5, replace(BY_ADA, until=desk.time.now + 60))
        desk.time.now += 59
        await control.drop_expired()
        assert weights(control)["app1"] == 5
        desk.time.now += 1
        await control.drop_expired()
        assert weights(control)["app1"] == 1
        assert desk.told[-1].endswith("dropped (its time is over)")

    story(work)


def test_an_expired_override_that_the_file_cannot_do_without_stays(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        listen = ("services", "web", "listen")
        await control.override(
            listen, "192.0.2.99:80/tcp", replace(BY_ADA, until=desk.time.now + 1)
        )
        both = FILE + (
            "  other:\n    listen: 192.0.2.10:80/tcp\n    scheduler: rr\n"
            "    servers: {app1: '198.51.100.9:80'}\n"
        )
        await control.take_file(both.encode(), "both", BY_ADA)
        desk.time.now += 2
        await control.drop_expired()
        await control.drop_expired()
        assert [one.until for one in control.intent.overrides] == [None]
        refused = [text for text in desk.told if "without its expired overrides" in text]
        assert len(refused) == 1

    story(work)


def test_ids_are_not_given_twice(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.override(WEIGHT, 5, BY_ADA)
        await control.drop_override(1, BY_ADA)
        await control.save(at_once=True)
        again = await desk.open()
        assert (await again.override(WEIGHT, 5, BY_ADA)).override == 2

    story(work)


def test_the_same_text_is_no_new_generation(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        outcome = await control.take_file(FILE.encode(), "again", BY_ADA)
        assert (outcome.changed, outcome.generation) == (False, 1)
        assert desk.directory.generations() == [1]

    story(work)


def test_rollback_goes_one_back_each_time_and_by_number(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        for scheduler in ("wrr", "mh"):
            await control.take_file(FILE.replace("rr", scheduler).encode(), "x", BY_ADA)
        seen = []
        for to in (None, None, 3):
            outcome = await control.rollback(to, BY_ADA)
            seen.append((outcome.generation, control.world.config.services["web"].scheduler.name))
        assert seen == [(2, "wrr"), (1, "rr"), (3, "mh")]
        await control.rollback(1, BY_ADA)
        with pytest.raises(NotFound, match="there is none before it"):
            await control.rollback(None, BY_ADA)
        assert (await control.take_file(FILE.encode(), "x", BY_ADA)).generation == 1

    story(work)


def test_the_last_server_is_guarded_but_not_in_a_whole_file(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.order([APP1_NAME], Admin.DRAIN, BY_ADA)
        with pytest.raises(Refused, match="web: no server would be left"):
            await control.order([ServerName("web", "app2")], Admin.MAINT, BY_ADA)
        with pytest.raises(Refused):
            await control.override((*WEIGHT[:3], "app2", "weight"), 0, BY_ADA)
        await control.order([ServerName("web", "app2")], Admin.MAINT, FORCED)
        for name in ("app1", "app2"):
            await control.order([ServerName("web", name)], Admin.READY, BY_ADA)
        idle = FILE.replace("scheduler: rr", "scheduler: wrr")
        for number in (1, 2):
            short = f"app{number}: 198.51.100.{number}:8080"
            whole = f"app{number}: {{address: '198.51.100.{number}:8080', weight: 0}}"
            idle = idle.replace(short, whole)
        await control.take_file(idle.encode(), "idle", BY_ADA)
        assert weights(control) == {"app1": 0, "app2": 0}

    story(work)


def test_a_server_that_is_down_anyway_may_be_drained(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        see(control, Health.DOWN, "app1", "app2")
        await control.order([APP1_NAME], Admin.DRAIN, BY_ADA)

    story(work)


def test_a_later_order_does_not_give_a_servers_flows_longer(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.order([APP1_NAME], Admin.DRAIN, BY_ADA)
        desk.time.now += 50
        await control.order([APP1_NAME], Admin.MAINT, replace(BY_ADA, reason="disk"))
        order = control.world.orders[APP1_NAME]
        assert (order.admin, order.deadline) == (Admin.MAINT, 1100.0)
        await control.order([APP1_NAME], Admin.READY, BY_ADA)
        await control.order([APP1_NAME], Admin.DRAIN, BY_ADA)
        assert control.world.orders[APP1_NAME].deadline == 1150.0

    story(work)


def test_the_same_order_twice_is_told_once(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        for _ in range(2):
            outcome = await control.order([APP1_NAME], Admin.DRAIN, BY_ADA)
        assert not outcome.changed
        ready = await control.order([ServerName("web", "app2")], Admin.READY, BY_ADA)
        assert not ready.changed
        assert desk.told.count("web/app1: drain ordered by ada") == 1

    story(work)


def test_verdicts_are_told_when_they_change_and_dirty_their_service(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        see(control, Health.UP, "app1")
        see(control, Health.UP, "app1")
        see(control, Health.DOWN, "app1")
        assert desk.told[1:] == ["web/app1: up (seen)", "web/app1: down (seen)"]
        assert desk.touched == [{"web"}] * 3
        assert desk.changes == 0  # nothing that the probe worker must hear of

    story(work)


def test_a_state_that_cannot_be_written_is_told_once_and_tried_again(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.save(at_once=True)
        state = desk.directory.path
        state.rename(state.with_name("away"))
        await control.override(WEIGHT, 5, BY_ADA)
        for _ in range(3):
            await control.save(at_once=True)
            desk.time.now += 30
        assert "cannot be written: No such file or directory" in control.save_error
        assert sum("cannot be written" in text for text in desk.told) == 1
        state.with_name("away").rename(state)
        await control.save()
        assert control.save_error == ""
        assert (desk.directory.load()[0] or None) is not None

    story(work)


def test_what_people_want_is_written_down_first_and_a_verdict_waits_for_no_disk(
    desk: Desk,
) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.save(at_once=True)
        see(control, Health.DOWN, "app1")
        await control.save_intent()
        saved, _ = desk.directory.load()
        assert saved is not None
        assert saved.sightings == ()
        await control.override(WEIGHT, 5, BY_ADA)
        await control.save_intent()
        saved, _ = desk.directory.load()
        assert saved is not None
        assert (len(saved.overrides), len(saved.sightings)) == (1, 1)

    story(work)


def test_verdicts_are_saved_at_most_once_a_second(desk: Desk, monkeypatch) -> None:
    async def work() -> None:
        control = await desk.open()
        await control.save(at_once=True)
        see(control, Health.UP, "app1")
        await control.save()
        assert desk.directory.load()[0].sightings == ()
        assert control.deadline == desk.time.now + 1.0
        desk.time.now += 1.0
        await control.save()
        assert len(desk.directory.load()[0].sightings) == 1
        assert control.deadline is None

    story(work)


def test_however_many_are_deleted_the_file_is_read_twice(desk: Desk) -> None:
    """`lbctl ipvsadm -C` after `-R`: a thousand services that only overrides had made."""

    async def work() -> None:
        control = await desk.open()
        paths = [("services", "web", "servers", f"new{n}") for n in range(20)]
        await control.override_all(
            [(path, {"address": f"198.51.100.{n}:80"}) for n, path in enumerate(paths, 20)], BY_ADA
        )
        reads = []

        async def read(*asked: object) -> object:
            reads.append(asked)
            return await desk.read(*asked)

        control._read = read
        await control.override_all([(path, None) for path in paths], FORCED)
        assert control.intent.overrides == ()
        assert len(reads) == 2

    asyncio.run(work())


def test_a_restless_ring_is_its_services_matter_until_it_is_calm(desk: Desk) -> None:
    async def work() -> None:
        control = await desk.open()
        ring, foreign = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.99:80/tcp")
        control.calm({ring: 0.25, foreign: 0.5})
        assert control.world.unrest == {"web": 0.25}
        control.calm({ring: 0.25})
        control.calm({})
        assert control.world.unrest == {}
        assert desk.touched == [{"web"}, {"web"}]

    asyncio.run(work())
