"""Every verb against a real daemon: what it prints, what it changes, how it ends."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from lbctl.config import parse
from lbctl.errors import Exit, LbctlError
from lbctl.lab.waiting import eventually

from .conftest import Daemon


def schedule(daemon: Daemon) -> list[tuple[str, ...]]:
    return [
        (row["name"], row["state"], row["admin"], row["weight"])
        for row in daemon.client.get("servers")
    ]


# --- asking -----------------------------------------------------------------------------


def test_tables_fit_a_terminal_and_say_what_is_so(steady: Daemon) -> None:
    services = steady.run("get", "services")
    assert services.code == 0
    head, row = services.out.splitlines()
    assert head.split() == ["NAME", "LISTEN", "SCHED", "STATE", "UP", "CONNS", "WHY"]
    assert row.split() == ["web", "192.0.2.10:80/tcp", "rr", "serving", "2/2", "0", "-"]
    servers = steady.run("get", "servers").out.splitlines()
    assert [line.split()[2:4] for line in servers[1:]] == [["serving", "1"], ["serving", "1"]]
    assert "\x1b" not in services.out


@pytest.mark.parametrize(
    "verb",
    [
        "get services",
        "get servers",
        "get servers web",
        "get status",
        "get overrides",
        "get events",
        "get generations",
        "get config",
        "describe web",
        "describe web/app1",
        "why web/app1",
        "stats --interval 0",
        "export",
        "diff",
    ],
)
def test_every_question_has_an_answer_for_programs_and_one_for_people(
    steady: Daemon, verb: str
) -> None:
    for_people = steady.run(*verb.split())
    assert for_people.code == 0, for_people.err
    for_programs = steady.run(*verb.split(), "-j")
    assert for_programs.json is not None
    assert steady.run("-j", *verb.split()).out.splitlines()[0] == for_programs.out.splitlines()[0]


def test_why_walks_the_rules_and_shows_the_evidence(daemon: Daemon) -> None:
    daemon.servers["app1"].stop()
    daemon.until(app1="down", app2="serving")
    why = daemon.run("why", "web/app1").out
    assert "=> health: down: 2 of 2 probes: connection refused" in why
    assert "ready: nobody ordered anything else" in why
    assert "last transitions:" in why
    answer = daemon.run("why", "web/app1", "-j").json
    assert answer["reasons"][-1]["decided"]
    assert [one["weight"] for one in answer["transitions"]][-2:] == [1, None]


def test_check_probes_now_and_prints_each_step(daemon: Daemon) -> None:
    done = daemon.run("check", "web/app1")
    assert done.code == 0, done.err
    head, *steps, last = done.out.splitlines()
    assert head == f"check: tcp 127.0.0.1:{daemon.servers['app1'].port}"
    assert [step.split(" ms  ")[1] for step in steps] == ["connecting"]
    assert " ms  up: connected in " in last
    daemon.servers["app1"].stop()
    daemon.until(app1="down", app2="serving")
    done = daemon.run("check", "web/app1")
    assert done.code == 1
    assert " ms  down: " in done.out
    assert "connection refused" in done.out.splitlines()[-1]


def test_export_is_a_file_that_apply_takes_without_a_change(daemon: Daemon) -> None:
    daemon.run("weight", "web/app1", "3")
    exported = daemon.home / "exported.yaml"
    exported.write_text(daemon.run("export").out)
    assert daemon.run("validate", str(exported)).code == 0
    assert daemon.run("diff", str(exported)).out == ""


def test_monitor_shows_events_as_they_come(daemon: Daemon) -> None:
    command = [*daemon.lbctl, "monitor", "-j", "--after", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())
        assert first["number"] == 1
        assert first["event"]["kind"] == "config_taken"
        assert daemon.run("drain", "web/app1", "--reason", "watch me").code == 0
        texts = [first["text"]]
        while "web/app1: drain ordered by root: watch me" not in texts:
            texts.append(json.loads(follower.stdout.readline())["text"])
        daemon.end()
        assert follower.wait(timeout=20) == Exit.UNREACHABLE


# --- changing ---------------------------------------------------------------------------


def test_drain_and_ready_change_the_schedule_at_once(daemon: Daemon) -> None:
    done = daemon.run("drain", "web/app1", "--reason", "disk")
    assert done.code == 0
    assert done.out.splitlines()[0] == "web/app1: draining"
    assert daemon.states()["web/app1"] == "draining"
    assert "drain ordered by root: disk" in daemon.run("get", "servers").out
    assert daemon.run("drain", "web/app1", "--reason", "disk").out == "nothing to do\n"
    assert daemon.run("ready", "web/app1").code == 0
    assert daemon.states()["web/app1"] == "serving"


def test_an_order_ends_when_its_time_is_over(daemon: Daemon) -> None:
    daemon.run("drain", "web/app1", "--for", "500ms")
    daemon.until(app1="serving", app2="serving")
    assert "web/app1: drain ended (its time is over)" in daemon.log


def test_whoever_asks_sees_when_an_order_ends(daemon: Daemon) -> None:
    assert daemon.run("drain", "web/app1", "--for", "90m").code == 0
    assert daemon.run("drain", "web/app2", "--force").code == 0
    for verb in ("why web/app1", "describe web/app1", "get servers", "describe web"):
        assert "; drain ends in 1h 29m" in daemon.run(*verb.split()).out, verb
    ends = {row["name"]: row["admin_until"] for row in daemon.client.get("servers")}
    assert 5300 < ends["web/app1"] - time.time() <= 5400
    assert ends["web/app2"] is None
    assert "ends in" not in daemon.run("why", "web/app2").out


def test_a_server_in_maintenance_is_not_checked(daemon: Daemon) -> None:
    assert daemon.client.get("status")["worker"]["checks"] == 2
    daemon.run("maint", "web/app1")
    assert daemon.client.get("status")["worker"]["checks"] == 1
    daemon.servers["app1"].stop()
    daemon.run("ready", "web/app1")
    daemon.until(app1="down", app2="serving")


@pytest.mark.parametrize(
    "verb",
    ["drain web/app2", "maint web/app2", "weight web/app2 0", "del server web/app2", "drain web"],
)
def test_the_last_server_is_not_taken_without_force(daemon: Daemon, verb: str) -> None:
    daemon.run("drain", "web/app1")
    refused = daemon.run(*verb.split())
    assert refused.code == Exit.REFUSED
    assert "no server would be left" in refused.err
    assert "--force" in refused.err
    assert daemon.states()["web/app2"] == "serving"
    assert daemon.run(*verb.split(), "--dry-run").code == Exit.REFUSED
    assert daemon.run(*verb.split(), "--force").code == 0
    assert daemon.states()["web/app2"] != "serving"


@pytest.mark.parametrize(
    "verb",
    [
        "drain web/app1",
        "maint web/app1",
        "weight web/app1 9",
        "set web scheduler=wrr",
        "add server web/app3 127.0.0.1:9",
        "add service dns --listen 192.0.2.11:53/udp --server a=127.0.0.1:9 --check none",
        "del server web/app1",
        "del service web --force",
    ],
)
def test_a_dry_run_shows_and_changes_nothing(steady: Daemon, verb: str) -> None:
    before = schedule(steady), steady.operations()
    shown = steady.run(*verb.split(), "--dry-run")
    assert shown.code == 0, shown.err
    first, *rest = shown.out.splitlines()
    assert first.startswith("dry run: ")
    assert rest
    assert (schedule(steady), steady.operations()) == before
    assert steady.client.get("overrides") == []


def test_a_server_is_added_weighed_and_removed_live(daemon: Daemon) -> None:
    address = f"127.0.0.1:{daemon.servers['app3'].port}"
    added = daemon.run("add", "server", "web/app3", address, "--weight", "2", "--reason", "sale")
    assert added.code == 0, added.err
    daemon.until(app1="serving", app2="serving", app3="serving")
    assert daemon.run("weight", "web/app3", "4").code == 0
    again = daemon.run("add", "server", "web/app3", address)
    assert (again.code, "exists already" in again.err) == (Exit.FAILED, True)
    changes = [row["change"] for row in daemon.client.get("overrides")]
    assert changes == [
        f'services.web.servers.app3 = {{"address":"{address}","weight":2}}',
        "services.web.servers.app3.weight = 4",
    ]
    assert daemon.run("del", "server", "web/app3").code == 0
    assert daemon.client.get("overrides") == []
    daemon.until(app1="serving", app2="serving", app3="leaving")


def test_the_service_behind_a_listen_is_a_file_of_its_own(daemon: Daemon) -> None:
    daemon.run("add", "service", "mail", "--listen", "192.0.2.11:25/tcp")
    text = daemon.client.text("config", listen="192.0.2.10:80/tcp")
    assert list(parse(text).config.services) == ["web"]
    assert parse(daemon.client.text("config", listen="192.0.2.9:80/tcp")).config.services == {}
    with pytest.raises(LbctlError, match="has no protocol"):
        daemon.client.text("config", listen="192.0.2.10:80")


def test_a_live_change_is_taken_back(daemon: Daemon) -> None:
    daemon.run("weight", "web/app1", "9")
    [override] = daemon.client.get("overrides")
    assert override["by"] == "root"
    assert daemon.run("unset", str(override["id"])).code == 0
    assert [row["configured"] for row in daemon.client.get("servers")] == [1, 1]


def test_a_live_change_ends_when_its_time_is_over(daemon: Daemon) -> None:
    daemon.run("weight", "web/app1", "9", "--for", "300ms")
    eventually(lambda: daemon.client.get("overrides") == [])
    assert [row["configured"] for row in daemon.client.get("servers")] == [1, 1]


def test_a_live_change_stays_on_top_of_a_new_file_and_is_shown_when_stale(daemon: Daemon) -> None:
    daemon.run("weight", "web/app2", "9")
    daemon.file.write_text(daemon.yaml(app1=1, app3=1))
    applied = daemon.run("apply")
    assert applied.code == 0
    assert "override 1 is about something that is gone (`lbctl unset 1` drops it)" in applied.err
    assert [row["stale"] for row in daemon.client.get("overrides")] == [True]


def test_a_service_is_added_and_removed_live(daemon: Daemon) -> None:
    port = daemon.servers["app3"].port
    verb = "add service api --listen 192.0.2.11:80/tcp --scheduler rr --check none"
    assert daemon.run(*verb.split(), "--server", f"a=127.0.0.1:{port}").code == 0
    assert [row["name"] for row in daemon.client.get("services")] == ["web", "api"]
    slip = daemon.run("del", "service", "api")
    assert slip.code == Exit.REFUSED
    assert "api: it serves, and would be gone at once" in slip.err
    assert daemon.run("drain", "api", "--force").code == 0
    assert daemon.run("del", "service", "api").code == 0, "it serves nobody any more"
    assert [row["name"] for row in daemon.client.get("services")] == ["web"]


def test_a_file_that_is_taken_under_an_override_says_so(daemon: Daemon) -> None:
    assert daemon.run("del", "service", "web", "--force").code == 0
    daemon.file.write_text(daemon.yaml(app1=1, app2=2))
    for verb in (["apply"], ["apply", str(daemon.file), "--dry-run"], ["rollback", "--to", "1"]):
        taken = daemon.run(*verb)
        assert taken.code == 0, taken.err
        on_top = "warning: override 1 (delete services.web) is on top of the file"
        assert f"{on_top} (`lbctl unset 1` takes it back)" in taken.err
    assert daemon.run("unset", "1").code == 0
    assert "on top" not in daemon.run("apply").err


# --- whole files ------------------------------------------------------------------------


def test_apply_shows_what_it_did_and_rollback_undoes_it(daemon: Daemon) -> None:
    file = daemon.home / "new.yaml"
    file.write_text(daemon.yaml("wrr", app1=3, app2=1))
    tried = daemon.run("diff", str(file))
    assert tried.code == Exit.FAILED
    assert "config: services.web.scheduler: rr -> wrr" in tried.out
    applied = daemon.run("apply", str(file), "--wait")
    assert applied.code == 0
    assert applied.out.splitlines()[0] == f"{file} runs as generation 2"
    assert "  192.0.2.10:80/tcp: set scheduler wrr" in applied.out.splitlines()
    assert daemon.run("apply", str(file)).out == "nothing to do\n"
    assert daemon.run("rollback").out.splitlines()[0] == "generation 1 runs"
    assert daemon.client.get("services")[0]["scheduler"] == "rr"
    assert daemon.run("rollback").code == Exit.FAILED
    assert daemon.run("rollback", "--to", "2").code == 0
    assert daemon.client.get("services")[0]["scheduler"] == "wrr"


def test_apply_wait_ends_with_8_where_a_server_gets_no_verdict(daemon: Daemon) -> None:
    file = daemon.home / "slow.yaml"
    slow = "{type: tcp, interval: 600s, timeout: 500s, fast_interval: 500s}"
    text = daemon.yaml()
    file.write_text(text.replace(text.split("check: ")[1].splitlines()[0], slow))
    waited = daemon.run("apply", str(file), "--wait", "--timeout", "0.5")
    assert waited.code == Exit.TIMEOUT
    assert "no verdict yet on web/app" in waited.err


BAD_FILES = {
    "garbage": os.urandom(2000),
    "too large": b"#" * (50 << 20),
    "another version": b"apiVersion: lbctl/v9\n",
    "not a mapping": b"[1, 2]\n",
    "empty": b"",
}


@pytest.mark.parametrize("kind", [*BAD_FILES, "weight", "unknown key", "no such file"])
@pytest.mark.parametrize("verb", ["apply", "validate", "diff"])
def test_an_invalid_file_changes_nothing_and_ends_with_3(
    steady: Daemon, kind: str, verb: str
) -> None:
    file = steady.home / "bad.yaml"
    good = steady.yaml(app1=1, app2=1)
    match kind:
        case "weight":
            file.write_text(steady.yaml(app1=70000))
        case "unknown key":
            file.write_text(good.replace("scheduler:", "schedular:"))
        case "no such file":
            pass
        case _:
            file.write_bytes(BAD_FILES[kind])
    refused = steady.run(verb, str(file))
    assert refused.code == Exit.INVALID
    assert str(file) in refused.err
    assert "Traceback" not in refused.err
    assert steady.client.get("status")["generation"] == 1
    assert steady.states() == {"web/app1": "serving", "web/app2": "serving"}


def test_what_the_kernel_refuses_stays_on_its_status_and_the_rest_is_applied(
    daemon: Daemon,
) -> None:
    bad = f"127.0.0.1:{daemon.servers['app1'].port}"
    daemon.refuse(bad)
    file = daemon.home / "new.yaml"
    file.write_text(daemon.yaml(app1=5, app2=5))
    applied = daemon.run("apply", str(file))
    assert applied.code == Exit.PARTIAL
    assert f"refused by the data path, and tried again: 192.0.2.10:80/tcp: set {bad}" in applied.err
    rows = daemon.client.get("servers")
    assert [len(row["problems"]) for row in rows] == [1, 0]
    assert "REFUSED: " in daemon.run("get", "servers").out
    assert daemon.run("diff").code == Exit.FAILED
    daemon.refuse()
    eventually(lambda: not daemon.client.get("servers")[0]["problems"], timeout=10)
    assert daemon.run("diff").code == 0


def with_refused_app3(daemon: Daemon) -> None:
    """app1 and app2 serve, and the data path takes no app3."""
    address = f"127.0.0.1:{daemon.servers['app3'].port}"
    daemon.refuse(f"add {address}")
    file = daemon.home / "three.yaml"
    file.write_text(daemon.yaml(app1=1, app2=1, app3=1))
    assert daemon.run("apply", str(file), "--wait", "--timeout", "6").code == Exit.PARTIAL


def test_a_server_that_is_refused_is_shown_so_and_counts_for_nothing(daemon: Daemon) -> None:
    with_refused_app3(daemon)
    assert schedule(daemon) == [
        ("web/app1", "serving", "ready", 1),
        ("web/app2", "serving", "ready", 1),
        ("web/app3", "refused", "ready", None),
    ]
    assert daemon.client.get("services")[0]["scheduled"] == 2
    assert "web/app3" not in [row["name"] for row in daemon.client.get("servers") if row["weight"]]
    daemon.run("drain", "web/app1")
    assert daemon.run("drain", "web/app2").code == Exit.REFUSED
    daemon.run("drain", "web/app2", "--force")
    service = daemon.client.get("services")[0]
    assert (service["state"], service["scheduled"]) == ("down", 0)
    assert "app3 is refused by the data path" in service["because"]
    daemon.refuse()
    daemon.until(app1="draining", app2="draining", app3="serving")
    assert daemon.client.get("services")[0]["state"] == "serving"


def test_a_listen_that_is_refused_serves_nobody(daemon: Daemon) -> None:
    daemon.refuse("add service")
    verb = "add service api --listen 192.0.2.11:80/tcp --server a=127.0.0.1:9 --check none"
    assert daemon.run(*verb.split()).code == Exit.PARTIAL
    api = daemon.client.get("services")[1]
    assert (api["state"], api["scheduled"]) == ("down", 0)
    assert daemon.states()["api/a"] == "refused"
    again = daemon.run("add", "server", "api/b", "127.0.0.1:10")
    assert again.code == Exit.PARTIAL, "it cannot be behind a listen that is not there"


def test_an_old_refusal_is_not_a_new_changes(daemon: Daemon) -> None:
    with_refused_app3(daemon)
    assert daemon.run("weight", "web/app1", "5").code == 0
    assert daemon.run("apply", str(daemon.home / "three.yaml"), "--wait").code == 0
    assert daemon.run("drain", "web/app2").code == 0
    assert daemon.run("weight", "web/app3", "5").code == Exit.PARTIAL
    daemon.active(app1=3)
    command = [*daemon.lbctl, "drain", "web/app1", "--wait", "--force"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == b"web/app1: 3 connections remain\n"
        daemon.active(app1=0)
        assert waiting.stderr.readline() == b"web/app1: no connection is left\n"
        assert waiting.wait(timeout=20) == 0


def test_a_drain_that_is_refused_waits_first_and_says_so_then(daemon: Daemon) -> None:
    daemon.refuse(f"set 127.0.0.1:{daemon.servers['app1'].port}")
    daemon.active(app1=3)
    command = [*daemon.lbctl, "drain", "web/app1", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith(b"refused by the data path")
        assert waiting.stderr.readline() == b"web/app1: 3 connections remain\n"
        daemon.active(app1=0)
        assert waiting.stderr.readline() == b"web/app1: no connection is left\n"
        assert waiting.wait(timeout=20) == Exit.PARTIAL


def test_apply_waits_until_nothing_is_refused(daemon: Daemon) -> None:
    daemon.refuse(f"add 127.0.0.1:{daemon.servers['app3'].port}")
    file = daemon.home / "three.yaml"
    file.write_text(daemon.yaml(app1=1, app2=1, app3=1))
    command = [*daemon.lbctl, "apply", str(file), "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        eventually(lambda: daemon.states().get("web/app3") == "refused")
        assert waiting.poll() is None
        daemon.refuse()
        assert waiting.wait(timeout=20) == 0


def test_several_fields_are_set_together_or_not_at_all(daemon: Daemon) -> None:
    wrong = daemon.run("set", "web", "scheduler=wrr", "check.interval=nonsense")
    assert wrong.code == Exit.INVALID
    assert daemon.client.get("overrides") == []
    assert daemon.client.get("services")[0]["scheduler"] == "rr"
    done = daemon.run("set", "web", "scheduler=wrr", "check.interval=200ms", "-j")
    assert done.code == 0
    assert done.json["changes"] == [
        "services.web.scheduler: rr -> wrr",
        "services.web.check.interval: 100ms -> 200ms",
    ]
    assert [row["id"] for row in daemon.client.get("overrides")] == [1, 2]


def test_another_gateway_is_told_to_need_a_restart(daemon: Daemon) -> None:
    daemon.file.write_text(daemon.yaml(app1=1, app2=1).replace("front0", "front1"))
    applied = daemon.run("apply")
    assert applied.code == 0
    assert "  config: gateway.front: front0 -> front1" in applied.out.splitlines()
    assert "warning: gateway: what changed there holds once the daemon is started again" in (
        applied.err
    )
    daemon.end()
    daemon.start()
    assert daemon.client.get("status")["warnings"] == []


# --- waiting for a drain ----------------------------------------------------------------


def test_drain_waits_until_no_connection_is_left(daemon: Daemon) -> None:
    daemon.active(app1=3, app2=5)
    command = [*daemon.lbctl, "drain", "web/app1", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == b"web/app1: 3 connections remain\n"
        daemon.active(app1=1, app2=5)
        assert waiting.stderr.readline() == b"web/app1: 1 connections remain\n"
        assert waiting.poll() is None
        daemon.active(app1=0, app2=5)
        assert waiting.stderr.readline() == b"web/app1: no connection is left\n"
        assert waiting.wait(timeout=20) == 0


def test_where_nobody_counts_drain_waits_for_silence_and_says_so(daemon: Daemon) -> None:
    daemon.active(app1=[7, 0.0])
    command = [*daemon.lbctl, "drain", "web/app1", "--wait"]
    waits = b" connections remain (an estimate); waits for silence (drain.quiet)\n"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == b"web/app1: about 7" + waits
        daemon.active(app1=[0, 59.0])
        assert waiting.stderr.readline() == b"web/app1: about 1" + waits
        assert waiting.poll() is None
        daemon.active(app1=[0, 61.0])
        silent = b"web/app1: no packet of an old connection came for drain.quiet\n"
        assert waiting.stderr.readline() == silent
        assert waiting.wait(timeout=20) == 0


def test_drain_gives_up_waiting_with_8_and_goes_on_draining(daemon: Daemon) -> None:
    daemon.active(app1=3)
    waited = daemon.run("drain", "web/app1", "--wait", "--timeout", "0.6")
    assert waited.code == Exit.TIMEOUT
    assert "3 connections remain; it goes on draining" in waited.err
    assert daemon.states()["web/app1"] == "draining"


@pytest.mark.parametrize("left", [3, 0])
def test_drain_ends_with_8_when_somebody_lifts_it(daemon: Daemon, left: int) -> None:
    daemon.active(app1=3)
    command = [*daemon.lbctl, "drain", "web/app1", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == b"web/app1: 3 connections remain\n"
        assert daemon.run("ready", "web/app1").code == 0
        daemon.active(app1=left)
        assert waiting.wait(timeout=20) == Exit.TIMEOUT
        assert b"web/app1: is drained no longer" in waiting.stderr.read()


def test_drain_ends_with_8_when_its_time_is_over(daemon: Daemon) -> None:
    daemon.active(app1=3)
    waited = daemon.run("drain", "web/app1", "--wait", "--for", "1s")
    assert waited.code == Exit.TIMEOUT
    assert "web/app1: is drained no longer" in waited.err


FORGED = "evil\x1b[31m\n2026-11-28 00:00:00  web/app2: up (forged)" + "x" * 300


def test_a_reason_is_one_line_and_no_terminals_command(daemon: Daemon) -> None:
    assert daemon.run("drain", "web/app1", "--reason", FORGED).code == 0
    assert daemon.run("weight", "web/app2", "3", "--reason", FORGED).code == 0
    file = daemon.home / "a\nb\x1b[2J.yaml"
    file.write_text(daemon.yaml(app1=1, app2=2))
    assert daemon.run("apply", str(file)).code == 0
    for verb in ("get events", "get overrides", "get generations", "why web/app1", "get servers"):
        shown = daemon.run(*verb.split())
        assert shown.code == 0
        assert all(line.isprintable() for line in shown.out.splitlines()), shown.out
        assert not any(line.startswith("2026-11-28 00:00:00") for line in shown.out.splitlines())
    assert all(line.isprintable() for line in daemon.log.splitlines()), daemon.log
    assert "evil\\x1b[31m\\x0a2026-11-28" in daemon.log
    assert "a\\x0ab\\x1b[2J.yaml" in daemon.run("get", "generations").out
    [override] = daemon.client.get("overrides")
    assert len(override["reason"]) == 200


def test_drain_says_so_when_connections_were_given_up(daemon: Daemon) -> None:
    daemon.file.write_text(daemon.yaml(drain="4s", app1=1, app2=1))
    assert daemon.run("apply").code == 0
    daemon.active(app1=3)
    waited = daemon.run("drain", "web/app1", "--wait")
    assert waited.code == Exit.TIMEOUT
    assert "web/app1: its drain timeout passed: up to 3 connections were given up" in waited.err
    assert daemon.states()["web/app1"] == "drained"


@pytest.mark.parametrize("what", [["server", "web/app1"], ["service", "web"]])
def test_a_server_that_goes_while_it_has_connections_was_given_up(
    daemon: Daemon, what: list[str]
) -> None:
    daemon.file.write_text(daemon.yaml(drain="4s", app1=1, app2=1))
    assert daemon.run("apply").code == 0
    daemon.active(app1=3)
    command = [*daemon.lbctl, "-j", "drain", "web/app1", "--wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        eventually(lambda: daemon.states()["web/app1"] == "draining")
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"{\n"
        assert daemon.run("del", *what, "--force").code == 0
        assert waiting.wait(timeout=20) == Exit.TIMEOUT
        assert waiting.stderr is not None
        said = json.loads(waiting.stderr.read())
    assert said["exit_code"] == Exit.TIMEOUT
    assert "up to 3 connections were given up" in said["error"]


def test_the_bar_shows_whoever_watches_what_remains(daemon: Daemon) -> None:
    daemon.active(app1=3)
    ours, theirs = os.openpty()
    command = [*daemon.lbctl, "drain", "web/app1", "--wait"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as waiting:
        os.close(theirs)
        seen = read_until(ours, b"web/app1: 3 connections remain")
        daemon.active(app1=1)
        seen += read_until(ours, b"web/app1: 1 connections remain")
        daemon.active(app1=0)
        seen += read_until(ours, b"web/app1: no connection is left")
        assert waiting.wait(timeout=20) == 0
    os.close(ours)
    assert "━" in seen.decode()
    assert b"\x1b[" in seen, "a terminal gets a bar that is drawn in place"


def read_until(terminal: int, text: bytes) -> bytes:
    """What a program draws, up to `text`; the end of the program is the end of waiting."""
    seen = b""
    while text not in seen:
        seen += os.read(terminal, 65536)
    return seen


def test_a_server_that_is_gone_already_is_not_waited_for(daemon: Daemon) -> None:
    daemon.servers["app1"].stop()
    daemon.until(app1="down", app2="serving")
    daemon.active(app1=3)
    assert daemon.run("drain", "web/app1", "--wait").code == 0


# --- what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "code", "says"),
    [
        ("drain wbe/app1", Exit.FAILED, "did you mean 'web'?"),
        ("drain web/ap1", Exit.FAILED, "did you mean 'app1'?"),
        ("weight web/ap1 3", Exit.FAILED, "did you mean 'app1'?"),
        ("del server web/ap1", Exit.FAILED, "did you mean 'app1'?"),
        ("add server wbe/app9 192.0.2.1", Exit.FAILED, "did you mean 'web'?"),
        ("get services wbe", Exit.FAILED, "did you mean 'web'?"),
        ("get servers wbe", Exit.FAILED, "did you mean 'web'?"),
        ("describe wbe", Exit.FAILED, "did you mean 'web'?"),
        ("why web/ap1", Exit.FAILED, "did you mean 'app1'?"),
        ("why web", Exit.USAGE, "is not SERVICE/SERVER"),
        ("describe web/", Exit.USAGE, "'web/' is not SERVICE/SERVER"),
        ("weight web/app1 70000", Exit.INVALID, "override services.web.servers.app1.weight:"),
        ("weight web/app1 x", Exit.USAGE, "'x' is not a valid integer"),
        ("set web schedular=rr", Exit.INVALID, "did you mean 'scheduler'?"),
        ("set web scheduler", Exit.USAGE, "is not NAME=VALUE"),
        ("drain web/app1 --for ever", Exit.USAGE, "is not a duration"),
        ("unset 99", Exit.FAILED, "there is none with this number"),
        ("stats --interval inf", Exit.USAGE, "not between 0 and"),
        ("stats --interval 1e300", Exit.USAGE, "not between 0 and"),
        ("stats --interval nan", Exit.USAGE, "not between 0 and"),
        ("stats --interval -1", Exit.USAGE, "not between 0 and"),
        ("drain web/app1 --wait --timeout nan", Exit.USAGE, "not between 0 and"),
        ("maint web/app1 --wait --timeout -5", Exit.USAGE, "not between 0 and"),
        ("apply --wait --timeout x", Exit.USAGE, "is not a number of seconds"),
        ("get events -n 0", Exit.USAGE, "is not in the range"),
        ("get events -n -1", Exit.USAGE, "is not in the range"),
        ("describe \udcff", Exit.FAILED, "there is no such service"),
        ("get servers \udcff", Exit.FAILED, "there is no such service"),
        ("drain \udcff", Exit.USAGE, "request body"),
        ("frobnicate", Exit.USAGE, "No such verb 'frobnicate'"),
        ("drian web/app1", Exit.USAGE, "Did you mean 'drain'?"),
        ("rollback --to 77", Exit.FAILED, "generation 77: it is not kept"),
    ],
)
def test_mistakes_are_named_with_their_mend(
    steady: Daemon, verb: str, code: Exit, says: str
) -> None:
    wrong = steady.run(*verb.split())
    assert (wrong.code, wrong.out) == (code, "")
    assert says in wrong.err
    assert "Traceback" not in wrong.err
    assert steady.client.get("overrides") == []


@pytest.mark.parametrize(
    "verb", ["weight web/app1 x", "set web scheduler", "frobnicate", "drain", "get", "drain a b"]
)
def test_mistakes_are_told_to_programs_too(steady: Daemon, verb: str) -> None:
    wrong = steady.run("-j", *verb.split())
    assert (wrong.code, wrong.out) == (Exit.USAGE, "")
    said = json.loads(wrong.err)
    assert said["exit_code"] == Exit.USAGE
    assert said["error"]


def test_without_a_daemon_the_command_that_starts_it_is_named(tmp_path: Path, stopped) -> None:
    alone = stopped.run("get", "services")
    assert alone.code == Exit.UNREACHABLE
    assert "no daemon runs here" in alone.err
    assert f"`lbctl daemon --config /etc/lbctl/lbctl.yaml --socket {stopped.socket}`" in alone.err
    as_json = json.loads(stopped.run("get", "services", "-j").err)
    assert as_json["exit_code"] == Exit.UNREACHABLE


def test_a_file_whose_name_is_no_text_is_applied(daemon: Daemon) -> None:
    file = daemon.home / "x\udcff.yaml"
    file.write_text(daemon.yaml(app1=1, app2=2))
    applied = daemon.run("apply", str(file))
    assert (applied.code, applied.err) == (0, "")
    assert "runs as generation 2" in applied.out
    missing = daemon.run("apply", str(daemon.home / "y\udcff.yaml"))
    assert missing.code == Exit.INVALID
    assert "cannot be read: No such file" in missing.err


def test_each_fault_begins_with_its_place(stopped: Daemon) -> None:
    stopped.file.write_text(stopped.yaml("nonsense", app1=70000))
    said = stopped.run("validate", str(stopped.file)).err.splitlines()
    assert len(said) == 2
    assert all(
        re.match(rf"{re.escape(str(stopped.file))}:\d+:\d+: services\.web\.", one) for one in said
    )


def test_validate_needs_no_daemon(stopped: Daemon) -> None:
    assert stopped.run("validate", str(stopped.file)).out.endswith("good (1 services, 2 servers)\n")
