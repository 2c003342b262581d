"""The spawner with scripts that behave and scripts that do not."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest
from listeners import PATIENCE

from lbctl.lab.waiting import eventually
from lbctl.spawner import MOST_AT_ONCE, PACKET, Ended, Script

ENV = {"PATH": "/usr/bin:/bin"}


class Spawner:
    def __init__(self, *command: str) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(PATIENCE)
        words = command or ("-m", "lbctl.spawner")
        self.process = subprocess.Popen([sys.executable, *words], stdin=theirs)
        theirs.close()

    def ask(self, shell: str, id: int = 1, timeout: float = PATIENCE, **more) -> None:
        script = Script(id, ("/bin/sh", "-c", shell), more.pop("env", ENV), timeout, **more)
        self.line.send(msgspec.json.encode(script))

    def hear(self) -> Ended:
        return msgspec.json.decode(self.line.recv(PACKET), type=Ended)

    def run(self, shell: str, **more) -> Ended:
        self.ask(shell, **more)
        return self.hear()


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    one = Spawner()
    yield one
    one.line.close()
    one.process.wait(PATIENCE)


def nobody_runs(mark: str) -> bool:
    """No process has `mark` in its environment."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark.encode() in file.read():
                    return False
        except OSError:
            continue
    return True


def marked(name: str) -> dict[str, str]:
    return {**ENV, "MARK": f"{name}-{os.getpid()}-{time.monotonic_ns()}"}


def test_status_and_output_are_told(spawner: Spawner) -> None:
    ended = spawner.run("echo well; exit 3")
    assert (ended.status, ended.output, str(ended)) == (3, "well\n", "exit status 3: well")
    assert 0 < ended.took < PATIENCE


def test_the_environment_is_what_was_said_and_no_more(spawner: Spawner) -> None:
    assert spawner.run("env | sort", env={"A": "b c"}).output.splitlines()[:1] == ["A=b c"]
    assert "HOME" not in spawner.run("env", env={"A": "b"}).output


def test_one_that_never_ends_is_ended_with_all_it_started(spawner: Spawner) -> None:
    env = marked("never")
    ended = spawner.run("sleep 1000 & setsid sleep 1000 & sleep 1000", timeout=0.3, env=env)
    assert str(ended) == "timed out after 0.3 s"
    eventually(lambda: nobody_runs(env["MARK"]))


def test_what_hides_in_the_background_goes_with_its_script(spawner: Spawner) -> None:
    env = marked("hides")
    # It forks twice and has a session of its own, as a daemon would.
    hide = "(setsid sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 &); exit 0"
    assert spawner.run(hide, env=env).status == 0
    eventually(lambda: nobody_runs(env["MARK"]))


def test_what_a_hook_started_goes_on(spawner: Spawner, tmp_path) -> None:
    start = f"(setsid sh -c 'sleep 0.5; echo on > {tmp_path}/mark' >/dev/null 2>&1 &); exit 0"
    assert spawner.run(start, starts=True).status == 0
    eventually((tmp_path / "mark").exists)


def test_a_hook_that_hangs_is_ended_with_its_group(spawner: Spawner) -> None:
    env = marked("hook")
    assert spawner.run("sleep 1000 & sleep 1000", timeout=0.3, env=env, starts=True).why
    eventually(lambda: nobody_runs(env["MARK"]))


def test_one_that_ends_by_a_signal_says_which(spawner: Spawner) -> None:
    assert str(spawner.run("kill -SEGV $$")) == "ended by SIGSEGV"


def test_a_signal_without_a_name_is_told_by_its_number(spawner: Spawner) -> None:
    assert str(spawner.run("kill -40 $$")) == "ended by signal 40"


def test_one_that_prints_past_its_end_is_ended(spawner: Spawner) -> None:
    env = marked("prints")
    ended = spawner.run("yes", timeout=0.0, most=0, env=env)  # its end is over at the first look
    assert ended.why == "timed out after 0 s"
    eventually(lambda: nobody_runs(env["MARK"]))


def test_the_end_of_a_run_that_fails_in_the_keeper_is_told(spawner: Spawner) -> None:
    spawner.line.send(msgspec.json.encode(Script(7, (), ENV, PATIENCE)))
    ended = spawner.hear()
    assert (ended.id, ended.status, ended.unable) == (7, None, True)


# The spawner looks for its keeper only once that has ended.
LATE = """
import os
spawner, really = os.getpid(), os.pidfd_open
def late(pid):
    while os.getpid() == spawner and os.path.exists(f"/proc/{pid}"):
        os.sched_yield()
    return really(pid)
os.pidfd_open = late
from lbctl.spawner import main
main()
"""


def test_a_keeper_may_end_before_the_spawner_looks() -> None:
    spawner = Spawner("-c", LATE)
    try:
        assert [spawner.run("exit 3").status for _ in range(2)] == [3, 3]
    finally:
        spawner.line.close()
        spawner.process.wait(PATIENCE)


def test_a_flood_of_output_ends_it(spawner: Spawner) -> None:
    ended = spawner.run("yes the same for ever | head -c 1000000000")
    assert ended.why == "printed more than 1024 KiB"
    assert len(ended.output) <= 4096


def test_a_hook_may_print_what_it_likes_and_its_end_is_kept(spawner: Spawner) -> None:
    ended = spawner.run("yes | head -c 20000000; echo; echo at last", most=0)
    assert ended.status == 0
    assert ended.output.endswith("at last\n")
    assert len(ended.output) == 4096


def test_what_cannot_be_run_is_nobodys_fault_but_ours(spawner: Spawner) -> None:
    spawner.line.send(msgspec.json.encode(Script(1, ("/no/such/thing",), ENV, 1.0)))
    ended = spawner.hear()
    assert ended.unable
    assert str(ended) == "/no/such/thing: cannot be run: No such file or directory"


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot become another user")
def test_it_runs_as_the_user_that_was_named(spawner: Spawner) -> None:
    ended = spawner.run("id -un; id -Gn; grep NoNewPrivs /proc/self/status", user="nobody")
    assert ended.output.split() == ["nobody", "nogroup", "NoNewPrivs:", "1"]
    unable = spawner.run("true", user="no-such-user")
    assert unable.unable
    assert "no-such-user" in str(unable)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot become another user")
def test_a_fork_bomb_stays_small_and_ends(spawner: Spawner) -> None:
    env = marked("bomb")
    bomb = "b() { b | b & }; b; sleep 1000"
    ended = spawner.run(bomb, timeout=0.5, user="nobody", env=env)
    assert not ended.unable
    assert ended.status is None or ended.status != 0
    eventually(lambda: nobody_runs(env["MARK"]), timeout=20)
    assert spawner.run("echo still here").output == "still here\n"


def test_only_so_many_at_once(spawner: Spawner, tmp_path) -> None:
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"
    for id in range(MOST_AT_ONCE + 1):
        spawner.ask(wait, id=id, timeout=60)
    refused = spawner.hear()
    assert (refused.id, refused.unable) == (MOST_AT_ONCE, True)
    assert refused.why == f"{MOST_AT_ONCE} scripts run already"
    (tmp_path / "go").touch()
    assert {spawner.hear().status for _ in range(MOST_AT_ONCE)} == {0}
    assert spawner.run("true").status == 0


def test_a_script_under_way_outlives_its_spawner(spawner: Spawner, tmp_path) -> None:
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"
    spawner.ask(f"{wait}; echo done > {tmp_path}/mark", timeout=60)
    spawner.ask("true", id=2)
    assert spawner.hear().id == 2
    spawner.line.close()
    spawner.process.wait(PATIENCE)
    (tmp_path / "go").touch()
    eventually((tmp_path / "mark").exists)
