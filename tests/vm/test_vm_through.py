"""The ways of checks through servers, on a kernel with tunnels: right server, right source,
and nothing of a server that lacks the VIP."""

import asyncio
import os
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from ipaddress import ip_interface

import pytest

from lbctl.daemon.passage import COMMAND, Passage
from lbctl.model import Encapsulation, Family, Gateway, Mode, Via
from tests.bpf.gateway import inside
from tests.vm.test_vm_traffic import AF, NETS, PATIENCE, PORT, bare, echo, site

__all__ = ["site"]
pytestmark = pytest.mark.ipvs
PROBE = tuple(ip_interface(back.format(9)) for _, back, _ in NETS.values())
CASES = [(mode, family) for mode in (Mode.DR, Mode.TUN) for family in Family]


@contextmanager
def passage_of(gateway):
    """A worker's namespace beside `gateway`, and the ways in it."""
    with gateway.inside():
        process = subprocess.Popen([*COMMAND, "sleep", "600"])
        passage = Passage()
        try:
            asyncio.run(passage.open(process.pid, Gateway("c", ("back",), probe=PROBE)))
            descriptor = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
            yield passage, descriptor
            os.close(descriptor)
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(("mode", "family"), CASES, ids=[f"{m}-{f}" for m, f in CASES])
def test_each_way_leads_to_its_server_and_to_the_vip_there(site, mode, family):
    _, back, vip = NETS[family]
    tunnel = Encapsulation.IPIP if mode is Mode.TUN else None
    vias = [Via(bare(back, n), mode, tunnel) for n in (1, 2)]
    site.prepare(mode, family)
    with ExitStack() as stack, passage_of(site.g1) as (passage, namespace):
        asyncio.run(passage.lay(vias))

        def connect(via, seconds):
            with inside(namespace):
                near = stack.enter_context(socket.socket(AF[family], socket.SOCK_STREAM))
            near.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, passage.mark(via))
            near.settimeout(seconds)
            near.connect((vip, PORT))
            return near

        listeners = [stack.enter_context(listening(server, family)) for server in site.servers]
        for via, listener in zip(vias, listeners, strict=True):
            near = connect(via, PATIENCE)
            far, peer = listener.accept()
            stack.enter_context(far).settimeout(PATIENCE)
            assert peer[0] == bare(back, 9)
            echo(near, far)
        site.undo(mode, family)
        with pytest.raises(OSError, match=r"(?i)timed out|unreachable|no route|refused"):
            connect(vias[1], 2)
        site.prepare(mode, family)
        asyncio.run(passage.lay(vias[1:]))
        assert [*passage.marks] == vias[1:]
        connect(vias[1], PATIENCE)
    site.undo(mode, family)


@contextmanager
def listening(server, family):
    with server.socket(AF[family], socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", PORT))
        listener.listen()
        listener.settimeout(PATIENCE)
        yield listener
