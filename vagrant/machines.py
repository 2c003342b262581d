"""From the topology to what the Vagrantfile reads: plain data, no decisions left."""

from pathlib import Path
from typing import Any

from lbctl.lab.topology import Host, Topology, standard
from vagrant.settings import Settings

# Vagrant's own network: from it ssh comes in. Documentation addresses, as everywhere here.
MANAGEMENT = "198.18.121.0/24"
HOST = "198.18.121.1"
PREFIX = "lbctl"  # of everything that libvirt knows of ours
BOOT = 100  # seconds with KVM


def topology(settings: Settings) -> Topology:
    return standard(settings.servers, gateways=2, sync=True, server_name="server")


def describe(settings: Settings, payload: Path) -> dict[str, Any]:
    """The JSON that the Vagrantfile reads. payload: where NAME.tar.gz of each machine is."""
    lab = topology(settings)
    return {
        "box": f"{PREFIX}/bookworm" if settings.box_file else settings.box,
        "box_file": str(settings.box_file or ""),
        "driver": settings.driver,
        "cpus": settings.cpus,
        "boot_timeout": int(BOOT * settings.patience),
        "management": MANAGEMENT,
        "prefix": PREFIX,
        "machines": [_machine(host, settings, payload) for host in lab.hosts],
    }


def _machine(host: Host, settings: Settings, payload: Path) -> dict[str, Any]:
    return {
        "name": host.name,
        "memory": settings.memory[host.role],
        "payload": str(payload / f"{host.name}.tar.gz"),
        "console": str(settings.state / f"{host.name}.console"),
        "nics": [
            {
                "network": f"{PREFIX}-{nic.segment}",
                "mac": nic.mac,
                "port": port(host.name, nic.name),
            }
            for nic in host.nics
        ],
    }


def port(machine: str, nic: str) -> str:
    """The switch's end of a NIC; the kernel takes names of at most 15 characters."""
    return f"{machine}-{nic}"[:15]
