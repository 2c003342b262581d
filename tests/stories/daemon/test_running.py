"""The daemon as a process: start, death, restart, signals, what it refuses to start from."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lbctl.errors import Exit
from lbctl.lab.waiting import eventually

from .conftest import Daemon


def resident(pid: int) -> int:
    """Resident memory, bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_server_that_dies_leaves_the_schedule_and_comes_back(daemon: Daemon) -> None:
    daemon.servers["app1"].stop()
    daemon.until(app1="down", app2="serving")
    daemon.servers["app1"].start()
    daemon.until(app1="serving", app2="serving")
    texts = [record["text"] for record in daemon.client.get("events")]
    assert any(t.startswith("web/app1: down (2 of 2 probes: ") and "refused" in t for t in texts)
    assert texts[-1].startswith("web/app1: up (")


def test_a_restart_with_the_same_file_does_nothing_to_the_data_path(daemon: Daemon) -> None:
    assert daemon.end() == 0
    daemon.start()
    daemon.until(app1="serving", app2="serving")
    status = daemon.client.get("status")
    assert status["operations"] == 0
    assert status["writes"] == {"operations": 0}
    assert status["generation"] == 1
    assert "adopted 1 listens, 0 operations" in daemon.log


def test_kill_9_loses_nothing(daemon: Daemon) -> None:
    assert daemon.run("drain", "web/app1", "--reason", "kernel").code == 0
    assert daemon.run("weight", "web/app2", "7").code == 0
    before = daemon.client.get("servers")
    daemon.end(signal.SIGKILL)
    daemon.start()
    daemon.until(app1="draining", app2="serving")
    after = daemon.client.get("servers")
    kept = ("name", "state", "admin", "weight", "configured", "rule", "because", "health")
    assert [[row[k] for k in kept] for row in after] == [[row[k] for k in kept] for row in before]
    assert daemon.operations() == 0
    [override] = daemon.client.get("overrides")
    assert override["change"] == "services.web.servers.app2.weight = 7"


def test_a_server_that_is_down_stays_down_over_a_restart(daemon: Daemon) -> None:
    daemon.servers["app1"].stop()
    daemon.until(app1="down", app2="serving")
    daemon.end(signal.SIGKILL)
    daemon.start()
    assert daemon.states() == {"web/app1": "down", "web/app2": "serving"}
    assert daemon.operations() == 0


def test_an_edited_file_and_a_restart_do_what_their_author_means(daemon: Daemon) -> None:
    daemon.end()
    daemon.file.write_text(daemon.yaml(app1=1, app3=1))
    daemon.start()
    daemon.until(app1="serving", app2="leaving", app3="serving")
    assert daemon.client.get("status")["generation"] == 2


def test_what_was_applied_from_elsewhere_survives_a_restart(daemon: Daemon) -> None:
    other = daemon.home / "other.yaml"
    other.write_text(daemon.yaml(app1=5, app2=5))
    assert daemon.run("apply", str(other)).code == 0
    daemon.end()
    daemon.start()
    assert {row["configured"] for row in daemon.client.get("servers")} == {5}
    assert daemon.operations() == 0


def test_hup_reads_the_file_again(daemon: Daemon) -> None:
    daemon.file.write_text(daemon.yaml(app1=1, app2=9))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: daemon.client.get("status")["generation"] == 2)
    assert [row["configured"] for row in daemon.client.get("servers")] == [1, 9]


def test_an_invalid_file_at_hup_changes_nothing_and_is_told(daemon: Daemon) -> None:
    daemon.file.write_text(daemon.yaml(app1=1, app2=70000))
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: "not taken, generation 1 stays" in daemon.log)
    assert "70000" in daemon.log
    assert daemon.client.get("status")["generation"] == 1
    assert daemon.states() == {"web/app1": "serving", "web/app2": "serving"}


def hup(daemon: Daemon, says: str) -> None:
    """Have the file read again, and see that it is told and the daemon lives."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: says in daemon.log)
    status = daemon.client.get("status")
    assert (status["generation"], status["pid"]) == (1, daemon.process.pid)
    assert daemon.states() == {"web/app1": "serving", "web/app2": "serving"}


def test_a_full_disk_ends_no_daemon(daemon: Daemon) -> None:
    scratch = daemon.home / "state" / "generations" / ".2.new"
    daemon.file.write_text(daemon.yaml(app1=1, app2=9))
    scratch.symlink_to("/dev/full")
    hup(daemon, "not taken, generation 1 stays: ")
    assert "generation 2 cannot be kept: No space left on device" in daemon.log
    scratch.symlink_to("/dev/full")
    applied = daemon.run("apply")
    assert applied.code == Exit.FAILED
    assert "generations/2: generation 2 cannot be kept: No space left on device" in applied.err
    assert "make room there" in applied.err
    scratch.symlink_to("/dev/full")
    daemon.end()
    daemon.start()
    assert daemon.client.get("status")["generation"] == 1
    assert daemon.run("apply").code == 0, "there is room again"
    assert daemon.client.get("status")["generation"] == 2


def test_a_file_without_end_ends_no_daemon(daemon: Daemon) -> None:
    os.truncate(daemon.file, 1 << 40)  # takes no room on the disk, and would all in memory
    hup(daemon, "lbctl.yaml: is larger than 8 MiB: nothing was read")
    daemon.file.unlink()
    os.mkfifo(daemon.file)
    hup(daemon, "lbctl.yaml: is no regular file: nothing was read")
    assert daemon.run("apply").code == Exit.INVALID


def test_an_invalid_file_at_start_keeps_the_last_good_generation(daemon: Daemon) -> None:
    daemon.end()
    daemon.file.write_bytes(os.urandom(4096))
    daemon.start()
    assert daemon.client.get("status")["generation"] == 1
    assert daemon.operations() == 0
    assert "not taken, generation 1 stays" in daemon.log


def test_without_a_good_generation_an_invalid_file_ends_it(stopped: Daemon) -> None:
    stopped.file.write_text(stopped.yaml(app1=70000))
    stopped.start(wait=False)
    assert stopped.process is not None
    assert stopped.process.wait(timeout=20) == Exit.INVALID
    assert "lbctl.yaml:" in stopped.log
    assert "70000" in stopped.log


def test_a_corrupt_state_file_is_put_aside_and_the_last_generation_runs(daemon: Daemon) -> None:
    daemon.end(signal.SIGKILL)
    state = daemon.home / "state" / "state.json"
    state.write_bytes(b"\x00garbage")
    daemon.start()
    assert (daemon.home / "state" / "state.unreadable").read_bytes() == b"\x00garbage"
    assert daemon.client.get("status")["origin"]
    assert daemon.operations() == 0
    assert "state: set aside as" in daemon.log


def test_a_second_daemon_says_that_there_is_one(daemon: Daemon) -> None:
    second = subprocess.run(
        [
            *daemon.lbctl,
            "daemon",
            *("--config", str(daemon.file), "--state", str(daemon.home / "state")),
            *("--datapath", "fake"),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert second.returncode == Exit.FAILED
    assert "another daemon keeps its state here" in second.stderr


@pytest.mark.parametrize("place", ["in use", "impossible"])
def test_a_socket_that_cannot_be_had_is_told_before_anything_is_done(
    daemon: Daemon, tmp_path: Path, place: str
) -> None:
    socket = daemon.socket if place == "in use" else Path("/proc/self/lbctl.sock")
    kernel = tmp_path / "other-kernel"
    second = subprocess.run(
        [
            *(sys.executable, "-m", "lbctl.cli.main", "daemon", "--socket", str(socket)),
            *("--config", str(daemon.file), "--state", str(tmp_path / "other-state")),
            *("--datapath", f"fake:{kernel}"),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    said = "a daemon answers here already" if place == "in use" else "cannot listen here"
    assert second.returncode == Exit.FAILED
    assert f"{socket}: {said}" in second.stderr
    assert "Traceback" not in second.stderr
    assert not kernel.exists()


def test_a_dead_daemons_socket_is_no_obstacle(daemon: Daemon) -> None:
    daemon.end(signal.SIGKILL)
    assert daemon.socket.exists()
    daemon.start()
    daemon.end()
    assert not daemon.socket.exists()


def test_a_probe_worker_that_is_killed_is_replaced(daemon: Daemon) -> None:
    pid = daemon.client.get("status")["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: daemon.client.get("status")["worker"]["pid"] not in (None, pid), timeout=10)
    daemon.servers["app1"].stop()
    daemon.until(app1="down", app2="serving")


def test_a_probe_worker_that_hangs_is_replaced(daemon: Daemon) -> None:
    pid = daemon.client.get("status")["worker"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: "silent for 5 s" in daemon.log, timeout=15)
    eventually(lambda: daemon.client.get("status")["worker"]["pid"] not in (None, pid), timeout=10)
    assert not os.path.exists(f"/proc/{pid}")


def test_daemon_and_worker_are_small(daemon: Daemon) -> None:
    status = daemon.client.get("status")
    total = resident(status["pid"]) + resident(status["worker"]["pid"])
    assert total < 120e6, f"{total / 1e6:.0f} MB"
    for pid in (status["pid"], status["worker"]["pid"]):
        with open(f"/proc/{pid}/maps") as maps:  # address, rights, offset, device, inode, file
            loaded = {Path(line.split(maxsplit=5)[5]).name for line in maps if "/" in line}
        assert not [name for name in loaded if "bcc" in name or "LLVM" in name]


def test_the_supervisor_is_told(stopped: Daemon, monkeypatch, tmp_path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        stopped.start()
        assert supervisor.recv(100) == b"READY=1"
        assert supervisor.recv(100) == b"WATCHDOG=1"
        assert stopped.process is not None
        stopped.process.send_signal(signal.SIGTERM)
        said = [supervisor.recv(100)]
        while said[-1] != b"STOPPING=1":
            said.append(supervisor.recv(100))
        assert set(said[:-1]) <= {b"WATCHDOG=1"}
