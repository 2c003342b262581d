"""A real web server on a lab's host: nginx, which says in body and header who answers."""

import os
import signal
from pathlib import Path

from lbctl.lab import kernel
from lbctl.lab.topology import HTTP
from lbctl.lab.waiting import eventually

# Temporary paths: nginx makes all of them at start, used or not, and else in /var/lib.
# keepalive_requests: a connection ends by itself after so many answers, so that a server
# that drains under load gets empty while its clients lose nothing.
CONFIG = """\
# The web server of {name}, written by `lbctl lab up`.
worker_processes 1;
error_log nginx.log warn;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path tmp-body;
    proxy_temp_path tmp-proxy;
    fastcgi_temp_path tmp-fastcgi;
    uwsgi_temp_path tmp-uwsgi;
    scgi_temp_path tmp-scgi;
    keepalive_requests 100;
    default_type text/plain;
    server {{
        listen {port} backlog=4096;
        {ipv6}listen [::]:{port} backlog=4096;
        add_header X-Server {name} always;
        location / {{ return 200 "{name}\\n"; }}
    }}
}}
"""


class WebServer:
    """nginx in namespace `space`, with its files in `home`."""

    def __init__(self, space: str, name: str, home: Path, ipv6: bool = False) -> None:
        self.space, self.name, self.home, self.ipv6 = space, name, home, ipv6

    def start(self) -> None:
        """Returns when it listens: nginx goes to the background only then. Raises LabError."""
        self.home.mkdir(parents=True, exist_ok=True)
        text = CONFIG.format(name=self.name, port=HTTP, ipv6="" if self.ipv6 else "# ")
        (self.home / "nginx.conf").write_text(text)
        nginx = ["nginx", "-e", "nginx.log", "-p", str(self.home), "-c", "nginx.conf"]
        kernel.call(kernel.inside(self.space, nginx))

    @property
    def pid(self) -> int | None:
        """The master process; None if there is none."""
        try:
            pid = int((self.home / "nginx.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if any(one.pid == pid for one in kernel.processes(self.space)) else None

    def kill(self) -> None:
        """SIGKILL, master and worker at once: connections end by reset, as in a crash.
        Returns when both are gone."""
        if (pid := self.pid) is not None:
            os.killpg(pid, signal.SIGKILL)
            eventually(lambda: not self._group(pid))

    def _group(self, group: int) -> list[int]:
        """The processes of a process group that live here."""
        return [one.pid for one in kernel.processes(self.space) if _group_of(one.pid) == group]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
