"""What the test of the lab expects, with machines that only say what they are told to."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from vagrant import __main__, settings
from vagrant.lab import VagrantLab, sshd_config
from vagrant.steps import Say, Step, StepFailed
from vagrant.story import CONNECTIONS, Story, down_interval


class Told:
    """A machine: whose commands begin so, answers so."""

    def __init__(self, name: str, **answers: str) -> None:
        self.name, self.answers = name, answers
        self.asked: list[str] = []

    def run(self, command: str, seconds: float = 60) -> str:
        self.asked.append(command)
        words = command.split()
        return self.answers.get(words[0] + Path(words[-1]).stem, "1")

    def forget(self) -> None:
        pass


def pings(silent: float) -> str:
    """What `ping -D` says, with one gap."""
    times = [i / 50 for i in range(50)]
    times += [times[-1] + silent + i / 50 for i in range(50)]
    replies = [f"[{at:.6f}] 64 bytes: icmp_seq={i} time=1 ms" for i, at in enumerate(times, 1)]
    return "\n".join([*replies, "100 packets transmitted, 100 received"])


def holding(opened: int, kept: int) -> str:
    broken = {"timed out": opened - kept} if kept < opened else {}
    said = {"opened": opened, "kept": kept, "asked": 99, "broken": broken, "servers": {}}
    return f'{{"opened": {opened}}}\n{json.dumps(said)}'


@pytest.fixture
def lab(tmp_path: Path) -> VagrantLab:
    """By emulation: adverts every second."""
    environment = {"LBCTL_VAGRANT_STATE": str(tmp_path)}
    made = VagrantLab(settings.read(environment, kvm=False, local_box=False))
    made.machines = {host.name: Told(host.name) for host in made.topology.hosts}
    return made


def watched(lab: VagrantLab, hold: str, ping: str, crash: bool = False) -> Story:
    lab.machines["client"] = Told("client", cathold=hold, catping=ping)
    story = Story(lab)
    with story.watched("cable", lambda text: None, story.crashed if crash else story.handed_over):
        pass
    return story


def test_a_takeover_that_nobody_notices(lab: VagrantLab) -> None:
    story = watched(lab, holding(20, 20), pings(0.2))
    assert story.figures == {
        "cable: longest silence of the VIP": "0.20 s",
        "cable: connections kept": "20 of 20",
    }
    assert "kill -TERM 1; kill -INT 1" in story.client.asked


@pytest.mark.parametrize(
    ("hold", "ping", "words"),
    [
        (holding(0, 0), pings(0.2), f"0 of {CONNECTIONS} connections opened"),
        (holding(19, 19), pings(0.2), "19 of 20 connections opened"),
        (holding(20, 19), pings(0.2), "19 of 20 connections kept"),
        (holding(20, 20), pings(3.5), r"silent for 3\.50 s, not at most 3\.41"),
    ],
)
def test_a_takeover_that_loses_something_fails(
    lab: VagrantLab, hold: str, ping: str, words: str
) -> None:
    with pytest.raises(StepFailed, match=words):
        watched(lab, hold, ping)


def test_a_crash_must_first_be_missed(lab: VagrantLab) -> None:
    watched(lab, holding(20, 20), pings(3.5), crash=True)
    with pytest.raises(StepFailed, match=r"silent for 9\.50 s, not at most 9\.41"):
        watched(lab, holding(20, 20), pings(9.5), crash=True)


def test_what_is_measured_is_in_the_report_also_where_it_is_too_much(lab: VagrantLab) -> None:
    lab.machines["client"] = Told("client", cathold=holding(20, 3), catping=pings(0.2))
    story = Story(lab)
    with pytest.raises(StepFailed), story.watched("cable", lambda text: None, 1):
        pass
    assert story.figures["cable: connections kept"] == "3 of 20"


def test_the_other_gateways_down_interval() -> None:
    assert down_interval(1.0) == 3 + (256 - 150) / 256
    assert down_interval(0.1) == pytest.approx(0.34, abs=0.01)


def test_the_way_back_is_watched_too(lab: VagrantLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.machines["client"] = Told("client", cathold=holding(20, 20), catping=pings(0.1))
    story = Story(lab)
    seen: list[str] = []
    monkeypatch.setattr(lab, "plug", lambda name, nic, up: seen.append("in" if up else "out"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for gateway in (story.one, story.two):
        name = gateway.name
        expected = lambda role, seconds, name=name: seen.append(f"{name} {role}")  # noqa: E731
        monkeypatch.setattr(gateway, "expect_role", expected)
    monkeypatch.setattr(story, "settled", lambda: seen.append("settled"))
    monkeypatch.setattr(story, "pinged", lambda: seen.append("seen") or pytest.fail("seen"))
    with pytest.raises(pytest.fail.Exception):
        story.cut_a_nic(lambda text: None)
    assert seen == ["out", "lb2 active", "in", "lb1 active", "lb2 backup", "seen"]


# --- what a test that was killed has left ------------------------------------------------


def stub(directory: Path, **scripts: str) -> dict[str, str]:
    """Programs in a directory; the environment that finds them first."""
    for name, script in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{script}\n")
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("active", "says", "does"),
    [
        ("nginx", "", []),
        ("lab-load nginx", "lab-load stopped\n", ["stop lab-load"]),
        ("", "nginx started\n", ["start nginx"]),
        ("lab-load", "lab-load stopped\nnginx started\n", ["stop lab-load", "start nginx"]),
    ],
)
def test_a_server_is_repaired(
    lab: VagrantLab, tmp_path: Path, active: str, says: str, does: list[str]
) -> None:
    log = tmp_path / "log"
    log.touch()
    systemctl = (
        f'case "$1" in -q) case " {active} " in *" $3 "*) exit 0;; esac; exit 3;; esac\n'
        f'echo "$@" >>{log}'
    )
    script = Story(lab).repair("server1")
    env = stub(tmp_path, systemctl=systemctl)
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == says
    assert log.read_text().splitlines() == does


def test_a_server_without_its_nginx_is_left_to_the_hook(lab: VagrantLab, tmp_path: Path) -> None:
    env = stub(tmp_path, systemctl="exit 3")
    subprocess.run(["sh", "-c", Story(lab).repair("server1")], env=env, check=True)


def test_a_gateway_with_the_other_file_is_repaired(lab: VagrantLab, tmp_path: Path) -> None:
    """Its files are elsewhere here."""
    script = Story(lab).repair("lb1").replace("/etc/lbctl", str(tmp_path))
    env = stub(tmp_path, systemctl="exit 0")
    (tmp_path / "xdp.yaml").write_text("xdp")
    (tmp_path / "lbctl.yaml").write_text("ipvs")
    for says in ("datapath: xdp again\n", ""):
        done = subprocess.run(
            ["sh", "-c", script], env=env, capture_output=True, text=True, check=True
        )
        assert done.stdout == says
        assert (tmp_path / "lbctl.yaml").read_text() == "xdp"


@pytest.mark.kernel
def test_the_client_is_repaired_by_a_shell_that_does_not_end_itself(
    lab: VagrantLab, tmp_path: Path
) -> None:
    (tmp_path / "lab").mkdir()
    hold, out = tmp_path / "lab/hold.py", tmp_path / "out"
    hold.write_text("import signal; print('opened', flush=True); signal.pause()")
    # Process 1 of these is a shell that no signal ends; ours is its child, as sshd's would be.
    script = 'python3 "$HOLD" >"$OUT" & until grep -sq opened "$OUT"; do sleep 0.02; done; '
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    done = subprocess.run(
        [*command, f'{script}sh -c "$1"; echo "exit $?"', "sh", Story(lab).repair("client")],
        env={**os.environ, "HOLD": str(hold), "OUT": str(out)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.stdout == "hold.py ended\nexit 0\n"


def test_many_servers_are_asked_more_often(tmp_path: Path) -> None:
    for servers, many in ((2, 40), (20, 400)):
        environment = {"LBCTL_VAGRANT_STATE": str(tmp_path), "LBCTL_SERVERS": str(servers)}
        lab = VagrantLab(settings.read(environment, kvm=False, local_box=False))
        lab.machines = {host.name: Told(host.name) for host in lab.topology.hosts}
        assert Story(lab).many == many


# --- the report --------------------------------------------------------------------------


def interrupts(say: Say) -> None:
    say("so far")
    raise KeyboardInterrupt


def hangs(say: Say) -> None:
    raise subprocess.TimeoutExpired(["virsh", "list"], 30)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "out/report.md"
    file.parent.mkdir()
    file.write_text("**every step passed**")
    monkeypatch.setattr(__main__, "REPORT", file)
    monkeypatch.setattr(__main__, "UP", tmp_path / "up.txt")
    return file


def test_a_test_that_is_interrupted_leaves_its_own_report(
    lab: VagrantLab, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Step("A cable", 9, interrupts), Step("The rest", 9, interrupts)]
    monkeypatch.setattr(Story, "steps", lambda story: steps)
    with pytest.raises(KeyboardInterrupt):
        __main__.test(lab)
    text = report.read_text()
    assert "**1 of 2 steps failed, 1 skipped**" in text
    assert "**interrupted**" in text
    assert "so far" in text


def test_a_libvirt_that_hangs_is_a_step_that_failed(
    lab: VagrantLab, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Step("A cable", 9, hangs), Step("The rest", 9, lambda say: say("seen"))]
    monkeypatch.setattr(Story, "steps", lambda story: steps)
    assert __main__.test(lab) == 1
    text = report.read_text()
    assert "timed out after 30 seconds" in text
    assert "| 2 | The rest | passed |" in text


def test_the_report_says_where_and_when(lab: VagrantLab) -> None:
    said = __main__.about(lab)
    assert "processor" in said["host"]
    assert said["when"].endswith(" UTC")
    assert said["machines are"] == "emulated (QEMU's TCG)"


def test_the_hosts_sshd_finds_paths_with_spaces(lab: VagrantLab) -> None:
    text = sshd_config(Path("/a b"), {**lab.environment, "PATH": "/bin"})
    assert 'AuthorizedKeysFile "/a b/authorized_keys"\n' in text
    assert f'TMPDIR="{lab.settings.state}/tmp"' in text
