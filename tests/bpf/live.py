"""Real connections through the program: a client, a gateway and a server in namespaces."""

import errno
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import nic
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.lab.waiting import eventually
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import Netlink
from tests.bpf.gateway import remove_pins
from tests.vm.namespaces import Host

VIP = "192.0.2.10"
SERVER = "198.51.100.2"


def honest(host: Host, *names: str) -> None:
    """Checksums are computed before a frame leaves, and frames that come by redirect are
    taken: what a veth needs around XDP."""
    for name in names:
        with host.inside():
            command = ["ethtool", "-K", name, "tx", "off", "gro", "on"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def balancing(host: Host, settings: Gateway) -> Iterator[XdpPlane]:
    """The program at work in `host`: the VIP's port 80 is the server's 8080."""
    pins = Path(f"/sys/fs/bpf/{host.name}")
    nic.ensure_bpffs(pins)
    servers = {Endpoint.parse(f"{SERVER}:8080"): Destination(1)}
    table = Table({Listen.parse(f"{VIP}:80/tcp"): VirtualService(Scheduler("mh"), servers)})
    try:
        with (
            host.inside(),
            closing(Netlink()) as netlink,
            closing(XdpPlane(settings, pins, netlink)) as plane,
        ):
            eventually(lambda: all_taken(plane, table), 60)  # a neighbour answers when it can
            plane.catch_up()
            yield plane
    finally:
        remove_pins(pins)


def all_taken(plane: XdpPlane, table: Table) -> bool:
    """Has the plane taken the whole table? Fails with what it refused."""
    refused = converge(plane, table).refused
    assert not refused, str(refused)
    return True


def download(client: Host, server: Host, plane: XdpPlane, size: int) -> int:
    """Bytes that a client gets of a server's `size`, through the VIP."""
    listener = server.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.bind((SERVER, 8080))
        listener.listen()
        listener.settimeout(60)

        def serve() -> None:
            with listener.accept()[0] as peer:
                peer.settimeout(10)
                peer.sendall(bytes(size))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return _receive(client, plane)
        finally:
            thread.join()


def _receive(client: Host, plane: XdpPlane) -> int:
    got = 0
    with client.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        ours.settimeout(0.2)
        eventually(lambda: _connected(ours, plane), 60)
        ours.settimeout(10)
        while data := ours.recv(65536):
            got += len(data)
    return got


def _connected(ours: socket.socket, plane: XdpPlane) -> bool:
    """The first answers may lack a neighbour, which the control plane then asks for."""
    code = ours.connect_ex((VIP, 80))
    plane.catch_up()
    return code in (0, errno.EISCONN)
