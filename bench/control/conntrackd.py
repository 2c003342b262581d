"""The peer that a pair of lbctl's is compared with: keepalived, nftables' DNAT, and conntrackd
that tells the other gateway of connections, as its manual sets them up for a pair.

It gets all that helps it: connections are not picked up in the middle (`tcp_loose` 0), what is
out of window passes (`be_liberal`), and what conntrack does not know is dropped instead of
answered by an RST.
"""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from lbctl.lab import Host, Lab, Process, eventually
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from lbctl.vrrp.netlink import Netlink, set_up
from tests.lab.failover.pair import PORT, VIP, serve
from tests.lab.vrrp.spaces import inside

BACK = "198.51.100."
WAY_BACK = f"{BACK}1"
SETTLE = 3.0  # seconds for a full copy on an idle line: conntrackd says of no moment "all of it"

RULES = """
table ip pair {{
  chain arriving {{
    type nat hook prerouting priority dstnat;
    ip daddr {vip} tcp dport {port} dnat to numgen inc mod {count} map {{ {servers} }}
  }}
  chain through {{ type filter hook forward priority 0; ct state invalid drop; }}
  chain mine {{ type filter hook input priority 0; ip daddr {vip} tcp dport {port} drop; }}
}}
"""
CONNTRACKD = """
Sync {{
  Mode FTFW {{ }}
  UDP {{
    IPv4_address {mine}
    IPv4_Destination_Address {other}
    Port 3780
    Interface back
    Checksum on
  }}
}}
General {{
  HashSize 32768
  HashLimit 131072
  LockFile {home}/conntrackd.lock
  UNIX {{ Path {home}/conntrackd.ctl }}
  LogFile {home}/conntrackd.log
  NetlinkBufferSize 2097152
  NetlinkBufferSizeMaxGrowth 8388608
  Filter From Userspace {{ Protocol Accept {{ TCP }} }}
}}
"""
# conntrackd's own primary-backup.sh, in short.
SCRIPT = """#!/bin/sh
say() {{ /usr/sbin/conntrackd -C {home}/conntrackd.conf "$@"; }}
case "$1" in
  primary) say -c; say -f; say -R; say -B ;;
  backup) say -t; say -n ;;
  fault) say -t ;;
esac
echo "$1" >> {home}/role
"""
KEEPALIVED = """
global_defs {{
  router_id {name}
  vrrp_rt_priority 50
  vrrp_rlimit_rttime 1000000
  script_user root
  enable_script_security
}}
vrrp_sync_group pair {{
  group {{ front back }}
  notify_master "{home}/role.sh primary"
  notify_backup "{home}/role.sh backup"
  notify_fault "{home}/role.sh fault"
}}
vrrp_instance front {{
  state BACKUP
  interface front
  virtual_router_id 7
  priority {priority}
  advert_int 0.1
  version 3
  preempt_delay 5
  virtual_ipaddress {{ {vip}/32 }}
}}
vrrp_instance back {{
  state BACKUP
  interface back
  virtual_router_id 8
  priority {priority}
  advert_int 0.1
  version 3
  preempt_delay 5
  virtual_ipaddress {{ {way_back}/32 }}
}}
"""


@dataclass
class Box:
    """One of the two gateways."""

    host: Host
    running: dict[str, Process] = field(default_factory=dict)

    def prepare(self, mine: str, other: str, priority: int, servers: list[str]) -> None:
        home = self.host.home
        home.mkdir(parents=True, exist_ok=True)
        words = {"home": home, "mine": mine, "other": other, "vip": VIP, "name": self.host.name}
        (home / "conntrackd.conf").write_text(CONNTRACKD.format(**words))
        conf = KEEPALIVED.format(**words, priority=priority, way_back=WAY_BACK)
        (home / "keepalived.conf").write_text(conf)
        (home / "role.sh").write_text(SCRIPT.format(**words))
        (home / "role.sh").chmod(0o755)
        for name in ("ip_forward=1", "netfilter.nf_conntrack_tcp_be_liberal=1"):
            key = name if "." in name else f"ipv4.{name}"
            self.host.run(["sysctl", "-qw", f"net.{key}"])
        listed = ", ".join(f"{at}: {address}" for at, address in enumerate(servers))
        rules = RULES.format(vip=VIP, port=PORT, count=len(servers), servers=listed)
        self.host.run(["nft", rules])
        self.host.run(["sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0"])

    def start(self) -> None:
        conf = self.host.home / "conntrackd.conf"
        self.running["conntrackd"] = self.host.start(
            ["/usr/sbin/conntrackd", "-C", conf], log="conntrackd.out"
        )
        ask = ["/usr/sbin/conntrackd", "-C", conf, "-s"]
        eventually(lambda: self.host.run(ask, check=False).returncode == 0, 10)
        self.start_keepalived()

    def start_keepalived(self) -> None:
        home = self.host.home
        pids = [f"--{kind}={home / kind}" for kind in ("pid", "vrrp_pid")]
        for kind in ("pid", "vrrp_pid", "role"):
            (home / kind).unlink(missing_ok=True)
        options = ["--dont-fork", "--log-console", "--vrrp", "--no-syslog"]
        words = ["keepalived", *options, f"--use-file={home / 'keepalived.conf'}", *pids]
        self.running["keepalived"] = self.host.start(words, log="keepalived.out")

    def stop_keepalived(self) -> None:
        process = self.running.pop("keepalived")
        process.kill(signal.SIGTERM)
        process.wait()

    def fall(self) -> None:
        """As when the power goes."""
        for process in self.running.values():
            process.kill(signal.SIGKILL, group=True)
            process.wait()
        self.running.clear()
        for name in ("lock", "ctl"):
            (self.host.home / f"conntrackd.{name}").unlink(missing_ok=True)
        self.host.run(["conntrack", "-F"], check=False)
        for interface, vip in (("front", VIP), ("back", WAY_BACK)):
            self.host.run(["ip", "address", "del", f"{vip}/32", "dev", interface], check=False)

    def holds(self, wanted: bool) -> None:
        """Until it has both addresses, or none, and its script has run."""

        def reached() -> bool:
            shown = self.host.run(["ip", "-br", "address"]).stdout
            held = [f"{address}/32" in shown for address in (VIP, WAY_BACK)]
            role = self.host.home / "role"
            said = role.read_text().split()[-1:] if role.exists() else []
            assert held == [wanted, wanted], f"{self.host.name}: {shown}"
            assert said == ["primary" if wanted else "backup"], f"{self.host.name}: {said}"
            return True

        eventually(reached, 30)


class ConntrackdPair:
    """The same acts as `tests.lab.failover.pair.Pair` has."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.one, self.two = (Box(host) for host in lab.gateways)
        self._switch = inside(NETNS / namespace(lab.name, SWITCH), Netlink)

    def start(self) -> None:
        serve(self.lab, PORT)
        servers = [host.address for host in self.lab.servers]
        self.one.prepare(f"{BACK}2", f"{BACK}3", 200, servers)
        self.two.prepare(f"{BACK}3", f"{BACK}2", 100, servers)
        self.two.start()
        self.one.start()
        self.one.holds(True)
        self.two.holds(False)
        time.sleep(SETTLE)

    def plug(self, up: bool) -> None:
        for segment in ("front", "back"):
            link = self._switch.link(f"{self.one.host.name}-{segment}")
            assert link is not None
            self._switch.do(set_up(link.index, up))

    def crash(self) -> None:
        self.plug(False)
        self.one.fall()
        self.two.holds(True)

    def come_back(self) -> None:
        self.plug(True)
        self.one.start()
        self.one.holds(True)
        self.two.holds(False)
        time.sleep(SETTLE)

    def stop(self) -> None:
        self.one.stop_keepalived()
        self.two.holds(True)

    def start_again(self) -> None:
        self.one.start_keepalived()
        self.one.holds(True)
        self.two.holds(False)
        time.sleep(SETTLE)

    def close(self) -> None:
        self.plug(True)
        for box in (self.one, self.two):
            for process in box.running.values():
                process.kill(signal.SIGKILL, group=True)
                process.wait()
        self._switch.close()


def missing() -> list[str]:
    """Programs that are not installed here."""
    return [
        name
        for name in ("keepalived", "conntrackd", "conntrack", "nft")
        if not any((Path(place) / name).exists() for place in ("/usr/sbin", "/usr/bin"))
    ]
