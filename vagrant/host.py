"""What the host must have, asked before anything is made."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from lbctl.errors import LbctlError
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
    "bridge": "iproute2",
}
PLUGINS = Path("/usr/share/rubygems-integration/all/gems")
QEMU_DRIVER = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so")
ROOM = 6 << 30  # bytes: the box, its copy in the pool, what machines write, a snapshot each


def missing(settings: Settings, which: Callable[[str], str | None] = shutil.which) -> Iterator[str]:
    """What stands in the way here, a sentence each."""
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
    if (trouble := no_room(settings.state, ROOM)) is not None:
        yield trouble


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


def check(settings: Settings) -> None:
    """Raises LbctlError with all that is missing."""
    if found := list(missing(settings)):
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
