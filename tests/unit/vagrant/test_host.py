"""What is missing is said at once, and what is left of a lab that died is found."""

import os
from pathlib import Path

import pytest

from lbctl.errors import LbctlError
from vagrant import __main__, host, settings
from vagrant.cell import Cell, init_script
from vagrant.lab import VagrantLab, readable, without_traces


def chosen(**environment: str) -> settings.Settings:
    return settings.read(environment, kvm=False, local_box=False)


def test_missing_packages_are_named_with_what_installs_them() -> None:
    said = next(host.missing(chosen(), which=lambda tool: None))
    assert said.startswith("missing packages: tools/install-packages ")
    assert "libvirt-daemon-system" in said
    assert " vagrant" in said


def test_a_box_that_is_not_there(tmp_path: Path) -> None:
    found = list(host.missing(chosen(LBCTL_BOX=str(tmp_path / "no.box"))))
    assert any("no.box: there is no such box (make box)" in one for one in found)


def test_without_a_box_of_our_own_the_other_way_is_named() -> None:
    assert any("cd vagrant && vagrant up" in one for one in host.missing(chosen()))


def test_no_room(tmp_path: Path) -> None:
    place = tmp_path / "not/there/yet"
    assert host.no_room(place, needed=1) is None
    said = host.no_room(place, needed=1 << 60)
    assert said is not None
    assert said.startswith(f"{tmp_path}: ")
    assert "are needed" in said


def test_no_room_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "ROOM", 1 << 60)
    state = tmp_path / "state"
    with pytest.raises(LbctlError, match="GB are free"):
        host.check(chosen(LBCTL_VAGRANT_STATE=str(state)), [], running=False)
    assert not state.exists()


def test_kvm_that_is_only_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine asked for on it ends with an error: as where nested KVM is half there."""
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.write_text("#!/bin/sh\nread word\nexit 134\n")
    qemu.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "kvm").write_text("")
    assert not host.kvm_works(tmp_path / "kvm")
    assert not host.kvm_works(tmp_path / "nothing")
    qemu.write_text('#!/bin/sh\nread word\n[ "$word" = quit ]\n')
    assert host.kvm_works(tmp_path / "kvm")


def test_what_machines_said_last_is_found(tmp_path: Path) -> None:
    """For a box that does not boot: the message has the ends of the consoles."""
    lab = VagrantLab(chosen(LBCTL_VAGRANT_STATE=str(tmp_path)))
    lab.settings.state.mkdir()
    (lab.settings.state / "lb1.console").write_text("".join(f"line {i}\n" for i in range(99)))
    said = lab.consoles().splitlines()
    assert said[0] == "lb1's console:"
    assert said[1:] == [f"line {i}" for i in range(91, 99)]


def test_an_interrupted_command_says_how_to_clean_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(lab: VagrantLab) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(__main__.COMMANDS, "up", interrupted)
    assert __main__.main(["up"]) == 130
    assert "make vagrant-down" in capsys.readouterr().err


def test_a_step_of_up_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "ROOM", 1 << 60)
    lab = VagrantLab(chosen(LBCTL_VAGRANT_STATE=str(tmp_path / "state")))
    assert __main__.up(lab) == 1
    said = capsys.readouterr().out
    assert "FAILED: What the host must have" in said
    assert "GB are free" in said
    assert "The machines: skipped" in said


# --- the cell ----------------------------------------------------------------------------


def test_there_is_no_cell(tmp_path: Path) -> None:
    cell = Cell(tmp_path / "state")
    assert cell.init is None
    with pytest.raises(LbctlError, match="does not run"):
        cell.command(["true"])
    assert not cell.remove()


def test_an_interrupted_start_leaves_only_its_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "var/lib/libvirt").mkdir(parents=True)
    assert Cell(state).remove()
    assert not state.exists()


def test_everything_that_libvirt_writes_is_in_the_cells_directory() -> None:
    script = init_script(Path("/a state"))
    assert script.startswith("set -e\nmount -t tmpfs")
    for place in ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"):
        assert f"mount --bind '/a state{place}' {place}\n" in script


def test_what_vagrant_says_without_bars_and_traces() -> None:
    said = "a\n\rProgress: 10%\rProgress: 20%\rb\n\n/x/y.rb:7:in `call'\n\tfrom /z.rb:1:in `q'\nc\n"
    assert without_traces(readable(said)) == "a\nb\nc"
    error = "/x.rb:7:in `create': Call failed: no CPU (Libvirt::Error)"
    assert without_traces(error) == error


def test_kvm_that_is_asked_for_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "KVM", Path("/dev/null/kvm"))
    monkeypatch.setattr(host.kvm_works, "__defaults__", (Path("/dev/null/kvm"),))
    found = list(host.missing(chosen(LBCTL_DRIVER="kvm")))
    assert any("LBCTL_DRIVER=kvm, but /dev/null/kvm does not work" in one for one in found)
    assert not any("LBCTL_DRIVER=kvm" in one for one in host.missing(chosen()))


def test_memory_that_machines_want(tmp_path: Path) -> None:
    asked = chosen(LBCTL_VAGRANT_STATE=str(tmp_path))
    assert any("the machines want" in one for one in host.missing(asked, memory=1 << 40))
    assert not any("the machines want" in one for one in host.missing(asked))


def test_room_grows_with_the_machines_and_what_is_there_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = chosen(LBCTL_VAGRANT_STATE=str(tmp_path))
    free = host.shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(host, "ROOM", free - (1 << 30))
    monkeypatch.setattr(host, "ROOM_EACH", 1 << 30)

    def refused(machines: int) -> bool:
        return any("GB are free" in one for one in host.missing(asked, machines=machines))

    assert not refused(0)
    assert refused(5)
    asked.state.mkdir()
    monkeypatch.setattr(host, "held", lambda place: 5 << 30)
    assert not refused(5)


def test_what_files_take(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"x" * 100_000)
    assert 100_000 <= host.held(tmp_path) <= 200_000
    assert host.held(tmp_path / "nothing") == 0
