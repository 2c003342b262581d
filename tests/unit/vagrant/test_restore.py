"""What a hook's key is good for: one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vagrant.machines import HOST
from vagrant.restore import Refused, authorized_key, command_for, machine_of
from vagrant.settings import REPOSITORY


def test_the_one_sentence() -> None:
    assert machine_of("restore server1", "server1") == "server1"


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "restore",
        "restore server2",
        "restore server1 ",
        "restore  server1",
        "restore server1; reboot",
        "restore server1\nreboot",
        "restore $(reboot)",
        "restore server11",
        "RESTORE server1",
        "destroy server1",
        "sftp-server",
    ],
)
def test_anything_else_is_refused(asked: str) -> None:
    with pytest.raises(Refused, match="`restore server1` alone"):
        machine_of(asked, "server1")


@pytest.mark.parametrize("allowed", ["", "--all", "a b", "server1;", "../x", "s" * 40])
def test_a_key_for_what_is_no_machine_is_good_for_nothing(allowed: str) -> None:
    with pytest.raises(Refused, match="no machine's name"):
        machine_of(f"restore {allowed}", allowed)


def test_the_line_of_the_key_allows_nothing_else() -> None:
    line = authorized_key("ssh-ed25519 AAAA lab\n", "server1", Path("/v/python"), Path("/repo"))
    assert line == (
        'restrict,command="cd /repo && exec /v/python -m vagrant.restore server1" '
        "ssh-ed25519 AAAA lab\n"
    )


def test_a_repository_with_a_space_in_its_path() -> None:
    line = authorized_key("ssh-ed25519 AAAA", "server1", Path("/v e/python"), Path("/the repo"))
    assert "cd '/the repo' && exec '/v e/python' -m vagrant.restore server1" in line


def test_the_hook_asks_the_host_for_the_one_sentence() -> None:
    script = (REPOSITORY / "vagrant/restore-server").read_text()
    assert f'root@{HOST} "restore $server"' in script


def test_nothing_is_provisioned_again() -> None:
    assert "--no-provision" in command_for("server1")


def test_as_sshd_runs_it(tmp_path: Path) -> None:
    """With a `vagrant` that only says what it was asked."""
    (tmp_path / "vagrant").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "vagrant").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    def ask(sentence: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vagrant.restore", "server1"],
            env={**os.environ, "PATH": path, "SSH_ORIGINAL_COMMAND": sentence},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    refused = ask("restore lb1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "good for `restore server1` alone" in refused.stderr
    done = ask("restore server1")
    assert done.returncode == 0
    assert done.stdout == "--no-tty snapshot restore --no-provision server1 whole\n"
