"""A cell with programs in libvirt's place: nothing of it outlives its end, however it came."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lbctl.errors import LbctlError
from lbctl.lab.waiting import eventually
from vagrant import __main__, cell, host, settings
from vagrant.cell import Cell
from vagrant.lab import VagrantLab
from vagrant.settings import REPOSITORY
from vagrant.steps import OutOfTime, within

pytestmark = pytest.mark.kernel


class Programs:
    """Shell scripts that are found before what is installed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, name: str, script: str) -> None:
        (self.directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.directory / name).chmod(0o755)


@pytest.fixture(autouse=True)
def mount_points() -> Iterator[None]:
    """The directories of an installed libvirt, which the cell has its own mounted on."""
    with ExitStack() as stack:
        for place in (Path("/", one) for one in cell.SHADOWED):
            if not place.exists():
                place.mkdir(parents=True)
                stack.callback(place.rmdir)
        yield


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    found = Programs(tmp_path / "bin")
    answers = "/run/libvirt/answers"  # in the cell alone
    found.put("libvirtd", f"touch {answers}; sleep 1000 & exec sleep {mark(tmp_path)}")
    found.put("virsh", f"test -e {answers}")
    return found


@pytest.fixture
def lab(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VagrantLab]:
    """Whatever a test leaves of it is ended."""
    monkeypatch.setattr(settings, "RECORD", tmp_path / "lab.json")
    monkeypatch.setattr(__main__, "UP", tmp_path / "up.txt")
    monkeypatch.setattr("vagrant.lab.DESCRIPTION", tmp_path / "machines.json")
    chosen = {"LBCTL_VAGRANT_STATE": str(tmp_path)}
    made = VagrantLab(settings.read(chosen, kvm=False, local_box=False))
    yield made
    made.cell.stop()


def mark(place: Path) -> str:
    """A number of seconds that no other process waits for."""
    return f"{10**6 + hash(place) % 10**6}"


def running(word: str) -> list[int]:
    """Processes with this word in their command lines."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word.encode() in line.split(b"\0"):
            found.append(int(process.name))
    return found


@contextmanager
def ending_with(file: Path) -> Iterator[None]:
    """The time that `within` gives is over when this file is there."""

    def wait() -> None:
        eventually(file.exists, 50)
        os.kill(os.getpid(), signal.SIGALRM)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        waiting.join()


def until_asked(look: Callable[[], object], timeout: float) -> object:
    """`eventually`, whose time is over as soon as virsh has been asked."""

    def asked() -> object:
        try:
            return look()
        except AssertionError as error:
            if "virsh" in str(error):
                raise LbctlError(str(error)) from None
            raise

    return eventually(asked, timeout)


def test_it_has_namespaces_of_its_own_and_ends_with_all_in_it(
    lab: VagrantLab, tmp_path: Path
) -> None:
    lab.cell.start()
    eventually(lambda: running(mark(tmp_path)))
    links = lab.inside(["ip", "-br", "link"]).stdout.splitlines()
    assert [line.split()[0] for line in links] == ["lo"]
    assert "/run/libvirt" in lab.inside(["sh", "-c", "echo /run/libvirt"]).stdout
    assert not Path("/run/libvirt/of-the-test").exists()
    lab.inside(["touch", "/run/libvirt/of-the-test", "/etc/libvirt/of-the-test"])
    assert not Path("/etc/libvirt/of-the-test").exists()
    (tmp_path / "another's").write_text("stays")
    assert lab.cell.remove()
    assert not running(mark(tmp_path))
    assert not lab.settings.state.exists()
    assert (tmp_path / "another's").read_text() == "stays"
    assert not lab.cell.remove()


def test_it_is_found_again_also_without_its_directory(lab: VagrantLab, tmp_path: Path) -> None:
    lab.cell.start()
    init = lab.cell.init
    another = Cell(lab.settings.state)
    assert another.init == init
    another.start()  # is there
    assert another.init == init
    subprocess.run(["rm", "-rf", str(lab.settings.state)], check=True)
    assert another.remove()
    assert not running(mark(tmp_path))


def test_the_hosts_own_libvirt_is_not_asked(lab: VagrantLab, programs: Programs) -> None:
    """It would answer at once, before the cell has its mounts."""
    programs.put("mount", f'sleep 0.1; exec {shutil.which("mount")} "$@"')
    programs.put("virsh", "exit 0")
    lab.cell.start()
    assert lab.inside(["test", "-e", "/etc/libvirt/libvirtd.conf"]).returncode == 0
    assert lab.inside(["mountpoint", "/var/log/libvirt"]).returncode == 0


def test_a_libvirtd_that_ends(lab: VagrantLab, programs: Programs) -> None:
    programs.put("libvirtd", "echo no such driver; exit 3")
    programs.put("virsh", "exit 1")
    with pytest.raises(LbctlError, match=r"(?s)ended at once.*no such driver"):
        lab.cell.start()
    assert lab.cell.init is None


def test_a_libvirtd_that_ends_while_it_is_asked(
    lab: VagrantLab, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds the cell up and asks has no cell any more: it has ended, nobody took it down."""
    programs.put("libvirtd", "until test -e /run/libvirt/asked; do sleep 0.01; done; exit 3")
    programs.put("virsh", "touch /run/libvirt/asked; exit 1")
    found = Cell._inside

    def for_the_last_time(of: Cell, outer: int) -> int | None:
        init = found(of, outer)
        if init is not None and os.path.exists(f"/proc/{init}/root{cell.OWN}"):
            monkeypatch.setattr(Cell, "_inside", lambda of, outer: None)
        return init

    monkeypatch.setattr(Cell, "_inside", for_the_last_time)
    with pytest.raises(LbctlError, match="ended at once"):
        lab.cell.start()


def test_a_libvirtd_that_does_not_answer(
    lab: VagrantLab, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "ASKING", 0.2)
    monkeypatch.setattr(cell, "eventually", until_asked)
    programs.put("virsh", "exec sleep 1000")
    with pytest.raises(LbctlError, match=r"virsh list: no answer in 0.2 s"):
        lab.cell.start()
    assert lab.cell.init is None
    assert not running(mark(tmp_path))


def test_a_start_that_is_interrupted(lab: VagrantLab, programs: Programs, tmp_path: Path) -> None:
    programs.put("virsh", f"touch {tmp_path}/asked; exit 1")
    with pytest.raises(OutOfTime), within(60.0), ending_with(tmp_path / "asked"):
        lab.cell.start()
    assert lab.cell.init is None
    eventually(lambda: not running(mark(tmp_path)))


@pytest.mark.parametrize("killed", ["who asks", "nsenter"])
def test_what_runs_inside_ends_with_who_asked(lab: VagrantLab, tmp_path: Path, killed: str) -> None:
    lab.cell.start()
    word = f"{mark(tmp_path)}.5"
    argv = lab.cell.command(["timeout", "1000", "sh", "-c", f"sleep {word}; true"])
    asking = ["sh", "-c", '"$@"; true', "sh", *argv] if killed == "who asks" else argv
    with subprocess.Popen(asking) as process:
        eventually(lambda: running(word))
        process.send_signal(signal.SIGKILL)
    eventually(lambda: not running(word))


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    script = (
        "import subprocess, pathlib\nfrom vagrant.cell import Cell\n"
        f"state = pathlib.Path({str(tmp_path)!r}) / 'state'\n(state / 'held').mkdir(parents=True)\n"
        "subprocess.run(['mount', '-t', 'tmpfs', 'held', str(state / 'held')], check=True)\n"
        "Cell(state).remove()\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", script],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "state: not all of it could be removed: " in done.stderr
    assert "held" in done.stderr


# --- vagrant in it -----------------------------------------------------------------------


def test_vagrant_has_ended_when_its_time_is_over(
    lab: VagrantLab, programs: Programs, tmp_path: Path
) -> None:
    """It holds the machines' locks until then."""
    lab.cell.start()
    programs.put(
        "vagrant",
        f"trap 'trap \"\" TERM; touch {tmp_path}/ended; exit' TERM\ntouch {tmp_path}/begun\n"
        "while :; do sleep 0.05; done",
    )
    with pytest.raises(OutOfTime), within(60.0), ending_with(tmp_path / "begun"):
        lab.vagrant("up", seconds=1000)
    assert (tmp_path / "ended").exists()


def test_a_box_that_does_not_boot(
    lab: VagrantLab,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(host, "check", lambda *args, **more: None)
    monkeypatch.setattr(lab, "payload", lambda: None)
    console = lab.settings.state / "lb1.console"
    programs.put(
        "vagrant", f"echo 'No bootable device' >{console}; echo 'Timed out: boot' >&2; exit 1"
    )
    assert __main__.up(lab) == 1
    said = capsys.readouterr().out
    assert "FAILED: The machines" in said
    assert "Timed out: boot" in said
    assert "lb1's console:\nNo bootable device" in said
    assert "All answer: skipped" in said
    assert not lab.made.exists()


def test_after_an_up_that_was_broken_off_nothing_half_is_used(
    lab: VagrantLab, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "check", lambda *args, **more: None)
    monkeypatch.setattr(lab, "payload", lambda: None)
    programs.put("vagrant", "exit 1")
    assert __main__.up(lab) == 1
    first, half = lab.cell.init, lab.settings.state / "var/lib/libvirt/half-a-box"
    half.touch()
    assert __main__.up(lab) == 1
    assert lab.cell.init not in (None, first)
    assert not half.exists()


class Asked:
    """The arguments of each `vagrant`, as the program in its place noted them."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def words(self) -> list[str]:
        found = self.file.read_text().splitlines() if self.file.exists() else []
        self.file.unlink(missing_ok=True)
        return found


def test_up_when_it_is_up_changes_nothing(
    lab: VagrantLab, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all not the snapshot: what is there now may be broken."""
    monkeypatch.setattr(host, "check", lambda *args, **more: None)
    monkeypatch.setattr(lab, "restoring", lambda: None)
    monkeypatch.setattr(lab, "refuses", lambda gateway, server: "")
    monkeypatch.setattr(lab, "machines", {name: Answering() for name in ("lb1", "lb2")})
    paid: list[bool] = []
    monkeypatch.setattr(lab, "payload", lambda: paid.append(True))
    asked = Asked(tmp_path / "asked")
    programs.put(
        "vagrant",
        f'shift; echo "$@" >>{asked.file}; [ "$1" != snapshot ] || touch {tmp_path}/snapshot-$3',
    )
    programs.put(
        "virsh",
        'case " $* " in *" snapshot-list "*) '
        f"name=${{5#lbctl-}}; [ ! -e {tmp_path}/snapshot-$name ] || echo whole; esac",
    )
    assert __main__.up(lab) == 0
    assert asked.words() == [
        "up --parallel",
        "snapshot save server1 whole",
        "snapshot save server2 whole",
    ]
    assert settings.recorded() == lab.settings.environment()
    __main__.UP.write_text("147")
    assert __main__.up(lab) == 0
    assert asked.words() == ["up --parallel"]
    assert paid == [True]
    assert __main__.UP.read_text() == "147"
    assert __main__.down(lab) == 0
    assert settings.recorded() is None
    assert not __main__.UP.exists()


class Answering:
    """A machine."""

    def forget(self) -> None:
        pass

    def answers(self) -> bool:
        return True
