#!/usr/bin/env python3
# ruff: noqa: UP045 -- runs on Python 3.9, too, and socketserver says no more
"""lbctl's agent: says how loaded this server is. One file, nothing but Python 3.9 or later.

    lbctl_agent.py serve --token-file /etc/lbctl-agent/token      answer load balancers
    lbctl_agent.py once                                           print it, for a person
    lbctl_agent.py install [ARGUMENTS of serve]                   as a service of systemd

Two doors:

    HTTPS  :9180   GET /v1/load     JSON, for lbctl        GET /metrics   for Prometheus
                   mutual TLS (--ca), or a token (--token-file), or both
    TCP    :9181   one line of HAProxy's agent-check: `up ready 63%`

CPU, memory and disk are shares of what this server *may* use: of the limits of its cgroup
(v1 or v2) where it has any, else of the machine. Which cgroup: that of this process, or the
one named by --cgroup. An operator's word (`drain`, `maint`, `down#reason`, `ready`) stands
in the file named by --words and is passed on as it is.
"""

import abc
import argparse
import contextlib
import hmac
import json
import os
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional
from urllib.parse import parse_qs, urlsplit

VERSION = 1
PORT, HAPROXY_PORT = 9180, 9181
EVERY = 1.0  # seconds between two looks at the processor
WINDOW = 5.0  # seconds that CPU use is averaged over
PATIENCE = 5.0  # seconds from a connection, or a further request on it, to its answer's end
IDLE = 60.0  # seconds between two requests of a connection
MOST_CLIENTS, MOST_OF_ONE = 32, 8  # connections at once at each door; of one address
LONGEST = 16384  # bytes of a request
LOOK = 0.2  # seconds between two looks at who is overdue
NONCE = re.compile(r"[0-9A-Za-z_-]{1,64}")
PSEUDO = {"/proc", "/sys", "/dev", "/run"}
UNLIMITED = 1 << 60  # what cgroup v1 shows where there is no limit

Fields = dict[str, Any]


# --- where limits are -------------------------------------------------------------------


class Mount(NamedTuple):
    """A line of /proc/self/mountinfo, as far as it matters here."""

    root: str
    point: str
    kind: str
    source: str
    options: str


def mounts(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        words, rest = before.split(" "), after.split(" ")
        if dash and len(words) >= 5 and len(rest) >= 3:
            root, point = unescape(words[3]), unescape(words[4])
            yield Mount(root, point, rest[0], unescape(rest[1]), rest[2])


def unescape(text: str) -> str:
    """mountinfo writes blanks as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


class Cgroup(NamedTuple):
    """Where the files of one cgroup are: a directory for each controller (v1), or one for
    all (v2). A cgroup's limits are those of its parents, too."""

    version: int
    directories: dict[str, Path]  # controller -> directory
    top: dict[str, Path]  # controller -> where its hierarchy is mounted

    def path(self, controller: str) -> Optional[Path]:
        return self.directories.get(controller)

    def lineage(self, controller: str) -> Iterator[Path]:
        """The directory of a controller, and those above it."""
        where, top = self.directories.get(controller), self.top.get(controller)
        while where is not None and top is not None:
            yield where
            if where in (top, where.parent):
                return
            where = where.parent


def find_cgroup(name: str, root: Path = Path("/")) -> Optional[Cgroup]:
    """The named cgroup: `/lab/app1` under each controller's mount, or a whole path into a
    v2 tree. Without a name, that of the container this runs in. None where there are none:
    then the machine counts (and not, say, the little cgroup of this agent's own service).
    """
    own = own_cgroups(read(root / "proc/self/cgroup"))
    all_mounts = list(mounts(read(root / "proc/self/mountinfo")))
    if not name and not in_container(all_mounts, root):
        return None
    v1 = [one for one in all_mounts if one.kind == "cgroup"]
    v2 = [one for one in all_mounts if one.kind == "cgroup2"]
    directories: dict[str, Path] = {}
    tops: dict[str, Path] = {}
    for mount in v1:
        for controller in mount.options.split(","):
            where = inside(mount, name or own.get(controller, "/"))
            if controller in ("cpu", "cpuacct", "memory") and where.is_dir():
                directories[controller], tops[controller] = where, Path(mount.point)
    if directories.keys() & {"cpu", "cpuacct", "memory"}:
        return Cgroup(1, directories, tops)
    for mount in v2:
        where = inside(mount, name or own.get("", "/"))
        if (where / "cgroup.controllers").is_file():
            names = ("cpu", "memory")
            top = Path(mount.point)
            return Cgroup(2, dict.fromkeys(names, where), dict.fromkeys(names, top))
    return None


def in_container(all_mounts: Iterable[Mount], root: Path = Path("/")) -> bool:
    """Whether what is mounted for cgroups is only a part of the machine's."""
    if any((root / sign).exists() for sign in (".dockerenv", "run/.containerenv")):
        return True
    groups = [one for one in all_mounts if one.kind in ("cgroup", "cgroup2")]
    # Only a cgroup that has a parent has limits; a machine's topmost has none.
    return any(one.root != "/" or (Path(one.point) / "memory.max").exists() for one in groups)


def own_cgroups(text: str) -> dict[str, str]:
    """/proc/self/cgroup: controller -> path; "" is v2's."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def inside(mount: Mount, path: str) -> Path:
    """Where `path` of a hierarchy is seen. In a container the mount shows a part of it."""
    if path.startswith(mount.point):
        return Path(path)
    below = path[len(mount.root) :] if mount.root != "/" and path.startswith(mount.root) else path
    if ".." in below.split("/"):  # outside of this namespace: only the top is seen
        below = "/"
    return Path(mount.point) / below.lstrip("/")


# --- reading ----------------------------------------------------------------------------


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def number(path: Path) -> Optional[int]:
    text = read(path).strip()
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else None


def keyed(text: str) -> dict[str, int]:
    """`key 12` and `Key:  12 kB` lines."""
    found = re.findall(r"^([A-Za-z_()]+):?\s+([0-9]+)", text, re.MULTILINE)
    return {key: int(value) for key, value in found}


def share(part: float, whole: float) -> float:
    return round(min(1.0, max(0.0, part / whole)), 4) if whole > 0 else 0.0


class Looker:
    """Looks at this server, or at the cgroup that stands for it."""

    def __init__(
        self, cgroup: Optional[Cgroup], disks: list[str], proc: Path = Path("/proc")
    ) -> None:
        self.proc, self.cgroup, self.disks = proc, cgroup, disks
        self._samples: deque[tuple[float, float]] = deque()

    # --- processor

    def cores(self) -> float:
        """Processors that may be used: the tightest quota on the way up, or all there are."""
        cores = float(len(os.sched_getaffinity(0)))
        if self.cgroup is None:
            return cores
        for where in self.cgroup.lineage("cpu"):
            if self.cgroup.version == 2:
                quota, _, period = read(where / "cpu.max").strip().partition(" ")
            else:
                quota = str(number(where / "cpu.cfs_quota_us") or "")
                period = str(number(where / "cpu.cfs_period_us") or "")
            if quota.isdigit() and period.isdigit() and int(period):
                cores = min(cores, int(quota) / int(period))
        return cores

    def cpu_seconds(self) -> float:
        """Processor time that was used, since whenever."""
        if self.cgroup is not None:
            if self.cgroup.version == 2:
                where = self.cgroup.path("cpu")
                used = keyed(read(where / "cpu.stat")).get("usage_usec") if where else None
                if used is not None:
                    return used / 1e6
            else:
                where = self.cgroup.path("cpuacct") or self.cgroup.path("cpu")
                used = number(where / "cpuacct.usage") if where else None
                if used is not None:
                    return used / 1e9
        # /proc/stat: user nice system idle iowait irq softirq steal, in ticks
        ticks = [int(word) for word in read(self.proc / "stat").split("\n", 1)[0].split()[1:9]]
        busy = sum(ticks) - sum(ticks[3:5]) if len(ticks) > 4 else 0
        return busy / os.sysconf("SC_CLK_TCK")

    def sample(self, now: float) -> None:
        """To be called about every second."""
        self._samples.append((now, self.cpu_seconds()))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def cpu(self) -> Fields:
        cores = self.cores()
        samples = list(self._samples)
        used = 0.0
        if len(samples) > 1 and samples[-1][0] > samples[0][0]:
            used = (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])
        return {"used": share(used, cores), "cores": round(cores, 2), **self.pressure("cpu")}

    def pressure(self, what: str) -> Fields:
        """PSI: the share of ten seconds that somebody had to wait; where the kernel has it."""
        text = ""
        if self.cgroup is not None and self.cgroup.version == 2:
            where = self.cgroup.path("cpu")
            text = read(where / f"{what}.pressure") if where else ""
        match = re.search(
            r"^some avg10=([0-9.]+)", text or read(self.proc / "pressure" / what), re.MULTILINE
        )
        return {"pressure": round(float(match[1]) / 100, 4)} if match else {}

    # --- memory

    def memory(self) -> Fields:
        info = keyed(read(self.proc / "meminfo"))
        total = info.get("MemTotal", 0) * 1024
        used = total - info.get("MemAvailable", 0) * 1024
        limit = self.memory_limit()
        if limit is not None and limit[1] < (total or UNLIMITED):
            where, total = limit
            used = self.memory_used(where)
        return {
            "used": share(used, total),
            "bytes": used,
            "total": total,
            **self.pressure("memory"),
        }

    def memory_limit(self) -> Optional[tuple[Path, int]]:
        """The tightest limit on the way up, and the cgroup that has it."""
        if self.cgroup is None:
            return None
        name = "memory.max" if self.cgroup.version == 2 else "memory.limit_in_bytes"
        found = [
            (limit, str(where))
            for where in self.cgroup.lineage("memory")
            if (limit := number(where / name)) is not None and 0 < limit < UNLIMITED
        ]
        return (Path(min(found)[1]), min(found)[0]) if found else None

    def memory_used(self, where: Path) -> int:
        """Without the cache that the kernel would give up first."""
        version = self.cgroup.version if self.cgroup is not None else 2
        current, key = ("memory.current", "inactive_file")
        if version == 1:
            current, key = ("memory.usage_in_bytes", "total_inactive_file")
        cache = keyed(read(where / "memory.stat")).get(key, 0)
        return max(0, (number(where / current) or 0) - cache)

    # --- the rest

    def file_systems(self) -> list[str]:
        """Mount points with a device of their own, or those that were asked for."""
        if self.disks:
            return self.disks
        points: dict[str, str] = {}
        for mount in mounts(read(self.proc / "self/mountinfo")):
            real = mount.source.startswith("/dev/") or mount.point == "/"
            if real and mount.kind not in ("squashfs", "devtmpfs", "iso9660", "9p"):
                points.setdefault(mount.source, mount.point)
        return sorted(p for p in points.values() if "/" + p.split("/")[1] not in PSEUDO)

    def disk(self) -> list[Fields]:
        """As `df` counts: of what those who are not root can use. Inodes run out, too."""
        found = []
        for point in self.file_systems():
            try:
                it = os.statvfs(point)
            except OSError:
                continue
            used = it.f_blocks - it.f_bfree
            blocks = share(used, used + it.f_bavail)
            inodes = share(it.f_files - it.f_ffree, it.f_files) if it.f_files else 0.0
            found.append(
                {
                    "mount": point,
                    "used": max(blocks, inodes),
                    "bytes": used * it.f_frsize,
                    "total": (used + it.f_bavail) * it.f_frsize,
                    "inodes": inodes,
                }
            )
        return found[:200]

    def network(self) -> dict[str, Fields]:
        found = {}
        for line in read(self.proc / "net/dev").splitlines()[2:102]:
            name, _, rest = line.partition(":")
            words = rest.split()
            if len(words) >= 16 and name.strip() != "lo":
                found[name.strip()] = {"received": int(words[0]), "sent": int(words[8])}
        return found

    def established(self) -> int:
        """TCP connections that are open: the kernel's own count, in two lines of which the
        first names the columns of the second."""
        rows = [
            line.split() for line in read(self.proc / "net/snmp").splitlines() if line[:4] == "Tcp:"
        ]
        if len(rows) < 2 or "CurrEstab" not in rows[0]:
            return 0
        return int(rows[1][rows[0].index("CurrEstab")])

    def load(self) -> list[float]:
        return [float(word) for word in read(self.proc / "loadavg").split()[:3]]

    def all(self) -> Fields:
        cgroup = None
        if self.cgroup is not None:
            cgroup = {"version": self.cgroup.version, "path": str(self.cgroup.path("memory"))}
        return {
            "agent": "lbctl",
            "version": VERSION,
            "host": socket.gethostname(),
            "cgroup": cgroup,
            "cpu": self.cpu(),
            "memory": self.memory(),
            "disks": self.disk(),
            "load": self.load(),
            "network": self.network(),
            "connections": {"established": self.established()},
        }


# --- what is told -----------------------------------------------------------------------


class Agent:
    """What is seen, kept fresh by a thread of its own, in the forms that are asked for."""

    def __init__(self, looker: Looker, words: Optional[Path], soft: float, hard: float) -> None:
        self.looker, self.words_file, self.soft, self.hard = looker, words, soft, hard
        self._lock = threading.Lock()
        self._fresh: tuple[float, Fields] = (0.0, {})

    def watch(self) -> None:
        """For ever."""
        while True:
            self.looker.sample(time.monotonic())
            time.sleep(EVERY)

    def report(self) -> Fields:
        """Not looked at more than twice a second, however many ask."""
        with self._lock:
            at, fields = self._fresh
            if time.monotonic() - at >= 0.5:
                fields = {**self.looker.all(), "words": self.words()}
                self._fresh = (time.monotonic(), fields)
            return dict(fields)

    def words(self) -> str:
        """What an operator wants: the first line of a file."""
        if self.words_file is None:
            return ""
        return read(self.words_file).split("\n", 1)[0].strip()[:200]

    def line(self) -> str:
        """For HAProxy: what the operator says, and a weight that falls from `soft` to `hard`
        by the scarcest of processor, memory and disk. 1% is the least: a server that is
        only busy is not drained by its own agent."""
        fields = self.report()
        shares = [fields["cpu"]["used"], fields["memory"]["used"]]
        shares += [disk["used"] for disk in fields["disks"]]
        room = (self.hard - max(shares)) / (self.hard - self.soft)
        percent = max(1, min(100, round(room * 100)))
        words, _, reason = (fields["words"] or "up ready").partition("#")
        if "%" not in words:
            words = f"{percent}% {words}"
        # HAProxy takes `down#reason` for one word, and for none that it knows.
        return words.strip() + (f" #{reason.strip()}" if reason else "")


def prometheus(fields: Fields) -> str:
    """Text format 0.0.4."""
    rows: list[tuple[str, str, str, float]] = [
        ("lbctl_agent_cpu_used_ratio", "gauge", "", fields["cpu"]["used"]),
        ("lbctl_agent_cpu_cores", "gauge", "", fields["cpu"]["cores"]),
        ("lbctl_agent_memory_used_ratio", "gauge", "", fields["memory"]["used"]),
        ("lbctl_agent_memory_used_bytes", "gauge", "", fields["memory"]["bytes"]),
        ("lbctl_agent_memory_limit_bytes", "gauge", "", fields["memory"]["total"]),
        (
            "lbctl_agent_connections_established",
            "gauge",
            "",
            fields["connections"]["established"],
        ),
    ]
    for what in ("cpu", "memory"):
        if "pressure" in fields[what]:
            pressure = fields[what]["pressure"]
            rows.append((f"lbctl_agent_{what}_pressure_ratio", "gauge", "", pressure))
    for at, value in enumerate(fields["load"]):
        rows.append(("lbctl_agent_load", "gauge", label(minutes=(1, 5, 15)[at]), value))
    for disk in fields["disks"]:
        where = label(mount=disk["mount"])
        rows.append(("lbctl_agent_disk_used_ratio", "gauge", where, disk["used"]))
        rows.append(("lbctl_agent_disk_used_bytes", "gauge", where, disk["bytes"]))
    for name, one in fields["network"].items():
        for way in ("received", "sent"):
            kind = f"lbctl_agent_network_{way}_bytes_total"
            rows.append((kind, "counter", label(device=name), one[way]))
    return "".join(families(rows))


def label(**values: object) -> str:
    def escape(value: object) -> str:
        return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{key}="{escape(value)}"' for key, value in values.items()) + "}"


def families(rows: Iterable[tuple[str, str, str, float]]) -> Iterator[str]:
    """Rows of one name stand together, under one line that says what they are."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, kind, labels, value in rows:
        grouped.setdefault((name, kind), []).append(f"{name}{labels} {value}\n")
    for (name, kind), lines in grouped.items():
        yield f"# TYPE {name} {kind}\n" + "".join(lines)


# --- who is let in ----------------------------------------------------------------------


class Guest:
    """A connection. since, deadline: when it came, and when it has to be over (monotonic).
    known: that it has shown a certificate or a token."""

    def __init__(self, address: str, since: float, deadline: float) -> None:
        self.address, self.since, self.deadline = address, since, deadline
        self.known = False


class Room:
    """Who may stay, without sockets or clock. An address has MOST_OF_ONE places at most. Who
    finds no place gets a stranger's: of its own address, if that has all that it may have, or
    else of the address with most strangers; of these the one that came first.
    """

    def __init__(self, most: int = MOST_CLIENTS, of_one: int = MOST_OF_ONE) -> None:
        self.most, self.of_one = most, of_one
        self.guests: list[Guest] = []  # in the order of their coming

    def enter(self, guest: Guest) -> list[Guest]:
        """Those who have to go: nobody, another one, or the guest that wanted to come in."""
        own = [one for one in self.guests if one.address == guest.address]
        if len(own) < self.of_one and len(self.guests) < self.most:
            self.guests.append(guest)
            return []
        strangers = [
            one for one in (own if len(own) >= self.of_one else self.guests) if not one.known
        ]
        if not strangers:
            return [guest]
        places = Counter(one.address for one in strangers)
        gone = max(strangers, key=lambda one: places[one.address])
        self.guests.remove(gone)
        self.guests.append(guest)
        return [gone]

    def leave(self, guest: Guest) -> None:
        """Also one that had to go already."""
        if guest in self.guests:
            self.guests.remove(guest)

    def overdue(self, now: float) -> list[Guest]:
        """Those whose time is over; they have no place any more."""
        gone = [one for one in self.guests if one.deadline <= now]
        self.guests = [one for one in self.guests if one.deadline > now]
        return gone


class Server(socketserver.TCPServer, abc.ABC):
    """A thread for each client. A client that has to go is hung up on, in whatever its thread
    waits for: the handshake, a byte of its request, or that it reads what it asked for.
    `serve_forever` looks for such every LOOK seconds.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], agent: Agent, patience: float = PATIENCE) -> None:
        self.agent, self.patience = agent, patience
        self.room = Room()
        self._lock = threading.Lock()
        self._lines: dict[Guest, socket.socket] = {}  # a second handle of each connection
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, socketserver.BaseRequestHandler)

    @abc.abstractmethod
    def talk(self, request: socket.socket, guest: Guest) -> None:
        """The whole conversation, in the client's own thread."""

    def process_request(self, request: Any, client_address: Any) -> None:
        now = time.monotonic()
        guest = Guest(client_address[0], now, now + self.patience)
        with self._lock:
            gone = self.room.enter(guest)
            if guest in gone:
                request.close()
                return
            self._lines[guest] = request.dup()
            self._hang_up(gone)
        try:
            threading.Thread(target=self._serve, args=(request, guest), daemon=True).start()
        except RuntimeError:  # no thread is to be had
            self._end(request, guest)

    def service_actions(self) -> None:
        """After each client, and every LOOK seconds."""
        with self._lock:
            self._hang_up(self.room.overdue(time.monotonic()))

    def prolong(self, guest: Guest, seconds: float) -> None:
        """From now; not for one that had to go."""
        with self._lock:
            guest.deadline = time.monotonic() + seconds

    def _hang_up(self, gone: Iterable[Guest]) -> None:
        for guest in gone:
            if guest in self._lines:
                with contextlib.suppress(OSError):  # it has gone by itself
                    self._lines[guest].shutdown(socket.SHUT_RDWR)

    def _serve(self, request: socket.socket, guest: Guest) -> None:
        # A client that hung up, spoke no TLS, or showed no certificate: its own affair.
        with contextlib.suppress(OSError, ValueError, HTTPException):
            self.talk(request, guest)
        self._end(request, guest)

    def _end(self, request: socket.socket, guest: Guest) -> None:
        request.close()
        with self._lock:
            self.room.leave(guest)
            self._lines.pop(guest).close()


# --- HTTP -------------------------------------------------------------------------------


class Measured:
    """A request as it is read: LONGEST bytes, or the client is refused."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, LONGEST

    def readline(self, size: int) -> bytes:
        line = self.file.readline(min(size, self.left + 1))
        self.left -= len(line)
        if self.left < 0:
            raise HTTPException(f"a request of more than {LONGEST} bytes")
        return line

    def close(self) -> None:
        self.file.close()


class Web(BaseHTTPRequestHandler):
    """GET, with a token where one is wanted; connections are kept for the next question."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lbctl-agent/1", ""
    server: "WebServer"

    def __init__(self, request: socket.socket, guest: Guest, server: "WebServer") -> None:
        self.guest, self.first = guest, True
        super().__init__(request, (guest.address, 0), server)

    def setup(self) -> None:
        super().setup()
        self.stream: Any = self.rfile

    def handle_one_request(self) -> None:
        """The first has the time that its connection has; others begin with their first byte."""
        if not self.first:
            self.server.prolong(self.guest, IDLE)
            if not self.stream.peek(1):
                self.close_connection = True
                return
            self.server.prolong(self.guest, self.server.patience)
        self.first, self.rfile = False, Measured(self.stream)  # type: ignore[assignment]
        super().handle_one_request()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._allowed():
            return self._answer(401, "text/plain", b"a token is wanted\n")
        if url.path == "/v1/load":
            nonce = parse_qs(url.query).get("nonce", [""])[0]
            if nonce and not NONCE.fullmatch(nonce):
                return self._answer(400, "text/plain", b"a nonce of 1 to 64 letters or digits\n")
            body = {"nonce": nonce, **self.server.agent.report()}
            return self._answer(200, "application/json", json.dumps(body).encode() + b"\n")
        if url.path == "/metrics":
            text = prometheus(self.server.agent.report())
            return self._answer(200, "text/plain; version=0.0.4", text.encode())
        return self._answer(404, "text/plain", b"there is /v1/load and /metrics\n")

    def _allowed(self) -> bool:
        wanted = self.server.token
        if not wanted:
            return True
        given = self.headers.get("Authorization", "")
        allowed = hmac.compare_digest(given.encode(), f"Bearer {wanted}".encode())
        self.guest.known = self.guest.known or allowed
        return allowed

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status != 200:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Every two seconds somebody asks: no line for that."""


class WebServer(Server):
    def __init__(
        self,
        address: tuple[str, int],
        agent: Agent,
        token: str,
        context: Optional[ssl.SSLContext],
        patience: float = PATIENCE,
    ) -> None:
        self.token, self.context = token, context
        super().__init__(address, agent, patience)

    def talk(self, request: socket.socket, guest: Guest) -> None:
        if self.context is None:
            Web(request, guest, self)
            return
        with self.context.wrap_socket(request, server_side=True) as encrypted:
            guest.known = self.context.verify_mode is ssl.CERT_REQUIRED
            Web(encrypted, guest, self)


class LineServer(Server):
    def talk(self, request: socket.socket, guest: Guest) -> None:
        request.sendall(self.agent.line().encode("ascii", "replace") + b"\n")
        request.shutdown(socket.SHUT_WR)
        # What was sent along is read, or the close would reset the line away.
        left = LONGEST
        while left > 0 and (more := request.recv(4096)):
            left -= len(more)


def tls_context(cert: str, key: str, ca: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key or None)
    if ca:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


# --- the command line -------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    token = read(Path(options.token_file)).strip() if options.token_file else ""
    if options.token_file and not token:
        return fail(f"{options.token_file}: no token in it (write one line)")
    if not (token or options.ca or options.open):
        return fail("anybody could ask: give --token-file or --ca (or --open, if you mean it)")
    context = None
    if options.cert:
        try:
            context = tls_context(options.cert, options.key, options.ca)
        except OSError as error:
            return fail(f"{options.cert}: cannot be used: {error}")
    elif not options.plain:
        return fail("no certificate: give --cert (`lbctl agent cert` makes one), or --plain")
    agent = make_agent(options)
    servers: list[Server] = []
    try:
        servers.append(WebServer((options.listen, options.port), agent, token, context))
        if options.haproxy_port:
            servers.append(LineServer((options.listen, options.haproxy_port), agent))
    except OSError as error:
        return fail(f"{options.listen}: cannot listen: {error}")
    for one in servers:
        threading.Thread(target=one.serve_forever, args=(LOOK,), daemon=True).start()
    agent.watch()
    return 0


def make_agent(options: argparse.Namespace) -> Agent:
    looker = Looker(find_cgroup(options.cgroup), options.disk)
    words = Path(options.words) if options.words else None
    return Agent(looker, words, options.soft / 100, options.hard / 100)


def once(options: argparse.Namespace) -> int:
    agent = make_agent(options)
    agent.looker.sample(time.monotonic())
    time.sleep(EVERY)
    agent.looker.sample(time.monotonic())
    print(agent.line() if options.line else json.dumps(agent.report(), indent=2))
    return 0


def install(options: argparse.Namespace) -> int:
    """Copy this file, write the unit, start it. Asks nothing; can be run again."""
    if os.geteuid() != 0:
        return fail("installing needs root (sudo)")
    home, target = Path("/etc/lbctl-agent"), Path("/usr/local/lib/lbctl-agent/lbctl_agent.py")
    home.mkdir(mode=0o755, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(__file__).resolve() != target:
        shutil.copyfile(__file__, target)
        target.chmod(0o755)
    settings = home / "agent.env"
    if not settings.exists() or options.arguments:
        settings.write_text(f'ARGUMENTS="{" ".join(options.arguments) or DEFAULT_ARGUMENTS}"\n')
    Path("/etc/systemd/system/lbctl-agent.service").write_text(UNIT)
    if shutil.which("systemctl") is None:
        print(f"no systemd here: start it by  {sys.executable} {target} serve ...")
        return 0
    for words in (
        ["daemon-reload"],
        ["enable", "--now", "lbctl-agent"],
        ["restart", "lbctl-agent"],
    ):
        done = subprocess.run(["systemctl", *words], check=False)
        if done.returncode != 0:
            return fail(f"systemctl {' '.join(words)}: exit status {done.returncode}")
    print("lbctl-agent runs; `systemctl status lbctl-agent` shows it")
    return 0


DEFAULT_ARGUMENTS = (
    "--cert /etc/lbctl-agent/agent.pem --ca /etc/lbctl-agent/ca.pem --words /etc/lbctl-agent/words"
)
# Kept the same as agents/lbctl-agent.service, for packages: a test compares the two.
UNIT = """\
[Unit]
Description=lbctl agent: says how loaded this server is
After=network-online.target
Wants=network-online.target

[Service]
EnvironmentFile=/etc/lbctl-agent/agent.env
ExecStart=/usr/bin/python3 /usr/local/lib/lbctl-agent/lbctl_agent.py serve $ARGUMENTS
Restart=always
RestartSec=2
# root, so that it can read its key, and without any of root's powers
CapabilityBoundingSet=
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
RestrictAddressFamilies=AF_INET AF_INET6
MemoryMax=64M
TasksMax=80

[Install]
WantedBy=multi-user.target
"""


def fail(why: str) -> int:
    print(f"lbctl-agent: {why}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="lbctl_agent.py", description=(__doc__ or "").split("\n")[0]
    )
    verbs = whole.add_subparsers(dest="verb", required=True)
    looks = argparse.ArgumentParser(add_help=False)
    looks.add_argument("--cgroup", default="", help="that of the load; default: this process's")
    looks.add_argument("--disk", action="append", default=[], help="a mount point; may be repeated")
    looks.add_argument("--words", default="", help="a file with an operator's word")
    looks.add_argument("--soft", type=float, default=80, help="HAProxy's weight falls from here")
    looks.add_argument("--hard", type=float, default=95, help="... to here (per cent in use)")
    serving = verbs.add_parser("serve", parents=[looks], help="answer load balancers")
    serving.add_argument("--listen", default="0.0.0.0", help="an address; `::` for IPv6 too")
    serving.add_argument("--port", type=int, default=PORT)
    serving.add_argument("--haproxy-port", type=int, default=HAPROXY_PORT, help="0: none")
    serving.add_argument("--cert", default="", help="certificate (and key) of this server")
    serving.add_argument("--key", default="", help="its key, if in a file of its own")
    serving.add_argument("--ca", default="", help="whose clients may ask: mutual TLS")
    serving.add_argument("--token-file", default="", help="a token that clients must show")
    serving.add_argument("--plain", action="store_true", help="HTTP without TLS")
    serving.add_argument("--open", action="store_true", help="anybody may ask")
    serving.set_defaults(act=serve)
    printing = verbs.add_parser("once", parents=[looks], help="print it once")
    printing.add_argument("--line", action="store_true", help="as HAProxy would get it")
    printing.set_defaults(act=once)
    installing = verbs.add_parser(
        "install", help="as a service of systemd", epilog="What follows is for `serve`."
    )
    installing.set_defaults(act=install)
    return whole


def understood(words: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The command line. `install` takes what `serve` takes, and keeps it as it was written."""
    whole = parser()
    options, rest = whole.parse_known_args(words)
    if rest and options.verb != "install":
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        understood(["serve", *rest])
    if options.verb != "install" and not options.soft < options.hard:
        whole.error(f"--soft {options.soft:g} has to be below --hard {options.hard:g}")
    options.arguments = rest
    return options


def main() -> int:
    options = understood()
    act = options.act
    try:
        return int(act(options))
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
