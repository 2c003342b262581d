"""What the host must have, asked before anything is made."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lbctl.errors import LbctlError
from lbctl.lab.topology import Role
from vagrant.settings import KVM, Settings

TOOLS = {  # command: Debian's package
    "vagrant": "vagrant",
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "dnsmasq": "dnsmasq-base",
    "qemu-system-x86_64": "qemu-system-x86",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
    "bridge": "iproute2",
}
PLUGINS = Path("/usr/share/rubygems-integration/all/gems")
QEMU_DRIVER = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so")
TUN = Path("/dev/net/tun")  # by which machines reach a switch
# Bytes: the box and its copy in the pool; what each machine writes, and a snapshot of it.
ROOM, ROOM_EACH = 7 << 29, 1 << 29


def missing(
    settings: Settings,
    which: Callable[[str], str | None] = shutil.which,
    machines: int = 5,
    memory: int = 0,
) -> Iterator[str]:
    """What stands in the way here, a sentence each. machines: how many are wanted. memory: MiB
    for those that are to be started."""
    lacking = sorted({package for tool, package in TOOLS.items() if which(tool) is None})
    if not list(PLUGINS.glob("vagrant-libvirt-*")):
        lacking.append("vagrant-libvirt")
    if not QEMU_DRIVER.exists():
        lacking.append("libvirt-daemon-driver-qemu")
    if lacking:
        yield f"missing packages: tools/install-packages {' '.join(lacking)}"
    if os.geteuid() != 0:
        yield "not root: libvirt is started in namespaces of its own"
    if settings.box_file is not None and not settings.box_file.exists():
        yield f"{settings.box_file}: there is no such box (make box)"
    if settings.box_file is None:
        yield f"LBCTL_BOX={settings.box}: the machines have no way out, so the box must be here, \
whole (make box); with a libvirt of your own: cd vagrant && vagrant up"
    if settings.driver == "kvm" and not kvm_works():
        yield f"LBCTL_DRIVER=kvm, but {KVM} does not work here (LBCTL_DRIVER=qemu does without)"
    if not TUN.exists():
        yield f"no {TUN}: modprobe tun"
    if (free := free_memory()) < memory:
        yield f"memory: {free} MiB are free, the machines want {memory} (README.md: LBCTL_SERVERS, \
LBCTL_SERVER_MEMORY)"
    needed = ROOM + machines * ROOM_EACH - held(settings.state)
    if (trouble := no_room(settings.state, needed)) is not None:
        yield trouble


def free_memory() -> int:
    """MiB that can be had without swapping (proc(5))."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024


def held(place: Path) -> int:
    """Bytes that files there take."""
    total = 0
    for top, _, names in os.walk(place):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(top, name).lstat().st_blocks * 512
    return total


def no_room(place: Path, needed: int) -> str | None:
    """What is wrong with the room there; None: nothing."""
    there = place
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free >= needed:
        return None
    return (
        f"{there}: {free / 1e9:.1f} GB are free, {needed / 1e9:.1f} are needed "
        "(LBCTL_VAGRANT_STATE names another place)"
    )


def check(settings: Settings, roles: Sequence[Role], running: bool) -> None:
    """Raises LbctlError with all that is missing. roles: of the machines. running: some are
    there already, with the memory that they want."""
    memory = 0 if running else sum(settings.memory[role] for role in roles)
    if found := list(missing(settings, machines=len(roles), memory=memory)):
        raise LbctlError("; ".join(found))


def kvm_works(device: Path = KVM) -> bool:
    """Whether a machine can be made with it. The file alone says nothing, nor that a machine
    can be made: on some, setting up a processor is what fails."""
    if not os.access(device, os.W_OK):
        return False
    command = ["qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-S", "-nodefaults"]
    try:
        done = subprocess.run(
            [*command, "-display", "none", "-monitor", "stdio"],
            input="quit\n",
            text=True,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
