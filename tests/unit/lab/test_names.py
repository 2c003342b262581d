"""A lab's name is that of a directory which `down` removes: it must be no other one's."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from lbctl.cli.main import lbctl
from lbctl.errors import Exit
from lbctl.lab import lab as labs
from lbctl.lab.kernel import LabError
from lbctl.lab.lab import BadName, Lab
from lbctl.lab.topology import standard

BAD = ["", ".", "..", "a/b", "../victim", "/tmp/victim", "-", "a-", "Lab", "a b", "a\n", "x" * 21]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the labs of these tests would be, and beside it somebody's directory."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("dear")
    home = tmp_path / "labs"
    home.mkdir()
    monkeypatch.setattr(labs, "HOME", home)
    return home


@pytest.mark.parametrize("name", ["lab", "a", "7", "t3f2abc", "my-lab-2", "x" * 20])
def test_a_lab_has_a_directory_of_its_own(home: Path, name: str) -> None:
    assert Lab(standard(), name).home == home / name
    assert not labs.is_there(name)


def test_a_gateway_shares_no_place_with_this_machine(home: Path) -> None:
    gateway = Lab(standard(), "lab").gateway
    places = {key: one for key, one in gateway.environment.items() if key.startswith("LBCTL_")}
    own = ("SOCKET", "CONFIG", "STATE", "PINS", "VRRP_SOCKET")
    assert all(places[f"LBCTL_{one}"].startswith(f"{home}/lab/") for one in own)
    assert len({places[f"LBCTL_{one}"] for one in own}) == len(own)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_name_is_refused_by_whatever_takes_one(name: str) -> None:
    for take in (lambda n: Lab(standard(), n), Lab.open, labs.remove, labs.is_there):
        with pytest.raises(BadName, match="no name for a lab"):
            take(name)


@pytest.mark.parametrize("verb", ["up", "up --dry-run", "down", "down --dry-run", "status"])
def test_no_verb_touches_what_no_lab_made(tmp_path: Path, verb: str) -> None:
    for name in (str(tmp_path / "victim"), "../victim", ""):
        ran = CliRunner().invoke(lbctl, ["lab", "--name", name, *verb.split()])
        assert isinstance(ran.exception, LabError)
        assert ran.exception.exit_code is Exit.USAGE
    assert (tmp_path / "victim" / "file").read_text() == "dear"


def test_a_directory_that_an_up_only_claimed_is_a_lab_and_one_with_files_is_none(
    home: Path,
) -> None:
    (home / "claimed").mkdir()
    (home / "claimed" / "lab.json.new").touch()
    assert labs.is_there("claimed")
    (home / "theirs").mkdir()
    (home / "theirs" / "file").write_text("dear")
    for take in (labs.is_there, Lab.open):
        with pytest.raises(LabError, match="no lab made this"):
            take("theirs")
    (home / "plain").touch()
    with pytest.raises(LabError, match="no lab made this"):
        labs.is_there("plain")


def test_a_record_that_is_none_is_told(home: Path) -> None:
    (home / "torn").mkdir()
    (home / "torn" / "lab.json").write_bytes(b"\xff{")
    with pytest.raises(LabError, match=r"torn/lab\.json: is not what"):
        labs.is_there("torn")
