"""A lab that is up: its hosts, what runs on them, and how it goes away without a trace.

    with Lab(standard()) as lab:
        lab.host("client").run(["curl", "-s", "http://198.51.100.11/"])

What a lab made is written down *before* it is made (`lab.json` in its directory), so
`down` removes exactly that, also after a crash in the middle of `up`. Which processes
belong to it is not written down anywhere: those that live in its namespaces do.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import msgspec

from lbctl.errors import Exit
from lbctl.lab import kernel
from lbctl.lab.kernel import LabError, Running
from lbctl.lab.topology import Host as HostSpec
from lbctl.lab.topology import Role, Topology
from lbctl.lab.waiting import eventually
from lbctl.lab.web import WebServer

HOME = Path(os.environ.get("LBCTL_LAB_HOME", "/run/lbctl-lab"))
HEADERS = Path(__file__).parents[2] / ".cache/headers"  # what tools/setup linked, if it did
RECORD = "lab.json"
FRESH = f"{RECORD}.new"
BPFFS = "bpf"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")  # of namespaces and a directory, too


class BadName(LabError):
    """No name for a lab."""

    exit_code = Exit.USAGE


def unique_name() -> str:
    """A name that no other lab of this machine has."""
    return f"t{secrets.token_hex(3)}"


class Record(msgspec.Struct, frozen=True):
    """What a lab made, or was about to make."""

    topology: Topology
    namespaces: tuple[str, ...]
    complete: bool = False


class Process:
    """A process that was started on a host, with its own process group. It ends with its
    lab, or by `kill`. log: what it says, both streams."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen, self.log, self.pid = popen, log, popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def kill(self, number: signal.Signals = signal.SIGKILL, group: bool = False) -> None:
        """Signal it (`group`: and the processes it started) and forget nothing: `wait`
        still gives its exit code."""
        if self.alive:
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout: float = 10.0) -> int:
        """Its exit code (negative: the signal that ended it). Raises LabError."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            command = " ".join(str(word) for word in self._popen.args)  # type: ignore[union-attr]
            raise LabError(f"{command}: still runs after {timeout:g} s") from None

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Host:
    """A host of a lab that is up."""

    def __init__(self, lab: str, spec: HostSpec, home: Path) -> None:
        self.spec, self.name, self.address, self.home = spec, spec.name, spec.address, home
        self.namespace = kernel.namespace(lab, spec.name)
        self.started: list[Process] = []

    @property
    def environment(self) -> Mapping[str, str]:
        """What commands on this host find in their environment, besides ours: `lbctl` and
        the interpreter's other commands are on the path."""
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path}

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` on this host."""
        return kernel.inside(self.namespace, [str(word) for word in argv])

    def run(
        self, argv: Sequence[str | Path], *, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. check: an exit code other than 0 raises LabError."""
        done = subprocess.run(
            self.command(argv),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            command = " ".join(str(word) for word in argv)
            said = _words_of(done)
            raise LabError(f"{self.name}: {command}: exit code {done.returncode}: {said}")
        return done

    def start(self, argv: Sequence[str | Path], log: str = "") -> Process:
        """Run a command in the background. log: a file name in the host's directory; of
        one command that is started again it is continued."""
        self.home.mkdir(parents=True, exist_ok=True)
        path = self.home / (log or f"{len(self.started)}-{Path(argv[0]).name}.log")
        with path.open("ab") as sink:
            popen = subprocess.Popen(
                self.command(argv),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(popen, path)
        self.started.append(process)
        # Until nsenter has entered, `down` would not find it.
        eventually(lambda: not process.alive or kernel.lives_in(self.namespace, process.pid))
        return process

    def become(self, argv: Sequence[str]) -> NoReturn:
        """Replace this process by a command on the host. Raises LabError if that fails."""
        if shutil.which(argv[0], path=self.environment["PATH"]) is None:
            raise LabError(f"{argv[0]}: no such command")
        command = self.command(argv)
        os.execvpe(command[0], command, self.environment)

    def processes(self) -> list[Running]:
        """All that lives here, whoever started it."""
        return kernel.processes(self.namespace)

    @property
    def web(self) -> WebServer:
        """Its web server, running or not."""
        return WebServer(self.namespace, self.name, self.home, self.spec.ipv6)


class GatewayHost(Host):
    """A host that runs `lbctl daemon`; pins: its directory in the lab's own bpffs."""

    def __init__(self, lab: str, spec: HostSpec, home: Path, bpffs: Path) -> None:
        super().__init__(lab, spec, home)
        self.pins = bpffs / spec.name
        self.socket = home / "lbctl.sock"
        self.state = home / "state"
        self.file = home / "lbctl.yaml"

    @property
    def environment(self) -> Mapping[str, str]:
        """All places of `lbctl` are this gateway's own: none is shared with this machine."""
        found = {
            **super().environment,
            "LBCTL_SOCKET": str(self.socket),
            "LBCTL_CONFIG": str(self.file),
            "LBCTL_STATE": str(self.state),
            "LBCTL_PINS": str(self.pins),
            "LBCTL_VRRP_SOCKET": str(self.home / "vrrp.sock"),
        }
        if (HEADERS / ".whole").exists():
            found.setdefault("BCC_KERNEL_SOURCE", str(HEADERS))
        return found

    def config(self, text: str) -> Path:
        """Write the gateway's configuration file; returns its path."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text)
        return self.file

    def lbctl(
        self, *words: str | Path, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run an lbctl verb here, against this gateway's daemon."""
        done = self.run(self._lbctl(*words), check=False, timeout=timeout)
        if check and done.returncode != 0:
            raise LabError(f"lbctl {words[0]} returned {done.returncode}: {_words_of(done)}")
        return done

    def daemon(self, *options: str) -> Process:
        """Start this gateway's daemon, with `config`'s file."""
        files = ("--config", self.file, "--socket", self.socket)
        places = ("--state", self.state, "--pins", self.pins)
        return self.start(self._lbctl("daemon", *files, *places, *options), log="daemon.log")

    def _lbctl(self, *words: str | Path) -> list[str | Path]:
        return [sys.executable, "-m", "lbctl.cli.main", *words]


class Lab:
    """A lab by name, up or not. As a context manager it is up inside, and gone after.

    name: of its namespaces and its directory; unique if not given.
    """

    def __init__(self, topology: Topology, name: str | None = None) -> None:
        self.topology = topology
        self.name = unique_name() if name is None else name
        self.home = home_of(self.name)
        self.bpffs = self.home / BPFFS
        self._hosts = {spec.name: self._host(spec) for spec in topology.hosts}

    @classmethod
    def open(cls, name: str) -> Self:
        """The lab of that name which is up. Raises LabError."""
        record = _read(name)
        if record is None:
            others = ", ".join(names()) or "none is up"
            raise LabError(f"there is no lab '{name}' (labs: {others})", "lbctl lab up")
        return cls(record.topology, name)

    # --- hosts

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def host(self, name: str) -> Host:
        if name not in self._hosts:
            raise LabError(f"no host '{name}' in lab '{self.name}' ({', '.join(self._hosts)})")
        return self._hosts[name]

    @property
    def client(self) -> Host:
        return self.host(self.topology.having(Role.CLIENT)[0].name)

    @property
    def gateway(self) -> GatewayHost:
        """The first gateway."""
        return self.gateways[0]

    @property
    def gateways(self) -> list[GatewayHost]:
        return [host for host in self if isinstance(host, GatewayHost)]

    @property
    def servers(self) -> list[Host]:
        return [self.host(spec.name) for spec in self.topology.having(Role.SERVER)]

    def _host(self, spec: HostSpec) -> Host:
        home = self.home / spec.name
        if spec.role is Role.GATEWAY:
            return GatewayHost(self.name, spec, home, self.bpffs)
        return Host(self.name, spec, home)

    # --- up and down

    def up(self) -> None:
        """Make the lab and start its web servers. Raises LabError, also if it is up or
        half up; what a failed `up` made is removed."""
        kernel.must_be_root()
        spaces = tuple(kernel.namespaces(self.name, self.topology))
        self._claim(Record(self.topology, spaces))
        try:
            kernel.mount_bpffs(self.bpffs)
            kernel.build(self.name, self.topology)
            for server in self.servers:
                server.web.start()
        except BaseException:
            self.down()
            raise
        self._write(Record(self.topology, spaces, complete=True))

    def down(self) -> bool:
        """Remove what `up` made, as far as it is there. False: there was nothing."""
        removed = remove(self.name)
        for host in self:
            for process in host.started:
                process.wait()
        return removed

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _claim(self, record: Record) -> None:
        """Write down what will be made; the directory is the lock."""
        for space in record.namespaces:
            if kernel.exists(space) and _read(self.name) is None:
                raise LabError(
                    f"namespace {space} exists, and no lab made it",
                    f"choose another name by LBCTL_LAB, or: ip netns delete {space}",
                )
        self.home.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.home.mkdir()
        except FileExistsError:
            found = _read(self.name)
            state = "is up already" if found and found.complete else "was left half made"
            mend = "lbctl lab status shows it, lbctl lab down ends it"
            raise LabError(f"lab '{self.name}' {state}", mend) from None
        self._write(record)

    def _write(self, record: Record) -> None:
        fresh = self.home / FRESH
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.rename(self.home / RECORD)


def remove(name: str) -> bool:
    """End the processes of the lab of that name and remove all it made, be it whole or half
    made. False: there is no such lab. Raises LabError; then it can be called again."""
    home = home_of(name)
    kernel.must_be_root()
    record = _read(name)
    if record is None:
        return False
    kernel.end(record.namespaces)
    kernel.unmount(home / BPFFS)
    kernel.remove(record.namespaces)
    shutil.rmtree(home)
    return True


def names() -> list[str]:
    """The labs of this machine, whole or half made."""
    return sorted(path.parent.name for path in HOME.glob(f"*/{RECORD}"))


def is_there(name: str) -> bool:
    """Whether `remove` would find something. Raises LabError where it would."""
    return _read(name) is not None


def home_of(name: str) -> Path:
    """The directory of the lab of that name, and of nothing else. Raises BadName."""
    if NAME.fullmatch(name) is None:
        raise BadName(
            f"{name!r}: no name for a lab",
            "one has up to 20 letters a-z, digits and '-', and a letter or digit at each end",
        )
    return HOME / name


def _words_of(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).strip()


def _read(name: str) -> Record | None:
    """A lab's record; None if there is no such lab. An empty directory was claimed by an
    `up` that was killed before it made anything; one with anything else in it is not ours."""
    home = home_of(name)
    try:
        return msgspec.json.decode((home / RECORD).read_bytes(), type=Record)
    except (FileNotFoundError, NotADirectoryError):
        if not home.exists():
            return None
    except (msgspec.MsgspecError, ValueError) as error:
        raise LabError(f"{home / RECORD}: is not what `lbctl lab up` wrote: {error}") from None
    if home.is_dir() and not {path.name for path in home.iterdir()} - {FRESH}:
        return Record(Topology((), ()), ())
    raise LabError(f"{home}: no lab made this", f"look what it is, and move it out of {HOME}")
