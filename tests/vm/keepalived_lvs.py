"""The peer that a pair of lbctl's on IPVS is compared with: keepalived, which programs the table
and drives the kernel's sync daemon as its VRRP role says (lvs_sync_daemon).

Its rank comes from a file, so that a test says who is Active; it gets all that helps it
(sloppy_tcp, as lbctl sets it, and a return that waits until it was told).
"""

import os
import signal
import subprocess
from contextlib import suppress

from lbctl.lab.waiting import eventually

PATIENCE = 60.0
CONFIGURATION = """
global_defs {{
  router_id {name}
  lvs_sync_daemon back pair id 7
}}
track_file rank {{
  file {home}/rank
  weight 1
  init_file 0
}}
vrrp_instance pair {{
  state BACKUP
  interface back
  virtual_router_id 7
  priority {priority}
  advert_int 0.5
  version 3
  virtual_ipaddress {{ 198.51.100.250/32 dev lo }}
  track_file {{ rank }}
}}
virtual_server {vip} {port} {{
  lvs_sched {scheduler}
  {flags}
  lvs_method NAT
  protocol TCP
{servers}
}}
"""
SERVER = "  real_server {address} {port} {{ weight {weight} }}"
FIRST, SECOND, LEAD = 100, 50, 100  # priorities, and what the second's file adds


class Keepalived:
    """One gateway's, in its namespace."""

    def __init__(self, host, home, priority):
        self.host, self.home, self.priority = host, home, priority
        home.mkdir()
        (home / "rank").write_text("0\n")
        self._process = None

    def apply(self, service):
        """service: vip, port, scheduler, and weights by the servers' addresses."""
        vip, port, scheduler, weights = service
        servers = (
            SERVER.format(address=one, port=port, weight=weight) for one, weight in weights.items()
        )
        words = {
            "name": self.host.short,
            "home": self.home,
            "priority": self.priority,
            "vip": vip,
            "port": port,
            "scheduler": scheduler.name,
            "flags": " ".join(scheduler.flags),
            "servers": "\n".join(servers),
        }
        (self.home / "keepalived.conf").write_text(CONFIGURATION.format(**words))
        if self._process is None:
            self._start()
        else:
            self._process.send_signal(signal.SIGHUP)
        wanted = [f"-r {one}:{port} -m -w {weight}" for one, weight in weights.items()]
        eventually(lambda: self._has(wanted), PATIENCE)

    def _has(self, wanted):
        table = self._ask("ipvsadm", "-Sn")
        assert all(line in table for line in wanted), f"{table}\n{self._log()}"
        return True

    def _start(self):
        places = (f"--{k}={self.home}/{k}" for k in ("pid", "vrrp_pid", "checkers_pid"))
        words = ["keepalived", "-n", "-l", "-D", "-f", f"{self.home}/keepalived.conf", *places]
        with self.host.inside(), (self.home / "log").open("w") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)

    def lead(self, leads):
        (self.home / "rank").write_text(f"{LEAD if leads else 0}\n")

    def expect(self, role):
        """role: of the sync daemon, master or backup."""

        def reached():
            shown = self._ask("ipvsadm", "-L", "--daemon")
            assert f"{role} sync daemon" in shown, f"{self.host.short}: {shown}\n{self._log()}"
            return True

        eventually(reached, PATIENCE)

    def _ask(self, *words):
        with self.host.inside():
            return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    def _log(self):
        return "\n".join((self.home / "log").read_text(errors="replace").splitlines()[-20:])

    def close(self):
        """As a crash does: all of its processes, at once."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.host.name], capture_output=True, text=True, check=True
        ).stdout
        for pid in map(int, listed.split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
