"""What was chosen stays chosen as long as that lab is there."""

from pathlib import Path

import pytest

from lbctl.config import parse
from lbctl.errors import LbctlError
from vagrant import files, settings
from vagrant.machines import topology
from vagrant.story import WHOLE

CHOICES = {
    "LBCTL_SERVERS": "3",
    "LBCTL_BOX": "/boxes/of.box",
    "LBCTL_DRIVER": "kvm",
    "LBCTL_PATIENCE": "2",
    "LBCTL_CPUS": "4",
    "LBCTL_GATEWAY_MEMORY": "1024",
    "LBCTL_SERVER_MEMORY": "512",
    "LBCTL_CLIENT_MEMORY": "600",
    "LBCTL_INTERVAL": "10ms",
    "LBCTL_VAGRANT_STATE": "/mnt/big",
}


def read(environment: dict[str, str]) -> settings.Settings:
    return settings.read(environment, kvm=False, local_box=False)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(settings, "RECORD", tmp_path / "cache/lab.json")
    return tmp_path


@pytest.mark.parametrize("environment", [{}, CHOICES])
def test_the_environment_makes_the_same_again(environment: dict[str, str]) -> None:
    chosen = read(environment)
    assert read(chosen.environment()) == chosen
    assert set(chosen.environment()) == set(CHOICES)


def test_the_state_is_a_directory_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(CHOICES).state == Path("/mnt/big/lbctl-vagrant")
    monkeypatch.chdir("/tmp")
    assert read({"LBCTL_VAGRANT_STATE": "big"}).state == Path("/tmp/big/lbctl-vagrant").resolve()
    assert read({"LBCTL_BOX": "./x.box"}).box_file == Path("/tmp/x.box").resolve()
    assert read({"LBCTL_BOX": "debian/bookworm64"}).box == "debian/bookworm64"


def test_test_and_down_know_the_lab_that_up_made(here: Path) -> None:
    chosen = read({**CHOICES, "LBCTL_VAGRANT_STATE": str(here)})
    settings.record(chosen)
    assert settings.recorded() is None  # nothing is there
    chosen.state.mkdir()
    there = settings.recorded()
    assert there is not None
    assert settings.of_the_lab({}, there) == chosen
    assert settings.of_the_lab({"LBCTL_SERVERS": "3", "HOME": "/"}, there) == chosen


def test_another_lab_than_the_one_that_is_there(here: Path) -> None:
    there = read(CHOICES).environment()
    with pytest.raises(LbctlError, match=r"has LBCTL_SERVERS=3 \(make vagrant-down first\)"):
        settings.of_the_lab({"LBCTL_SERVERS": "2"}, there)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"LBCTL_VAGRANT_STATE": 1}'])
def test_a_record_that_says_nothing(here: Path, text: str) -> None:
    settings.RECORD.parent.mkdir()
    settings.RECORD.write_text(text)
    assert settings.recorded() is None


def test_an_interval_that_is_none() -> None:
    with pytest.raises(LbctlError, match="LBCTL_INTERVAL=soon: is not a duration"):
        read({"LBCTL_INTERVAL": "soon"})


@pytest.mark.parametrize("patience", [1, 6])
def test_a_broken_server_is_restored_within_the_steps_time(patience: int) -> None:
    chosen = read({"LBCTL_PATIENCE": str(patience)})
    text = files.gateway_yaml(chosen, topology(chosen), "xdp")
    (hook,) = parse(text, node="lb1").config.services["web"].hooks
    restoring = 20 * patience  # of which a restore was seen to take a third
    assert hook.delay + restoring < WHOLE * patience
    assert hook.delay >= 10  # longer than the test stops nginx for
