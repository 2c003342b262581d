"""The forced command of the hook's key: restore one machine, and do nothing else.

    python -m vagrant.restore MACHINE      run by sshd, which says in SSH_ORIGINAL_COMMAND
                                           what was asked for

MACHINE is written beside the key and not by who holds it. What it asks for must be the one
sentence that the key is good for; of anything else nothing is run.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vagrant.settings import HERE

SNAPSHOT = "whole"  # of every server, made when the lab is up
REFUSED = 2
PATIENCE = 240  # seconds
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class Refused(Exception):
    """What was asked for is not what the key is good for."""


def machine_of(asked: str, allowed: str) -> str:
    """The machine to restore. Raises Refused."""
    if not NAME.fullmatch(allowed):
        raise Refused(f"{allowed!r} is no machine's name")
    if asked != f"restore {allowed}":
        raise Refused(f"this key is good for `restore {allowed}` alone")
    return allowed


def authorized_key(public: str, machine: str, python: Path, root: Path) -> str:
    """A line of sshd's AuthorizedKeysFile: this key, from the gateways, for this machine."""
    root_, python_ = shlex.quote(str(root)), shlex.quote(str(python))
    command = f"cd {root_} && exec {python_} -m vagrant.restore {machine}"
    return f'restrict,command="{command}" {public.strip()}\n'


def command_for(machine: str) -> list[str]:
    return ["vagrant", "--no-tty", "snapshot", "restore", "--no-provision", machine, SNAPSHOT]


def main(argv: Sequence[str], asked: str) -> int:
    try:
        machine = machine_of(asked, argv[0] if len(argv) == 1 else "")
    except Refused as refused:
        print(f"restore: {refused}", file=sys.stderr)
        return REFUSED
    try:
        return subprocess.run(
            command_for(machine), cwd=HERE, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"restore: {machine}: not within {PATIENCE} s", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("SSH_ORIGINAL_COMMAND", "")))
