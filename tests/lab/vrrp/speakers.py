"""Things that speak VRRP on a lab's gateway: lbctl, keepalived and FRR's vrrpd.

Each runs in the foreground with its own directory, so that several labs, and a machine's
own keepalived, do not meet.
"""

import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lbctl.lab import GatewayHost, Host, Process, eventually

INTERFACE = "front"


@dataclass(frozen=True)
class Spec:
    """One virtual router, as any of the speakers can be told. interval: seconds."""

    vip: str = "192.0.2.10"
    vrid: int = 7
    priority: int = 100
    interval: float = 1.0
    version: int = 3
    own_mac: bool = False
    peer: str = ""  # unicast to it; "": multicast
    source: str = ""  # our address, for unicast
    preempt: bool = True
    checksum: str = "auto"
    extra: dict[str, object] = field(default_factory=dict)  # of lbctl's settings

    @property
    def six(self) -> bool:
        return ":" in self.vip

    @property
    def addresses(self) -> list[str]:
        """IPv6 needs a link-local one first (RFC 9568, 5.2.9)."""
        if self.six and not self.vip.startswith("fe80:"):
            return [f"fe80::200:5eff:fe00:2{self.vrid:02x}", self.vip]
        return [self.vip]


class Speaker(Protocol):
    name: str
    host: Host

    def start(self, spec: Spec) -> None: ...

    def stop(self) -> None:
        """Gracefully, and wait for the end."""
        ...

    def kill(self) -> list[int]:
        """The pids to be killed at once, for a crash."""
        ...


class Running:
    """What the speakers have in common."""

    name = ""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.home: Path = host.home / self.name
        self.processes: list[Process] = []
        self._killed: list[Process] = []

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill(signal.SIGTERM)
        for process in reversed(self.processes):
            process.wait(20)
        self.processes = []

    def leave(self) -> None:
        """End without leaving anything behind and without waiting for a successor."""
        for process in self.processes:
            for _ in range(500):
                if not process.alive:
                    break
                process.kill(signal.SIGTERM)
                time.sleep(0.02)
        self.stop()

    def kill(self) -> list[int]:
        """The products' processes: nothing else lives in its process groups."""
        groups = {process.pid for process in self.processes}
        self._killed, self.processes = self.processes, []
        return [one.pid for one in self.host.processes() if _group(one.pid) in groups]

    def log(self) -> str:
        return "".join(p.read_text(errors="replace") for p in sorted(self.home.glob("*.log")))

    def _run(self, argv: list[str], log: str) -> None:
        while self._killed:
            self._killed.pop().wait()
        self.home.mkdir(parents=True, exist_ok=True)
        self.processes.append(self.host.start(argv, log=f"{self.name}/{log}"))


def _group(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[2])
    except (FileNotFoundError, ProcessLookupError):
        return -1


class Lbctl(Running):
    name = "lbctl"

    @property
    def control(self) -> Path:
        return self.home / "vrrp.sock"

    @property
    def pins(self) -> Path:
        assert isinstance(self.host, GatewayHost)
        return self.host.pins

    def write(self, *specs: Spec) -> None:
        """The settings file; routers are web, web2, ..."""
        self.home.mkdir(parents=True, exist_ok=True)
        routers = [
            {
                "name": "web" if number == 1 else f"web{number}",
                "interface": INTERFACE,
                "vrid": spec.vrid,
                "priority": spec.priority,
                "addresses": spec.addresses,
                "interval": spec.interval,
                "version": spec.version,
                "mac": "own" if spec.own_mac else "virtual",
                "peers": [spec.peer] if spec.peer else [],
                "preempt": "always" if spec.preempt else "never",
                "checksum": spec.checksum,
                **spec.extra,
            }
            for number, spec in enumerate(specs, 1)
        ]
        text = json.dumps({"kind": "routers", "routers": routers})
        (self.home / "settings.json").write_text(text)

    def start(self, *specs: Spec) -> None:
        self.write(*specs)
        self._run(
            [
                sys.executable,
                "-m",
                "lbctl.vrrp.run",
                *("--settings", str(self.home / "settings.json")),
                *("--control", str(self.control)),
                *("--state", str(self.home / "state")),
                *("--runtime", str(self.home / "run")),
                *("--pins", str(self.pins)),
            ],
            "vrrp.log",
        )


class Keepalived(Running):
    name = "keepalived"

    def start(self, spec: Spec) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        config = self.home / "keepalived.conf"
        config.write_text(keepalived_conf(spec))
        pids = [f"--{kind}={self.home / kind}" for kind in ("pid", "vrrp_pid")]
        for kind in ("pid", "vrrp_pid"):  # it takes a zombie that was killed for alive
            (self.home / kind).unlink(missing_ok=True)
        options = ["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--no-syslog"]
        self._run(["keepalived", *options, f"--use-file={config}", *pids], "keepalived.log")


def keepalived_conf(spec: Spec) -> str:
    """Real-time, as its users run it where they want it fast."""
    lines = [
        "global_defs {",
        "  router_id lab",
        "  vrrp_rt_priority 50",
        "  vrrp_rlimit_rttime 1000000",
        "  vrrp_no_swap",
        "}",
        "vrrp_instance web {",
        "  state BACKUP",
        f"  interface {INTERFACE}",
        f"  virtual_router_id {spec.vrid}",
        f"  version {spec.version}",
        f"  priority {spec.priority}",
        f"  advert_int {spec.interval:g}",
    ]
    if not spec.own_mac:
        lines.append(f"  use_vmac vrrp{'6' if spec.six else '4'}.{spec.vrid}")
    if not spec.preempt:
        lines.append("  nopreempt")
    if spec.peer:
        lines += [f"  unicast_src_ip {spec.source}", f"  unicast_peer {{ {spec.peer} }}"]
    prefix = 128 if spec.six else 32
    listed = "\n".join(f"    {address}/{prefix}" for address in spec.addresses)
    return "\n".join([*lines, "  virtual_ipaddress {", listed, "  }", "}", ""])


class Frr(Running):
    """zebra and vrrpd. FRR wants its macvlan made by hand, and has neither unicast nor own
    MAC."""

    name = "frr"
    BIN = Path("/usr/lib/frr")
    SOURCE6 = "fe80::a:3"

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._devices: set[str] = set()

    def start(self, spec: Spec) -> None:
        assert not spec.peer
        assert not spec.own_mac
        self.home.mkdir(parents=True, exist_ok=True)
        family = 6 if spec.six else 4
        device = f"vrrp{family}-{spec.vrid}"
        mac = f"00:00:5e:00:0{1 if family == 4 else 2}:{spec.vrid:02x}"
        if device in self._devices:
            self.host.run(["ip", "link", "delete", device])
        self._devices.add(device)
        macvlan = ["address", mac, "type", "macvlan", "mode", "bridge"]
        self.host.run(["ip", "link", "add", device, "link", INTERFACE, *macvlan])
        if spec.six:
            self.host.run(["ip", "link", "set", device, "addrgenmode", "none"])
        # Its IPv6 adverts come from the macvlan's first link-local address.
        held = [f"{self.SOURCE6}/64", f"{spec.vip}/128"] if spec.six else [f"{spec.vip}/32"]
        for address in held:
            self.host.run(["ip", "address", "add", address, "dev", device])
        self.host.run(["ip", "link", "set", device, "up"])
        (self.home / "zebra.conf").write_text("hostname lab\n")
        (self.home / "vrrpd.conf").write_text(frr_conf(spec))
        for path in (self.home, *self.home.iterdir()):
            shutil.chown(path, "frr", "frr")
        (self.home / "zserv.api").unlink(missing_ok=True)
        api = ["--socket", str(self.home / "zserv.api")]
        for name in ("zebra", "vrrpd"):
            files = ["-f", str(self.home / f"{name}.conf"), "-i", str(self.home / f"{name}.pid")]
            who = ["--vty_socket", str(self.home), "-P", "0"]
            log = ["--log", "stdout", "--log-level", "debug"]
            self._run([str(self.BIN / name), *files, *who, *api, *log], f"{name}.log")
            # A vrrpd that finds no zebra looks for it again only ten seconds later.
            eventually((self.home / "zserv.api").is_socket)

    def remove_device(self) -> None:
        for device in self._devices:
            self.host.run(["ip", "link", "delete", device], check=False)
        self._devices.clear()


def frr_conf(spec: Spec) -> str:
    kind = "ipv6" if spec.six else "ip"
    vrid = f" vrrp {spec.vrid}"
    lines = [
        f"interface {INTERFACE}",
        f"{vrid} version {spec.version}",
        f"{vrid} priority {spec.priority}",
        f"{vrid} advertisement-interval {round(spec.interval * 1000)}",
        *([] if spec.preempt else [f" no{vrid} preempt"]),
        *(f"{vrid} {kind} {address}" for address in spec.addresses),
    ]
    return "\n".join([*lines, ""])


def make(name: str, host: Host) -> Lbctl | Keepalived | Frr:
    return {"lbctl": Lbctl, "keepalived": Keepalived, "frr": Frr}[name](host)
