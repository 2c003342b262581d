"""Two whole gateways on the XDP data path that replicate, and hundreds of connections."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from lbctl.errors import Unreachable
from lbctl.lab import GatewayHost, Lab, Process, eventually
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from lbctl.messages import Ask, Standing
from lbctl.vrrp.control import Client
from lbctl.vrrp.netlink import Netlink, set_up
from tests.lab.vrrp.spaces import inside

TALK = Path(__file__).parents[1] / "talk.py"
VIP, PORT = "192.0.2.10", 9000
CROSSED, OTHER_PORT = "192.0.2.20", 9001  # of the second gateway, where both are Active
BACK = "198.51.100."
NAMES = ("lb1", "lb2")


class Gateway:
    """One of the two. process: those that run now."""

    def __init__(self, pair: "Pair", host: GatewayHost) -> None:
        self.pair, self.host = pair, host
        self.control = host.home / "vrrp.sock"
        self.running: dict[str, Process] = {}

    # --- standing up and falling --------------------------------------------------------

    def start(self) -> None:
        self.host.config(self.pair.file())
        self.start_vrrp()
        words = ("--node", self.host.name, "--vrrp", str(self.control))
        self.running["daemon"] = self.host.daemon(*words)

    def start_vrrp(self) -> None:
        places = ("--state", str(self.host.home / "vrrp"), "--runtime", str(self.host.home / "run"))
        argv = [sys.executable, "-m", "lbctl.cli.main", "vrrp", "--control", self.control]
        self.running["vrrp"] = self.host.start([*argv, *places], log="vrrp.log")

    def crash(self) -> None:
        """As when the power goes: no packet, no process, no map, no address of ours."""
        self.plug(False)
        for process in self.running.values():
            process.kill(signal.SIGKILL, group=True)
            process.wait()
        self.running.clear()
        for one in sorted(self.host.pins.rglob("*"), reverse=True):
            one.rmdir() if one.is_dir() else one.unlink()
        for interface, vip in (("front", VIP), ("front", CROSSED), ("back", f"{BACK}1")):
            self.host.run(["ip", "address", "del", f"{vip}/32", "dev", interface], check=False)
            self.host.run(["ip", "address", "del", f"{vip}/24", "dev", interface], check=False)

    def come_back(self) -> None:
        self.plug(True)
        self.start()

    def stop_vrrp(self) -> None:
        """Gracefully."""
        process = self.running.pop("vrrp")
        process.kill(signal.SIGTERM)
        process.wait()

    def plug(self, up: bool) -> None:
        for segment in ("front", "back"):
            link = self.pair.switch.link(f"{self.host.name}-{segment}")
            assert link is not None
            self.pair.switch.do(set_up(link.index, up))

    # --- looking ------------------------------------------------------------------------

    def roles(self) -> dict[str, str]:
        try:
            with Client(self.control) as client:
                found = [one for one in client.ask(Ask()) if isinstance(one, Standing)]
        except Unreachable as error:
            raise AssertionError(str(error)) from None
        return {one.router: str(one.role) for one in found}

    def expect(self, role: str, *routers: str, within: float = 40) -> None:
        """Until these virtual routers have the role here; without a name, all."""

        def reached() -> bool:
            found = self.roles()
            seen = {found.get(name) for name in routers or found}
            assert seen == {role}, f"{self.host.name}: {found}, not {role}\n{self.log()}"
            return True

        eventually(reached, within)

    def peer(self) -> dict[str, Any]:
        done = self.host.lbctl("ha", "peer", "-j", check=False)
        assert done.returncode == 0, f"{done.stderr}\n{self.log()}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def log(self) -> str:
        files = (self.host.home / name for name in ("daemon.log", "vrrp.log"))
        return "\n".join(file.read_text()[-1200:] for file in files if file.exists())

    def author(self, *listens: str) -> None:
        """Until its daemon knows that it is the author."""
        wanted = sorted(listens or [f"{VIP}:{PORT}/tcp"])
        eventually(lambda: self.peer()["own"] == wanted, 30)

    def synced(self, listen: str = f"{VIP}:{PORT}/tcp") -> None:
        """Until it holds all that the other one remembers."""

        def reached() -> bool:
            found = self.peer()
            assert found["synced"], f"{found}\n{self.log()}"
            assert found["theirs"] == [listen], f"{found}\n{self.log()}"
            assert found["same_table"], f"{found}\n{self.log()}"
            return True

        eventually(reached, 60)


class Pair:
    """weights: of the servers in the file. more: settings of both gateways. crossed: each
    gateway is Active for a service of its own."""

    def __init__(
        self, lab: Lab, scheduler: str, home: Path, more: str = "", crossed: bool = False
    ) -> None:
        self.lab, self.scheduler, self.home, self.more = lab, scheduler, home, more
        self.crossed = crossed
        self.weights = {host.name: 1 for host in lab.servers}
        self.switch = inside(NETNS / namespace(lab.name, SWITCH), Netlink)
        self.one, self.two = (Gateway(self, host) for host in lab.gateways)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(home / "ca.pem"))
        for name in NAMES:
            issued = authority.issue_cert(f"{name}.example")
            issued.private_key_and_cert_chain_pem.write_to_path(str(home / f"{name}.pem"))

    def file(self) -> str:
        gateway = f"gateway: {{front: front, back: back, datapath: xdp, {self.more}}}"
        lines = ["apiVersion: lbctl/v1", gateway, "gateways:"]
        for name, mine, other in (("lb1", 2, 3), ("lb2", 3, 2)):
            peer = "lb2" if name == "lb1" else "lb1"
            lines.append(
                f"  {name}: {{replication: {{listen: '{BACK}{mine}:7400', "
                f"peer: '{BACK}{other}:7400', name: {peer}.example, "
                f"certificate: {self.home}/{name}.pem, key: {self.home}/{name}.pem, "
                f"ca: {self.home}/ca.pem}}}}"
            )
        common = "interval: 100ms, mac: own, preempt: when-synced"
        mine, other = "priority: {lb1: 200, lb2: 100}", "priority: {lb1: 100, lb2: 200}"
        front, back = "interface: front, group: pair", "interface: back, group: pair"
        lines += ["services:", *self._service("web", VIP, PORT)]
        if self.crossed:
            lines += self._service("shop", CROSSED, OTHER_PORT)
        lines += [
            "virtual_routers:",
            f"  front: {{vrid: 7, addresses: {VIP}, {front}, {common}, {mine}}}",
            f"  back: {{vrid: 8, addresses: {BACK}1, {back}, {common}, {mine}}}",
        ]
        if self.crossed:
            where = f"vrid: 9, addresses: {CROSSED}, interface: front"
            lines.append(f"  cross: {{{where}, {common}, {other}}}")
        return "\n".join([*lines, ""])

    def _service(self, name: str, vip: str, port: int) -> list[str]:
        return [
            f"  {name}:",
            f"    listen: {vip}:{port}/tcp",
            f"    scheduler: {self.scheduler}",
            "    check: {type: tcp, interval: 500ms, timeout: 450ms, fall: 3, rise: 1}",
            "    servers:",
            *(
                f"      {name}: {{address: '{self.lab.host(name).address}:{port}', weight: {w}}}"
                for name, w in self.weights.items()
            ),
        ]

    def start(self) -> None:
        for host in self.lab.servers:
            for port in (PORT, OTHER_PORT) if self.crossed else (PORT,):
                host.start([sys.executable, TALK, "serve", host.name, str(port)], log="talk.log")
        self.one.start()
        self.one.expect("active")
        self.two.start()
        if self.crossed:
            self.two.expect("active", "cross")
            self.one.author()
            self.two.author(f"{CROSSED}:{OTHER_PORT}/tcp")
            self.one.synced(f"{CROSSED}:{OTHER_PORT}/tcp")
        else:
            self.two.expect("backup")
            self.one.author()
        self.two.synced()

    def apply(self, **weights: int) -> None:
        """Other weights, on both gateways."""
        self.weights |= weights
        for gateway in (self.one, self.two):
            if gateway.running:
                gateway.host.lbctl("apply", gateway.host.config(self.file()))

    def close(self) -> None:
        for gateway in (self.one, self.two):
            gateway.plug(True)
            for process in gateway.running.values():
                process.kill(signal.SIGKILL, group=True)
                process.wait()
        self.switch.close()

    @contextmanager
    def traffic(
        self, long: int, idle: int, rate: float, vip: str = VIP, port: int = PORT
    ) -> Iterator["Caller"]:
        words = [vip, str(port), str(long), str(rate), str(idle)]
        process = self.lab.client.start(
            [sys.executable, TALK, "call", *words], log=f"call-{port}.jsonl"
        )
        try:
            eventually(lambda: '"ready"' in process.output(), timeout=60)
            yield Caller(process)
        finally:
            if process.alive:
                process.kill(signal.SIGTERM)
                process.wait(30)


class Caller:
    """Who holds the connections."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def lost(self) -> list[dict[str, Any]]:
        """Connections that had been answered, and broke."""
        lines = [json.loads(line) for line in self.process.output().splitlines()]
        return [line for line in lines if line.get("kind") == "long"]

    def end(self) -> dict[str, int]:
        self.process.kill(signal.SIGTERM)
        self.process.wait(60)
        lines = [json.loads(line) for line in self.process.output().splitlines()]
        (counted,) = [line["counted"] for line in lines if "counted" in line]
        found: dict[str, int] = counted
        return found
