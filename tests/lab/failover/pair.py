"""Two whole gateways on the XDP data path that replicate, and hundreds of connections."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from lbctl.errors import Unreachable
from lbctl.lab import GatewayHost, Lab, Process, eventually, kernel
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from lbctl.messages import Ask, Standing
from lbctl.vrrp.control import Client
from lbctl.vrrp.netlink import Netlink, set_up
from tests.lab.signalling import signal_all
from tests.lab.vrrp.spaces import inside

TALK = Path(__file__).parents[1] / "talk.py"
VIP, PORT = "192.0.2.10", 9000
CROSSED = "192.0.2.20"  # of the second gateway, where both are Active
BACK = "198.51.100."
VIRTUAL = {"front": (VIP, CROSSED), "back": (f"{BACK}1", f"{BACK}4")}
NAMES = ("lb1", "lb2")
LINE = 7400  # the port of replication
LOOK = 0.05  # seconds between two looks of a daemon at what it is to tell its peer


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
        self.start_daemon()

    def start_daemon(self) -> None:
        words = ("--node", self.host.name, "--vrrp", str(self.control))
        self.running["daemon"] = self.host.daemon(*words)

    def start_vrrp(self) -> None:
        home = self.host.home
        places = ("--state", home / "vrrp", "--runtime", home / "run", "--pins", self.host.pins)
        argv = [sys.executable, "-m", "lbctl.cli.main", "vrrp", "--control", self.control]
        self.running["vrrp"] = self.host.start([*map(str, (*argv, *places))], log="vrrp.log")

    def crash(self) -> None:
        """As when the power goes: no packet, no process, no map, no address of ours."""
        self.plug(False)
        for process in self.running.values():
            process.kill(signal.SIGKILL, group=True)
            process.wait()
        self.running.clear()
        for one in sorted(self.host.pins.rglob("*"), reverse=True):
            one.rmdir() if one.is_dir() else one.unlink()
        for link in self._macvlans():
            self.host.run(["ip", "link", "delete", link])
        for interface, vips in VIRTUAL.items():
            for address in (f"{vip}/{length}" for vip in vips for length in (24, 32)):
                self.host.run(["ip", "address", "del", address, "dev", interface], check=False)
            self.host.run(["tc", "qdisc", "del", "dev", interface, "clsact"], check=False)

    def _macvlans(self) -> list[str]:
        found = json.loads(self.host.run(["ip", "-j", "link", "show", "type", "macvlan"]).stdout)
        return [one["ifname"] for one in found]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """All that is ours dies, or stands still, and the rest of the machine goes on."""
        signal_all((one.pid for one in self.host.processes()), how)
        if how is signal.SIGKILL:
            while self.running:
                self.running.popitem()[1].wait()

    def come_back(self) -> None:
        self.plug(True)
        self.start()

    def stop_vrrp(self) -> None:
        """Gracefully."""
        process = self.running.pop("vrrp")
        process.kill(signal.SIGTERM)
        process.wait(70)  # it may wait for a successor, and for what takes the fence off

    def plug(self, up: bool) -> None:
        for segment in ("front", "back"):
            link = self.pair.switch.link(f"{self.host.name}-{segment}")
            assert link is not None
            self.pair.switch.do(set_up(link.index, up))

    def part(self, apart: bool) -> None:
        """Nobody hears it any more, and its links stay up all the same."""
        space = namespace(self.pair.lab.name, SWITCH)
        for segment in ("front", "back"):
            where = ["nomaster"] if apart else ["master", segment]
            words = ["ip", "link", "set", f"{self.host.name}-{segment}", *where]
            subprocess.run(kernel.inside(space, words), check=True)

    def deafen(self, deaf: bool) -> None:
        """It hears nothing of the other gateway."""
        self._drop(deaf, "meta l4proto vrrp", f"tcp sport {LINE}", f"tcp dport {LINE}")

    def cut_line(self, cut: bool) -> None:
        """Adverts are heard, and nothing that is replicated."""
        self._drop(cut, f"tcp sport {LINE}", f"tcp dport {LINE}")

    def _drop(self, drop: bool, *what: str) -> None:
        chain = "add chain inet deaf in { type filter hook prerouting priority -300 ; }"
        rules = ["add table inet deaf", chain, *(f"add rule inet deaf in {w} drop" for w in what)]
        self.host.run(["nft", "; ".join(rules) if drop else "delete table inet deaf"])

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

    def told(self) -> None:
        """Until the other one holds all that happened here before now."""
        since = time.monotonic()

        def reached() -> bool:
            found, waited = self.peer(), time.monotonic() - since
            assert found["connected"], f"{found}\n{self.log()}"
            return bool(found["lag"] < waited - 2 * LOOK)

        eventually(reached, 20)

    def synced(self, *listens: str) -> None:
        """Until it holds all that the other one remembers, who is their author."""
        wanted = sorted(listens or [f"{VIP}:{PORT}/tcp"])

        def reached() -> bool:
            found = self.peer()
            assert found["synced"], f"{found}\n{self.log()}"
            assert found["theirs"] == wanted, f"{found}\n{self.log()}"
            assert found["same_table"], f"{found}\n{self.log()}"
            return True

        eventually(reached, 60)


class Pair:
    """weights: of the servers in the file, at first three. more: settings of both gateways.
    mac: of the virtual routers. track: a service without which they are at fault."""

    def __init__(
        self,
        lab: Lab,
        scheduler: str,
        home: Path,
        more: str = "",
        mac: str = "own",
        track: str = "",
    ) -> None:
        self.lab, self.scheduler, self.home, self.more = lab, scheduler, home, more
        self.mac, self.track = mac, track
        self.weights = {host.name: 1 for host in lab.servers[:3]}
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
                f"  {name}: {{replication: {{listen: '{BACK}{mine}:{LINE}', "
                f"peer: '{BACK}{other}:{LINE}', name: {peer}.example, "
                f"certificate: {self.home}/{name}.pem, key: {self.home}/{name}.pem, "
                f"ca: {self.home}/ca.pem}}}}"
            )
        lines += ["services:", *self.services(), "virtual_routers:", *self.routers()]
        return "\n".join([*lines, ""])

    def routers(self) -> list[str]:
        return [
            self.router("front", 7, VIP, "front", "pair", first=200),
            self.router("back", 8, f"{BACK}1", "back", "pair", first=200),
        ]

    def router(self, name: str, vrid: int, vip: str, interface: str, group: str, first: int) -> str:
        """first: the priority at the first gateway, of 300 that they have together."""
        where = f"vrid: {vrid}, addresses: {vip}, interface: {interface}, group: {group}"
        how = f"interval: 100ms, mac: {self.mac}, preempt: when-synced"
        if self.track:
            how += f", track: [{{service: {self.track}}}]"
        return f"  {name}: {{{where}, {how}, priority: {{lb1: {first}, lb2: {300 - first}}}}}"

    def services(self) -> list[str]:
        return self.service("web", f"{VIP}:{PORT}/tcp", PORT, self.weights)

    def service(
        self, name: str, listen: str, port: int | None, weights: Mapping[str, int]
    ) -> list[str]:
        """port: of its servers; None: of each listen."""
        at = "" if port is None else f":{port}"
        return [
            f"  {name}:",
            f"    listen: {listen}",
            f"    scheduler: {self.scheduler}",
            "    check: {type: tcp, interval: 500ms, timeout: 450ms, fall: 3, rise: 1}",
            "    servers:",
            *(
                f"      {name}: {{address: '{self.lab.host(name).address}{at}', weight: {w}}}"
                for name, w in weights.items()
            ),
        ]

    def start(self) -> None:
        self.serve(PORT)
        self.one.start()
        self.one.expect("active")
        self.two.start()
        self.two.expect("backup")
        self.one.author()
        self.two.synced()

    def serve(self, port: int) -> None:
        serve(self.lab, port)

    def taken_over(self) -> None:
        """Until the second is Active, and knows it."""
        self.two.expect("active")
        self.two.author()

    def taken_back(self) -> None:
        """Until the first is Active again, and the second holds what it remembers."""
        self.one.expect("active")
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
        with calling(self.lab, long, idle, rate, vip, port) as caller:
            yield caller


def serve(lab: Lab, port: int) -> None:
    """Every server answers there."""
    for host in lab.servers:
        words = [sys.executable, TALK, "serve", host.name, str(port)]
        host.start(words, log=f"talk-{port}.log")


@contextmanager
def calling(
    lab: Lab, long: int, idle: int, rate: float, vip: str = VIP, port: int = PORT
) -> Iterator["Caller"]:
    """The client holds `long` connections that ask and `idle` ones, and opens `rate` a second."""
    words = [vip, str(port), str(long), str(rate), str(idle)]
    log = f"call-{port}.jsonl"
    process = lab.client.start([sys.executable, TALK, "call", *words], log=log)
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
        self.process, self.rounds = process, 0

    def round(self) -> None:
        """Every connection that is not idle asks; until each was answered, or broke."""
        self.rounds += 1
        self.process.kill(signal.SIGUSR1)
        eventually(lambda: f'"round": {self.rounds}}}' in self.process.output(), 20)

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
