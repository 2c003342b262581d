"""Commands on the lab's machines, each with an end.

One connection a machine is kept for many commands: a handshake costs a second where the
processor is emulated. Who stops, restores or reboots a machine calls `forget` first: a
connection to what is no longer there hangs for ever.
"""

import shlex
import subprocess
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from lbctl.errors import LbctlError

CONNECTING = 20  # seconds
Inside = Callable[[Sequence[str | Path]], list[str]]  # the cell's `command`


class SshError(LbctlError):
    """A machine did not answer, or a command there failed."""


class Machine:
    """One machine. address: finds the one on the management network, when it is first needed.
    key: root's, a file."""

    def __init__(
        self, name: str, address: Callable[[], str], key: Path, inside: Inside, sockets: str
    ) -> None:
        self.name, self._find = name, address
        self._inside = inside
        self._socket = f"{sockets}/ssh-{name}"
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECTING),
            "ControlMaster": "auto",
            "ControlPath": self._socket,
            "ControlPersist": "600",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "ServerAliveCountMax": "3",
            "ServerAliveInterval": "10",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        words = [word for pair in options.items() for word in ("-o", "=".join(pair))]
        self._options = ["ssh", "-F", "none", "-i", str(key), *words]

    @cached_property
    def _ssh(self) -> list[str]:
        return [*self._options, f"root@{self._find()}"]

    def call(self, command: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """Run a shell command there. Raises SshError where there was no answer."""
        argv = self._inside(["timeout", f"{seconds:.0f}", *self._ssh, command])
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds + 5,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.forget()
            raise SshError(
                f"{self.name}: {short(command)}: no end within {seconds:.0f} s"
            ) from None
        if done.returncode in (124, 255):
            self.forget()
            why = "no end" if done.returncode == 124 else done.stderr.strip()[-200:] or "no answer"
            raise SshError(f"{self.name}: {short(command)}: {why} (at most {seconds:.0f} s)")
        return done

    def run(self, command: str, seconds: float = 60) -> str:
        """Its output. Raises SshError, also where the command failed."""
        done = self.call(command, seconds)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-400:]
            raise SshError(f"{self.name}: {short(command)}: exit {done.returncode}: {said}")
        return done.stdout

    def start(self, command: str) -> subprocess.Popen[str]:
        """Run it beside us; its output comes when it ends."""
        return subprocess.Popen(
            self._inside([*self._ssh, command]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answers(self, seconds: float = CONNECTING) -> bool:
        try:
            return self.call("true", seconds).returncode == 0
        except SshError:
            return False

    def forget(self) -> None:
        """Close the kept connection; nothing is asked of the machine."""
        stop = ["ssh", "-F", "none", "-O", "exit", "-o", f"ControlPath={self._socket}", "x"]
        subprocess.run(
            self._inside(["timeout", "5", *stop]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )


def short(command: str) -> str:
    """A command's first words, for messages."""
    words = command.split()
    return shlex.quote(" ".join(words[:6]) + (" ..." if len(words) > 6 else ""))
