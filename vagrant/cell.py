"""A libvirt of our own: libvirtd, its networks and machines in namespaces that nobody else
is in. Where systemd is not PID 1, and wherever a lab should leave no trace.

    host ── unshare ── init of the cell (a shell) ── libvirtd ── machines, dnsmasq, sshd

Its network, mounts and processes are the cell's: when the cell's init ends, the kernel ends
all of them, networks and mounts included. What is left is one directory.
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lbctl.errors import LbctlError
from lbctl.lab.waiting import NeverHappened, eventually

URI = "qemu:///system"
RECORD = "cell.json"
LOG = "cell.log"
# Of libvirt's, what it writes to or we set; shadowed inside by directories of ours.
SHADOWED = ("etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt")
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
"""
LIBVIRTD_CONF = 'auth_unix_rw = "none"\nunix_sock_group = "root"\n'
STARTING, ENDING = 60.0, 20.0  # seconds


class Record(msgspec.Struct, frozen=True):
    """The outer process of a cell. born: in clock ticks since the boot."""

    pid: int
    born: int | None


class Cell:
    """state: its directory, on a disk with room for the machines."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.log = state / LOG

    # --- up and down --------------------------------------------------------------------

    def start(self) -> None:
        """Returns when libvirt answers. Raises LbctlError; then nothing of it runs."""
        if self.init is not None:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        for place in SHADOWED:
            (self.state / place).mkdir(parents=True, exist_ok=True)
        (self.state / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
        (self.state / "etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
        (self.state / "init").write_text(init_script(self.state))
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL"]
        command += ["--mount-proc", "--propagation", "private", "sh", str(self.state / "init")]
        with self.log.open("ab") as sink:
            outer = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        record = Record(outer.pid, born(outer.pid))
        (self.state / RECORD).write_bytes(msgspec.json.encode(record))
        try:
            eventually(lambda: self._answers(outer), STARTING)
        except (NeverHappened, LbctlError) as error:
            self.stop()
            raise LbctlError(f"libvirt in {self.state}: {error}\n{self.said()}") from None

    def _answers(self, outer: subprocess.Popen[bytes]) -> bool:
        if outer.poll() is not None:
            raise LbctlError("it ended at once")
        if self.init is None:
            return False  # not forked yet
        done = subprocess.run(
            self.command(["virsh", "-c", URI, "list"]),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr.strip()
        return True

    def stop(self) -> bool:
        """End all that lives in it. False: it was not up."""
        outer = self._outer()
        (self.state / RECORD).unlink(missing_ok=True)
        if outer is None:
            return False
        inside = self._inside(outer)
        # The outer process's end takes the cell's init with it, and that all others.
        os.kill(outer, signal.SIGKILL)
        if inside is not None:
            eventually(lambda: not Path(f"/proc/{inside}").exists() or is_zombie(inside), ENDING)
        return True

    def remove(self) -> bool:
        """Stop it, and take its directory away. False: there was nothing."""
        there = self.stop() or self.state.exists()
        shutil.rmtree(self.state, ignore_errors=True)
        return there

    # --- inside -------------------------------------------------------------------------

    @property
    def init(self) -> int | None:
        """The process whose namespaces the cell is; None: it is not up."""
        outer = self._outer()
        return None if outer is None else self._inside(outer)

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` inside. Raises LbctlError."""
        init = self.init
        if init is None:
            raise LbctlError("the machines' libvirt does not run", "make vagrant-up")
        return ["nsenter", "-t", str(init), "-m", "-n", "-p", *map(str, argv)]

    def environment(self) -> Mapping[str, str]:
        """For vagrant: everything of its is in the cell's directory too."""
        places = {"VAGRANT_HOME": "vagrant-home", "VAGRANT_DOTFILE_PATH": "vagrant-dot"}
        ours = {name: str(self.state / place) for name, place in places.items()}
        return {**os.environ, **ours, "LIBVIRT_DEFAULT_URI": URI, "VAGRANT_CHECKPOINT_DISABLE": "1"}

    def said(self) -> str:
        """The end of what libvirtd said."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def _outer(self) -> int | None:
        try:
            record = msgspec.json.decode((self.state / RECORD).read_bytes(), type=Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        # Numbers of processes are used again: the time of birth tells.
        same = born(record.pid) == record.born and not is_zombie(record.pid)
        return record.pid if same else None

    def _inside(self, outer: int) -> int | None:
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None


def init_script(state: Path) -> str:
    """The first process of the cell. It waits for libvirtd, and buries what is orphaned."""
    lines = ["set -e", "mount -t tmpfs -o mode=755 run /run", "mount -t sysfs sys /sys"]
    lines.append("mkdir -p /run/libvirt /run/sshd /run/lock")
    lines += [f"mount --bind {shlex.quote(str(state / place))} /{place}" for place in SHADOWED]
    lines += ["ip link set lo up", "libvirtd &", "wait", "echo 'libvirtd ended'"]
    return "\n".join([*lines, ""])


def born(pid: int) -> int | None:
    """When a process was started, in clock ticks since the boot."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def is_zombie(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] == "Z"


def _stat(pid: int) -> list[str]:
    """Of proc(5)'s stat, the fields after the name; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
