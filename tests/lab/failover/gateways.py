"""Two whole gateways on the XDP data path, and connections through them."""

import socket
import sys
import time
from collections.abc import Sequence

from lbctl.errors import Unreachable
from lbctl.lab import GatewayHost, Lab, Process, eventually
from lbctl.lab.kernel import NETNS, namespace
from lbctl.messages import Ask, HandOver, Standing
from lbctl.vrrp.control import Client
from tests.lab.vrrp.spaces import inside

VIP, PORT = "192.0.2.10", 7070  # a lab's servers have nginx at 80
FILE = """
apiVersion: lbctl/v1
gateway: {front: front, back: back, datapath: xdp, flow_key: only for this very lab}
gateways: {lb1: {}, lb2: {}}
virtual_routers:
  edge:
    {interface: front, vrid: 7, addresses: 192.0.2.10, interval: 100ms, group: pair,
     priority: {lb1: 200, lb2: 100}}
  inside:
    {interface: back, vrid: 8, addresses: 198.51.100.1, interval: 100ms, group: pair,
     priority: {lb1: 200, lb2: 100}}
services:
  web:
    listen: 192.0.2.10:7070/tcp
    scheduler: mh
    check: none
    servers: {app1: 198.51.100.11, app2: 198.51.100.12, app3: 198.51.100.13}
"""
ECHO = f"""
import asyncio
async def serve(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", {PORT}, backlog=1024)
    await server.serve_forever()
asyncio.run(main())
"""


class Side:
    """One gateway: its daemon, its VRRP process."""

    def __init__(self, host: GatewayHost) -> None:
        self.host = host
        self.control = host.home / "vrrp.sock"
        self.vrrp: Process | None = None

    def start(self) -> None:
        self.host.config(FILE)
        places = [word for k in ("state", "runtime") for word in (f"--{k}", self.host.home / k)]
        words = ["--control", self.control, "--pins", self.host.pins, *places]
        argv = [sys.executable, "-m", "lbctl.cli.main", "vrrp", *words]
        self.vrrp = self.host.start(argv, log="vrrp.log")
        self.host.daemon("--node", self.host.name, "--vrrp", str(self.control))

    def pids(self) -> list[int]:
        """Everything of ours here."""
        return [one.pid for one in self.host.processes()]

    def role(self) -> str:
        """Of both virtual routers, which have one."""
        try:
            with Client(self.control) as client:
                found = [s.role for s in client.ask(Ask()) if isinstance(s, Standing)]
        except Unreachable as error:
            raise AssertionError(str(error)) from None
        return found[0] if len(set(found)) == 1 and len(found) == 2 else f"{found}"

    def expect(self, role: str, within: float = 20) -> None:
        def reached() -> bool:
            found = self.role()
            log = (self.host.home / "vrrp.log").read_text()
            assert found == role, f"{self.host.name}: {found}\n{log[-500:]}"
            return True

        eventually(reached, within)

    def serves(self) -> None:
        """Its daemon has settled, and so its packet program has the servers."""

        def ready() -> None:
            done = self.host.lbctl("get", "status", check=False)
            log = (self.host.home / "daemon.log").read_text()
            assert done.returncode == 0, f"{done.stderr}\n{log[-800:]}"

        eventually(lambda: ready() is None, 30)

    def hand_over(self) -> None:
        with Client(self.control) as client:
            client.ask(HandOver("edge", ""))


class Connections:
    """TCP connections from the client to the service."""

    def __init__(self, lab: Lab, count: int) -> None:
        space = NETNS / namespace(lab.name, lab.client.name)
        self.all = inside(space, lambda: [_connect() for _ in range(count)])
        self._said = 0

    def close(self) -> None:
        for one in self.all:
            one.close()

    def lost(self, some: Sequence[socket.socket] | None = None, within: float = 8.0) -> int:
        """How many of them do not echo."""
        self._said += 1
        word, chosen = b"%06d" % self._said, self.all if some is None else some
        lost = 0
        for one in chosen:
            try:
                one.send(word)
            except OSError:
                lost += 1
        end = time.monotonic() + within
        for one in chosen:
            one.settimeout(max(0.05, end - time.monotonic()))
            try:
                got = b""
                while len(got) < len(word):
                    got += (more := one.recv(100))
                    assert more
                lost += got != word
            except (OSError, AssertionError):
                lost += 1
        return lost


def _connect() -> socket.socket:
    return socket.create_connection((VIP, PORT), 5)
