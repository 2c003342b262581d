"""The packet program on Debian's kernel: its verifier takes it, and packets come out right.

Compiling takes minutes in the machine, so it is done outside before (guest.py): the compiled
programs are found where they are kept.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lbctl.model import Gateway
from tests.bpf.live import SERVER, VIP, balancing, download
from tests.vm.guest import RESULTS
from tests.vm.namespaces import Host, cable

pytestmark = [pytest.mark.kernel, pytest.mark.ipvs]

MODULES = ("test_packets", "test_packets6", "test_icmp", "test_fragments", "test_vlan")
LEAST = 200  # cases


def command() -> list[str]:
    """The packet tests as a run of their own."""
    files = [f"tests/bpf/{name}.py" for name in MODULES]
    files.append("tests/bpf/test_shapes.py::test_the_verifier_has_room")
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--timeout=500"]
    return [sys.executable, "-m", "pytest", *options, *files]


def test_packets_on_this_kernel() -> None:
    top = Path(__file__).parents[2]
    mine = {name: value for name, value in os.environ.items() if name != RESULTS}
    done = subprocess.run(command(), cwd=top, env=mine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.splitlines()[-1].split(" passed")[0].split()[-1]) >= LEAST


def test_tagged_interfaces() -> None:
    """VLAN 7 in front, VLAN 9 behind, each on a wire of its own."""
    with Host("client") as client, Host("gw") as gw, Host("server") as server:
        cable(client, gw)
        cable(gw, server)
        tagged(client, "gw", 7, "192.0.2.2/24")
        tagged(gw, "client", 7, "192.0.2.1/24", f"{VIP}/32")
        tagged(gw, "server", 9, "198.51.100.1/24")
        tagged(server, "gw", 9, f"{SERVER}/24")
        server.ip("route add default via 198.51.100.1")
        gw.sysctl(net__ipv4__ip_forward=1)
        with balancing(gw, Gateway("client.7", ("server.9",))) as plane:
            assert download(client, server, plane, 100_000) == 100_000
            verdicts = plane.stats().verdicts
        assert verdicts["forward"] > 3
        assert verdicts["return"] > 50


def tagged(host: Host, name: str, vlan: int, *addresses: str) -> None:
    """An interface in a VLAN, whose tags are in the frames."""
    with host.inside():
        off = ["txvlan", "off", "rxvlan", "off", "tx", "off", "gro", "on"]
        subprocess.run(["ethtool", "-K", name, *off], check=True, stdout=subprocess.DEVNULL)
    host.ip(
        f"link add link {name} name {name}.{vlan} type vlan id {vlan}",
        f"link set {name}.{vlan} up",
        *(f"addr add {address} dev {name}.{vlan}" for address in addresses),
    )
    with host.inside():
        command = ["ethtool", "-K", f"{name}.{vlan}", "tx", "off"]
        subprocess.run(command, check=False, capture_output=True)
