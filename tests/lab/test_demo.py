"""The demo tells the truth: it fails if a claim does, and leaves nothing either way."""

import subprocess
import sys

import pytest

from lbctl.lab import Lab, LabError
from lbctl.lab import lab as labs
from lbctl.lab.demo import build_a_lab, main
from lbctl.lab.stage import Stage

pytestmark = pytest.mark.lab


def break_a_promise(stage: Stage) -> None:
    """A promise that does not hold"""
    stage.claim("the moon is cheese", False, "rock")


def stumble(stage: Stage) -> None:
    """A step that cannot be done"""
    raise LabError("no moon tonight")


@pytest.mark.timeout(400)
def test_the_whole_demo() -> None:
    name = labs.unique_name()
    words = [sys.executable, "-m", "lbctl.cli.main", "lab", "--name", name, "demo"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left behind" in done.stdout
    assert name not in labs.names()


def test_claims_that_hold_are_a_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(labs.unique_name(), keep=False, steps=[build_a_lab]) == 0
    assert "1 of 1 claims held" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "says"),
    [(break_a_promise, "the moon is cheese: rock"), (stumble, "no moon tonight")],
)
def test_one_broken_claim_fails_the_demo(
    step: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = labs.unique_name()
    assert main(name, keep=False, steps=[step, build_a_lab]) == 1
    assert f"failed: {says}" in capsys.readouterr().out.replace("this step ends well: ", "")
    assert name not in labs.names()


def test_the_steps_after_a_stumble_are_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    main(labs.unique_name(), keep=False, steps=[stumble, build_a_lab])
    assert "A network of our own" not in capsys.readouterr().out


def test_a_kept_lab_is_still_up(capsys: pytest.CaptureFixture[str]) -> None:
    name = labs.unique_name()
    try:
        assert main(name, keep=True, steps=[build_a_lab]) == 0
        assert Lab.open(name).client.run(["true"]).returncode == 0
        assert "the lab is still up" in capsys.readouterr().out
    finally:
        assert labs.remove(name)
