"""Cgroups, small file systems and agents for servers of a lab: each has its own."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lbctl.lab import Host, eventually
from lbctl.lab.lab import Process

AGENT = Path(__file__).parents[2] / "agents/lbctl_agent.py"
V1 = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "memory")


def v1_is_here() -> bool:
    return all((V1 / one / "tasks").exists() for one in CONTROLLERS)


class Box:
    """A server with limits: a share of a processor, some memory, a small disk."""

    def __init__(self, lab: str, host: Host, cores: float, memory: int) -> None:
        self.host = host
        self.name = f"/{lab}-{host.name}"  # of its cgroup
        self.disk = host.home / "disk"
        self._cores, self._memory = cores, memory

    @contextlib.contextmanager
    def made(self, disk: str = "16m") -> Iterator[None]:
        for one in CONTROLLERS:
            self._directory(one).mkdir()
        (self._directory("cpu") / "cpu.cfs_quota_us").write_text(f"{self._cores * 100000:.0f}")
        (self._directory("memory") / "memory.limit_in_bytes").write_text(str(self._memory))
        self.disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk}", "x", self.disk], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.disk], check=True)
            for one in CONTROLLERS:
                eventually(lambda one=one: self._is_gone(one))

    def take(self, pid: int) -> None:
        """Put a process, and what it will start, into the box."""
        for one in CONTROLLERS:
            (self._directory(one) / "cgroup.procs").write_text(str(pid))

    def start(self, argv: Sequence[str | Path], log: str) -> Process:
        """A process of the host that is in the box from its first instruction."""
        joins = "; ".join(f"echo $$ > {self._directory(one)}/cgroup.procs" for one in CONTROLLERS)
        words = ["sh", "-c", f'{joins}; exec "$@"', "sh", *map(str, argv)]
        return self.host.start(words, log=log)

    def agent(self, *options: str | Path) -> Process:
        looks = ("--cgroup", self.name, "--disk", self.disk)
        return self.host.start([sys.executable, AGENT, "serve", *looks, *options], log="agent.log")

    def half_busy(self, share: float) -> Process:
        """A process that takes this share of the processor that the box may have."""
        text = (
            "from time import monotonic, process_time, sleep\n"
            "began = monotonic()\n"
            "while True:\n"
            f"    if process_time() > {share * self._cores} * (monotonic() - began): sleep(0.005)\n"
        )
        return self.start([sys.executable, "-c", text], "half.log")

    def busy(self) -> Process:
        return self.start([sys.executable, "-c", "while True: pass"], "busy.log")

    def hoard(self, size: int) -> Process:
        """A process that holds `size` bytes of memory."""
        text = f"b = bytearray({size}); b[::4096] = b'x' * len(b[::4096]); input()"
        hold = ["sh", "-c", f'tail -f /dev/null | {sys.executable} -c "{text}"']
        return self.start(hold, "hoard.log")

    def fill(self, size: int) -> Path:
        file = self.disk / "full"
        file.write_bytes(bytes(size))
        return file

    def _directory(self, controller: str) -> Path:
        return V1 / controller / self.name[1:]

    def _is_gone(self, controller: str) -> bool:
        try:
            os.rmdir(self._directory(controller))
        except FileNotFoundError:
            return True
        except OSError:
            return False  # somebody is still on the way out
        return True


def certificates(where: Path, *addresses: str) -> None:
    """What `lbctl agent cert` makes, for servers of these addresses and for a gateway."""
    command = [sys.executable, "-m", "lbctl.cli.main", "agent", "cert", "--dir", str(where)]
    for address in addresses:
        subprocess.run([*command, address], check=True, capture_output=True)
    subprocess.run([*command, "gateway", "--client"], check=True, capture_output=True)
    assert shutil.which("openssl")
