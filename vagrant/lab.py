"""The lab of machines, up or not: its cell, its sshd for the hook, vagrant, the machines."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from lbctl.errors import LbctlError
from lbctl.lab.topology import Role
from lbctl.lab.waiting import NeverHappened, eventually
from vagrant import host, machines, overlay, settings
from vagrant.cell import URI, Cell
from vagrant.overlay import Keys
from vagrant.restore import REFUSED, SNAPSHOT, authorized_key
from vagrant.settings import CACHE, HERE, LOCAL_BOX, REPOSITORY, Settings
from vagrant.ssh import Machine

PACKED = CACHE / "payload"  # what is the same for every lab: packages, packet programs
DESCRIPTION = CACHE / "machines.json"
SSHD = """\
Port 22
ListenAddress {address}
HostKey "{state}/keys/host"
AuthorizedKeysFile "{state}/authorized_keys"
PidFile none
PermitRootLogin forced-commands-only
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM yes
PermitUserEnvironment no
SetEnv {environment}
"""
CONSOLE = 8  # lines of a console in messages
ENDING = 15.0  # seconds for vagrant to end in, once it is told to


def here() -> "VagrantLab":
    """The lab that is there, or the one that this machine and its environment make. Raises
    LbctlError."""
    if (there := settings.recorded()) is not None:
        return VagrantLab(settings.of_the_lab(os.environ, there))
    kvm, local_box = host.kvm_works(), LOCAL_BOX.exists()
    return VagrantLab(settings.read(os.environ, kvm=kvm, local_box=local_box))


def what_is_there() -> "VagrantLab":
    """To be removed: nothing else that the environment says can be in the way of that."""
    where = settings.recorded() or os.environ
    place = {name: where[name] for name in ("LBCTL_VAGRANT_STATE",) if name in where}
    return VagrantLab(settings.read(place, kvm=False, local_box=False))


class VagrantLab:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topology = machines.topology(settings)
        self.cell = Cell(settings.state)
        self.keys = Keys(settings.state / "keys")
        self.own = settings.state / "payload"  # what each machine gets
        self.made = settings.state / "made"  # a file: every machine is provisioned

    # --- what is made -------------------------------------------------------------------

    def describe(self) -> None:
        """Write what the Vagrantfile reads."""
        DESCRIPTION.parent.mkdir(parents=True, exist_ok=True)
        told = machines.describe(self.settings, self.own)
        DESCRIPTION.write_text(json.dumps(told, indent=1))

    def payload(self) -> None:
        self.keys.make(["root", "host", *(one.name for one in self.topology.hosts)])
        overlay.build(self.settings, self.topology, PACKED, self.own, self.keys)
        self.describe()

    def vagrant(self, *words: str, seconds: float) -> str:
        """Run it in the cell. Returns what it said. Raises LbctlError."""
        command = ["timeout", "-k", "10", f"{seconds:.0f}", "vagrant", "--no-tty", *words]
        with subprocess.Popen(
            self.cell.command(command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as running:
            try:
                said = readable(running.communicate(timeout=seconds + 30)[0])
            except BaseException:  # out of time, or ^C
                running.kill()
                # Until the last that writes there has ended: it holds machines' locks.
                with suppress(subprocess.TimeoutExpired):
                    running.communicate(timeout=ENDING)
                raise
        with (self.settings.state / "vagrant.log").open("a") as log:
            log.write(f"# vagrant {' '.join(words)}\n{said}\n")
        if running.returncode != 0:
            why = f"no end within {seconds:.0f} s" if running.returncode == 124 else "failed"
            raise LbctlError(f"vagrant {' '.join(words)}: {why}:\n{without_traces(said)[-1500:]}")
        return said

    @property
    def environment(self) -> dict[str, str]:
        ours = {"LBCTL_MACHINES": str(DESCRIPTION), "VAGRANT_CWD": str(HERE)}
        return {**self.cell.environment(), **ours}

    def restoring(self) -> None:
        """Have the gateways' hooks reach us: an sshd on the management network, with a key
        for each server that is good for nothing but its restoration."""
        python = Path(sys.executable)
        names = [one.name for one in self.topology.having(Role.SERVER)]
        lines = (authorized_key(self.keys.public(n), n, python, REPOSITORY) for n in names)
        (self.settings.state / "authorized_keys").write_text("".join(lines))
        for key in self.keys.directory.iterdir():
            key.chmod(0o600)
        config = self.settings.state / "sshd_config"
        config.write_text(sshd_config(self.settings.state, self.environment))
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
        """A snapshot that the hook restores: of the machine as it was first, whole."""
        if SNAPSHOT not in self.virsh("snapshot-list", domain(machine), "--name").split():
            self.vagrant("snapshot", "save", machine, SNAPSHOT, seconds=seconds)

    def refuses(self, gateway: Machine, server: str) -> str:
        """What the host answers to a sentence that the hook's key is not good for: so the way
        is there. Raises LbctlError."""
        answer = gateway.call(forced(server, f"restore {gateway.name}"), 60)
        if answer.returncode != REFUSED:
            said = answer.stderr.strip()[-300:] or f"exit {answer.returncode}"
            raise LbctlError(f"{gateway.name}: asking the host, with {server}'s key: {said}")
        return answer.stderr.strip()

    def consoles(self) -> str:
        """The ends of the machines' consoles, of those that have said anything."""
        found = []
        for one in self.topology.hosts:
            file = self.settings.state / f"{one.name}.console"
            if file.exists():
                lines = file.read_text(errors="replace").splitlines()[-CONSOLE:]
                found.append("\n".join([f"{one.name}'s console:", *lines]))
        return "\n".join(found)


def sshd_config(state: Path, environment: Mapping[str, str]) -> str:
    """With PAM, as sshd alone refuses a root whose password is locked: Debian's, with sudo."""
    ours = ("LBCTL_MACHINES", "VAGRANT_CWD", "VAGRANT_HOME", "VAGRANT_DOTFILE_PATH", "TMPDIR")
    wanted = (*ours, "LIBVIRT_DEFAULT_URI", "VAGRANT_CHECKPOINT_DISABLE", "PATH")
    values = " ".join(f'{name}="{environment[name]}"' for name in wanted)
    return SSHD.format(address=machines.HOST, state=state, environment=values)


def forced(server: str, asked: str) -> str:
    """The hook's ssh, asking for what its key is not good for."""
    home = "/etc/lbctl/restore"
    options = f"-o BatchMode=yes -o UserKnownHostsFile={home}/known_hosts"
    return f"ssh -i {home}/{server} {options} root@{machines.HOST} '{asked}'"


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
