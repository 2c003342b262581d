"""The spawner: a small process that runs scripts for others, each as the user it is meant
for, each with an end.

    daemon ──────┐  SEQPACKET, one JSON object a packet
                 ├── spawner ── keeper ── the script, and all that it starts
    probe worker ┘              (one for each run)

The keeper is there for what scripts leave behind: it is the reaper of everything that the
script starts (PR_SET_CHILD_SUBREAPER), so that even what hides in a session of its own is
found and ended with the run. It survives the spawner: a daemon that restarts does not stop
a hook that is restoring a machine. Only the script itself becomes another user, so it
cannot end those who watch it.

Commands of checks have a number for a user that nobody else has, each run its own: the
kernel counts processes by user, so one that forks without end would otherwise keep the
checks beside it from running.
"""

import ctypes
import errno
import os
import pwd
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from socket import AF_UNIX, SOCK_SEQPACKET, socket, socketpair
from time import monotonic

import msgspec

from lbctl.said import plain

PACKET = 128 << 10
KEPT = 4096  # bytes of output that are told
MOST_AT_ONCE = 32
# Users of runs: in the part of the range that systemd's allocation leaves to nobody
# (UIDS-GIDS.md: 1879048192 to 2147483647).
FIRST_USER = 0x7F4C4200
_ENDING = 2.0  # seconds for what does not want to go
_PIECE = 64 << 10
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38

# For scripts of an unprivileged user: what runs wild hits these before it hits the machine.
LIMITS = {
    resource.RLIMIT_NPROC: 64,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 64 << 20,
    resource.RLIMIT_AS: 2 << 30,
}


class Script(msgspec.Struct, frozen=True):
    """What to run. user "": as the spawner itself. most: bytes of output after which it is
    ended (0: it may print what it likes; only the last of it is kept). starts: what it
    started is to go on when it has ended, as a hook that starts a container wants."""

    id: int
    command: tuple[str, ...]
    env: Mapping[str, str]
    timeout: float
    user: str = ""
    most: int = 1 << 20
    starts: bool = False


class Ended(msgspec.Struct, frozen=True):
    """What became of a run. status: the exit status; None where it was `why` instead.
    unable: it could not be run, for a reason on our side. output: the last of what it said.
    """

    id: int
    status: int | None
    why: str = ""
    unable: bool = False
    output: str = ""
    took: float = 0.0

    def __str__(self) -> str:
        said = self.output.strip().splitlines()[-1:]
        words = self.why or f"exit status {self.status}"
        return f"{words}: {plain(said[0])[:120]}" if said else words


# --- the process ------------------------------------------------------------------------


def serve(line: socket, group: str = "") -> None:
    """Until the other side closes. group: the account whose group scripts have, while each
    run has a user of its own ("": each runs as it says)."""
    line.setblocking(True)
    # What ends is collected by the kernel: nobody here waits for keepers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keepers: dict[int, int] = {}  # slot -> pidfd
    while data := _receive(line):
        script = msgspec.json.decode(data, type=Script)
        keepers = {slot: fd for slot, fd in keepers.items() if _runs(fd)}
        slot = next(slot for slot in range(MOST_AT_ONCE + 1) if slot not in keepers)
        if slot == MOST_AT_ONCE:
            why = f"{MOST_AT_ONCE} scripts run already"
            _tell(line, Ended(script.id, None, why, unable=True))
            continue
        try:
            pid = os.fork()
        except OSError as error:
            _tell(line, Ended(script.id, None, f"no new process: {error.strerror}", unable=True))
            continue
        if pid == 0:
            for fd in keepers.values():
                os.close(fd)
            if group:
                script = msgspec.structs.replace(script, user=group)
            _keep(line, script, FIRST_USER + slot if group else None)
        # One that has ended by now is known no more, and its slot is free.
        with suppress(ProcessLookupError):
            keepers[slot] = os.pidfd_open(pid)


def _receive(line: socket) -> bytes:
    try:
        return line.recv(PACKET)
    except ConnectionResetError:
        return b""


def _runs(pidfd: int) -> bool:
    if select.select([pidfd], [], [], 0)[0]:
        os.close(pidfd)
        return False
    return True


def _tell(line: socket, ended: Ended) -> None:
    try:
        line.send(msgspec.json.encode(ended))
    except (BrokenPipeError, ConnectionResetError):
        return  # whoever asked is gone


def _keep(line: socket, script: Script, uid: int | None) -> None:
    """The keeper's whole life."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 1
    try:
        _tell(line, _told(script, uid))
        status = 0
    finally:
        os._exit(status)


def _told(script: Script, uid: int | None) -> Ended:
    """The end of a run, whatever happens: somebody waits to hear of it."""
    try:
        return run(script, uid)
    except Exception as error:
        why = f"cannot be run: {type(error).__name__}: {error}"
        return Ended(script.id, None, why, unable=True)


# --- one run ----------------------------------------------------------------------------


def run(script: Script, uid: int | None = None) -> Ended:
    """Run `script` in this process's care, which then is the reaper of all it starts. uid:
    in place of its user's own."""
    started = monotonic()
    try:
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, not script.starts, 0, 0, 0)
        child = subprocess.Popen(
            script.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(script.env),
            cwd="/",
            start_new_session=True,
            # Safe here, as this process has one thread.
            preexec_fn=partial(_become, _account(script.user), uid),
        )
    except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        why = f"{script.command[0]}: cannot be run: {_reason(error)}"
        return Ended(script.id, None, why, unable=True)
    try:
        why, output = _watch(child, script, started + script.timeout)
    finally:
        _end_group(child)
        if not script.starts:
            _end_all()
    status = child.returncode
    if not why and status < 0:
        why = f"ended by {_signal(-status)}"
    told = output.decode(errors="replace")
    took = monotonic() - started
    return Ended(script.id, None if why else status, why, output=told, took=took)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error.args[0]) if error.args else type(error).__name__


def _account(user: str) -> pwd.struct_passwd | None:
    """Whom to become; None: nobody else. Raises KeyError for a user that does not exist."""
    return pwd.getpwnam(user) if user and os.geteuid() == 0 else None


def _become(account: pwd.struct_passwd | None, uid: int | None) -> None:
    """For good; between fork and exec. Raises OSError."""
    if account is not None and account.pw_uid != 0:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid if uid is None else uid)
    if os.geteuid() != 0:
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for what, most in LIMITS.items():
            _, hard = resource.getrlimit(what)
            limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (limit, limit))


def _watch(child: subprocess.Popen[bytes], script: Script, end: float) -> tuple[str, bytes]:
    """Until it ends or has to be ended: why (empty: by itself), and the last of its output."""
    assert child.stdout is not None
    pipe, pidfd = child.stdout.fileno(), os.pidfd_open(child.pid)
    os.set_blocking(pipe, False)
    output, printed, open_ = bytearray(), 0, True
    while True:
        patience = max(0.0, end - monotonic())  # it may have passed since the last look
        ready, _, _ = select.select([pidfd, *([pipe] if open_ else [])], [], [], patience)
        if pipe in ready:
            piece = _read(pipe)
            open_, printed = bool(piece), printed + len(piece)
            output = (output + piece)[-KEPT:]
            if script.most and printed > script.most:
                return f"printed more than {script.most >> 10} KiB", bytes(output)
        elif pidfd in ready:
            return "", bytes(output)
        if monotonic() >= end:
            return f"timed out after {script.timeout:g} s", bytes(output)


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, _PIECE)
    except BlockingIOError:
        return b""


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """The script and what is still in its process group."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _end_all() -> None:
    """Whatever the script started, wherever that hides."""
    end = monotonic() + _ENDING
    while monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return  # nobody is left
        if pid == 0:
            for orphan in _children(os.getpid()):
                _kill(orphan)


def _children(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The name in parentheses may hold anything; the state and the parent follow.
                if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                    found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EPERM):
            raise


# --- starting one -----------------------------------------------------------------------


def fork(group: str) -> socket:
    """A spawner beside a process that has one thread and is about to give up what it may;
    its scripts have the group of the account `group`. Returns the line to it."""
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        theirs.close()
        return ours
    status = 1
    try:
        ours.close()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # stdin was somebody else's line
        serve(theirs, group)
        status = 0
    finally:
        os._exit(status)


def main() -> int:
    """`python -m lbctl.spawner`, with its line as standard input."""
    serve(socket(fileno=sys.stdin.fileno()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
