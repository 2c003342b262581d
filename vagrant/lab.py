"""The lab of machines, up or not: its cell, its sshd for the hook, vagrant, the machines."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from functools import cached_property

from lbctl.errors import LbctlError
from lbctl.lab.topology import Role
from lbctl.lab.waiting import NeverHappened, eventually
from vagrant import host, machines, overlay
from vagrant.cell import URI, Cell
from vagrant.overlay import Keys
from vagrant.restore import SNAPSHOT, authorized_key
from vagrant.settings import CACHE, HERE, LOCAL_BOX, REPOSITORY, Settings, read
from vagrant.ssh import Machine

PAYLOAD = CACHE / "payload"
DESCRIPTION = CACHE / "machines.json"
SSHD = """\
Port 22
ListenAddress {address}
HostKey {state}/keys/host
AuthorizedKeysFile {state}/authorized_keys
PidFile none
PermitRootLogin forced-commands-only
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PermitUserEnvironment no
SetEnv {environment}
"""
CONSOLE = 8  # lines of a console in messages


def here() -> "VagrantLab":
    """By this machine and its environment. Raises LbctlError."""
    return VagrantLab(read(os.environ, kvm=host.kvm_works(), local_box=LOCAL_BOX.exists()))


class VagrantLab:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topology = machines.topology(settings)
        self.cell = Cell(settings.state)
        self.keys = Keys(settings.state / "keys")

    # --- what is made -------------------------------------------------------------------

    def describe(self) -> None:
        """Write what the Vagrantfile reads."""
        DESCRIPTION.parent.mkdir(parents=True, exist_ok=True)
        DESCRIPTION.write_text(json.dumps(machines.describe(self.settings, PAYLOAD), indent=1))

    def payload(self) -> None:
        self.keys.make(["root", "host", *(one.name for one in self.topology.hosts)])
        overlay.build(self.settings, self.topology, PAYLOAD, self.keys)
        self.describe()

    def vagrant(self, *words: str, seconds: float) -> str:
        """Run it in the cell. Returns what it said. Raises LbctlError."""
        command = ["timeout", "-k", "10", f"{seconds:.0f}", "vagrant", "--no-tty", *words]
        done = subprocess.run(
            self.cell.command(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds + 30,
            check=False,
        )
        said = readable(done.stdout)
        with (self.settings.state / "vagrant.log").open("a") as log:
            log.write(f"# vagrant {' '.join(words)}\n{said}\n")
        if done.returncode != 0:
            why = f"no end within {seconds:.0f} s" if done.returncode == 124 else "failed"
            raise LbctlError(f"vagrant {' '.join(words)}: {why}:\n{without_traces(said)[-1500:]}")
        return said

    @property
    def environment(self) -> dict[str, str]:
        ours = {"LBCTL_MACHINES": str(DESCRIPTION), "VAGRANT_CWD": str(HERE)}
        return {**self.cell.environment(), **ours}

    def restoring(self) -> None:
        """Have the gateways' hooks reach us: an sshd on the management network, with a key
        for each server that is good for nothing but its restoration."""
        python = REPOSITORY / ".venv/bin/python"
        if not python.exists():
            raise LbctlError(f"{python}: not there", "make setup-test")
        names = [one.name for one in self.topology.having(Role.SERVER)]
        lines = (authorized_key(self.keys.public(n), n, python, REPOSITORY) for n in names)
        (self.settings.state / "authorized_keys").write_text("".join(lines))
        for key in self.keys.directory.iterdir():
            key.chmod(0o600)
        names_of_ours = ("LBCTL_MACHINES", "VAGRANT_CWD", "VAGRANT_HOME", "VAGRANT_DOTFILE_PATH")
        wanted = (*names_of_ours, "LIBVIRT_DEFAULT_URI", "VAGRANT_CHECKPOINT_DISABLE", "PATH")
        values = " ".join(f'{name}="{self.environment[name]}"' for name in wanted)
        config = self.settings.state / "sshd_config"
        config.write_text(
            SSHD.format(address=machines.HOST, state=self.settings.state, environment=values)
        )
        running = self.inside(["ss", "-Htln", "sport", "=", ":22"])
        if running.stdout.strip():
            return
        done = self.inside(["/usr/sbin/sshd", "-f", str(config), "-E", f"{config.parent}/sshd.log"])
        if done.returncode != 0:
            raise LbctlError(f"sshd: {done.stderr.strip()[-300:]}")

    # --- looking and acting from outside ------------------------------------------------

    def inside(self, argv: Sequence[str], seconds: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a command of the host's in the cell."""
        return subprocess.run(
            self.cell.command(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def virsh(self, *words: str) -> str:
        """Raises LbctlError."""
        done = self.inside(["virsh", "-q", "-c", URI, *words])
        if done.returncode != 0:
            raise LbctlError(f"virsh {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Of every machine that libvirt knows: `running`, `paused`, `shut off`, ..."""
        found = {}
        for line in self.virsh("list", "--all").splitlines():
            _, name, state = line.split(None, 2)
            found[name.removeprefix(f"{machines.PREFIX}-")] = state.strip()
        return found

    @cached_property
    def machines(self) -> dict[str, Machine]:
        return {one.name: self._machine(one.name) for one in self.topology.hosts}

    def _machine(self, name: str) -> Machine:
        inside, key = self.cell.command, self.keys.private("root")
        return Machine(name, lambda: self._address(name), key, inside, "/run")

    def _address(self, name: str) -> str:
        """By its lease. Raises LbctlError."""

        def look() -> str:
            try:
                found = self.virsh("domifaddr", domain(name), "--source", "lease").split()
            except LbctlError as error:
                raise AssertionError(error.message) from None
            return next((word.partition("/")[0] for word in found if "/" in word), "")

        try:
            return eventually(look, 10)
        except NeverHappened as never:
            raise LbctlError(f"{name}: it has no address: {never}", "make vagrant-up") from None

    def plug(self, machine: str, nic: str, up: bool) -> None:
        """The cable of a NIC."""
        where = machines.port(machine, nic)
        self.virsh("domif-setlink", domain(machine), where, "up" if up else "down")

    def switch_port(self, mac: str) -> str:
        """Behind which port of a switch a MAC was seen last; empty: none."""
        for line in self.inside(["bridge", "fdb", "show"]).stdout.splitlines():
            words = line.split()
            if words[0] == mac and "permanent" not in words:
                return words[words.index("dev") + 1]
        return ""

    def save(self, machine: str, seconds: float) -> None:
        """A snapshot that the hook restores."""
        self.vagrant("snapshot", "save", "--force", machine, SNAPSHOT, seconds=seconds)

    def consoles(self) -> str:
        """The ends of the machines' consoles, of those that have said anything."""
        found = []
        for one in self.topology.hosts:
            file = self.settings.state / f"{one.name}.console"
            if file.exists():
                lines = file.read_text(errors="replace").splitlines()[-CONSOLE:]
                found.append("\n".join([f"{one.name}'s console:", *lines]))
        return "\n".join(found)


def domain(machine: str) -> str:
    return f"{machines.PREFIX}-{machine}"


def without_traces(said: str) -> str:
    """Without Ruby's tales of who called whom."""
    calls = re.compile(r"^\s*(from )?\S+\.rb:\d+:in `[^']*'$")
    return "\n".join(line for line in said.splitlines() if not calls.match(line))


def readable(said: str) -> str:
    """vagrant's words without bars of progress."""
    lines = (line.rpartition("\r")[2].rstrip() for line in said.splitlines())
    return "\n".join(line for line in lines if line and "Progress:" not in line)
