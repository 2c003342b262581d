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
from contextlib import suppress
from pathlib import Path

from lbctl.errors import LbctlError
from lbctl.lab.waiting import NeverHappened, eventually

URI = "qemu:///system"
OWN = "/run/lbctl-cell"  # is there when all mounts are: before, virsh finds the host's libvirt
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
STARTING, ASKING, ENDING = 60.0, 20.0, 20.0  # seconds
# Who is killed passes nothing on, and a new process namespace is entered by a child only: so
# each of the two ends with who started it, and `timeout` ends all that it runs.
BOUND = ("setpriv", "--pdeathsig", "TERM")


class Cell:
    """state: its directory, on a disk with room for the machines. There is no other record of
    a cell than the command line of its outer process, which names that directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.log = state / LOG
        self._script = state / "init"
        self._started: subprocess.Popen[bytes] | None = None  # here, and not by another process

    # --- up and down --------------------------------------------------------------------

    def start(self) -> None:
        """Returns when libvirt answers. Raises LbctlError; then nothing of it runs."""
        if self.init is not None:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        for place in ("tmp", *SHADOWED):
            (self.state / place).mkdir(parents=True, exist_ok=True)
        (self.state / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
        (self.state / "etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
        self._script.write_text(init_script(self.state))
        command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL"]
        command += ["--mount-proc", "--propagation", "private", "sh", str(self._script)]
        with self.log.open("ab") as sink:
            self._started = outer = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        try:
            eventually(lambda: self._answers(outer), STARTING)
        except BaseException as error:  # out of time and ^C too
            self.stop()
            if isinstance(error, (NeverHappened, LbctlError)):
                said = f"{error}\n{self.said()}"
                raise LbctlError(f"libvirt in {self.state}: {said}") from None
            raise

    def _answers(self, outer: subprocess.Popen[bytes]) -> bool:
        if outer.poll() is not None:
            raise LbctlError("it ended at once")
        init = self.init
        # os.path: of a process that ends meanwhile a Path would raise PermissionError.
        if init is None or not os.path.exists(f"/proc/{init}/root{OWN}"):
            return False
        try:
            done = subprocess.run(
                entering(init, ["virsh", "-c", URI, "list"]),
                capture_output=True,
                text=True,
                timeout=ASKING,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(f"virsh list: no answer in {ASKING:g} s") from None
        assert done.returncode == 0, done.stderr.strip()
        return True

    def stop(self) -> bool:
        """End all that lives in it. False: it was not up."""
        outer = self._outer()
        if outer is not None:
            inside = self._inside(outer)
            # The outer process's end takes the cell's init with it, and that all others.
            os.kill(outer, signal.SIGKILL)
            if inside is not None:
                eventually(lambda: not alive(inside), ENDING)
        if self._started is not None:
            self._started.wait(ENDING)
        return outer is not None

    def remove(self) -> bool:
        """Stop it, and take its directory away. False: there was nothing. Raises LbctlError:
        something is left, and what."""
        there, late = self.state.exists(), ""
        try:
            there = self.stop() or there
        except NeverHappened as never:
            late = f"killed, but it still ends: {never}"
        shutil.rmtree(self.state, ignore_errors=True)  # as much as can be
        try:
            if self.state.exists():
                shutil.rmtree(self.state)
        except OSError as error:
            late = late or f"not all of it could be removed: {error}"
        if late:
            raise LbctlError(f"{self.state}: {late}", "make vagrant-down once more")
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
        return entering(init, argv)

    def environment(self) -> Mapping[str, str]:
        """For vagrant: everything of its is in the cell's directory too."""
        places = {
            "VAGRANT_HOME": "vagrant-home",
            "VAGRANT_DOTFILE_PATH": "vagrant-dot",
            "TMPDIR": "tmp",
        }
        ours = {name: str(self.state / place) for name, place in places.items()}
        return {**os.environ, **ours, "LIBVIRT_DEFAULT_URI": URI, "VAGRANT_CHECKPOINT_DISABLE": "1"}

    def said(self) -> str:
        """The end of what libvirtd said."""
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""

    def _outer(self) -> int | None:
        end = f"\0sh\0{self._script}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(FileNotFoundError, ProcessLookupError):
                line = (process / "cmdline").read_bytes()
                # Of our own user: anybody may give a process such a command line.
                ours = process.stat().st_uid == os.geteuid()
                if ours and line.startswith(b"unshare\0") and line.endswith(end):
                    return int(process.name)
        return None

    def _inside(self, outer: int) -> int | None:
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(children[0]) if children else None


def entering(init: int, argv: Sequence[str | Path]) -> list[str]:
    """The command line that runs `argv` in this process's namespaces; it fails when that has
    ended."""
    enter = ["nsenter", "-t", str(init), "-m", "-n", "-p"]
    return [*BOUND, *enter, *BOUND, *map(str, argv)]


def init_script(state: Path) -> str:
    """The first process of the cell. It waits for libvirtd, and buries what is orphaned."""
    lines = ["set -e", "mount -t tmpfs -o mode=755 run /run", "mount -t sysfs sys /sys"]
    lines.append("mkdir -p /run/libvirt /run/sshd /run/lock")
    lines += [f"mount --bind {shlex.quote(str(state / place))} /{place}" for place in SHADOWED]
    lines += ["ip link set lo up", f"touch {OWN}", "libvirtd &", "wait", "echo 'libvirtd ended'"]
    return "\n".join([*lines, ""])


def alive(pid: int) -> bool:
    """And not only not buried yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] != "Z"
