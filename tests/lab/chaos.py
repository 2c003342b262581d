"""Random changes to a gateway under traffic, and who may break by them.

Of a change it is known between which two looks at the ring it happened; a handshake that was
in flight then may fail, and so may connections of servers that were killed. Nothing else.
"""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lbctl.dataplane.xdp.loader import Job
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.rings import Span
from lbctl.dataplane.xdp.shape import Feature
from lbctl.lab import Lab, eventually
from lbctl.lab.lab import Process
from tests.lab.daemons import answering, states

TALK = Path(__file__).with_name("talk.py")
IN_FLIGHT = 0.05  # seconds before a change that a SYN may have left, and fail
PORT = 9000
VIP = "192.0.2.10"
LOOK = 0.004  # seconds between two looks at the ring


@dataclass
class Server:
    """A server as the chaos left it. configured: it is in the file."""

    configured: bool = True
    weight: int = 1
    drained: bool = False
    process: Process | None = None

    @property
    def serves(self) -> bool:
        return self.configured and not self.drained and self.process is not None


@dataclass
class Crash:
    """share: of new connections that were the server's. out: when the gateway had taken the
    server out; back: when it was started again. nameless: connections put down to it that
    had no answer which would name their server."""

    server: str
    at: float
    share: float
    out: float = float("inf")
    back: float = float("inf")
    nameless: int = 0

    def room(self, rate: float) -> float:
        """How many of `rate` new ones a second may have met the dead server."""
        return 10 + 1.5 * self.share * rate * (self.out - self.at + 0.1)


@dataclass(frozen=True)
class Break:
    """A connection that broke. at: when its SYN left."""

    kind: str
    at: float
    ended: float
    server: str
    error: str


@dataclass
class Verdict:
    """What broke, by what excuses it."""

    counted: dict[str, int]
    unexcused: list[Break] = field(default_factory=list)
    crashed: list[Break] = field(default_factory=list)
    in_flight: list[Break] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.counted['new']} new and {self.counted['long']} long connections with "
            f"{self.counted['asked']} questions; broken: {len(self.unexcused)}, by crashes of "
            f"their server {len(self.crashed)}, in flight {len(self.in_flight)}"
        )


class RingWatch:
    """Notes when the ring or the turns of the first listen change, as (last look at the old,
    first look at the new)."""

    def __init__(self, pins: Path) -> None:
        self.changes: list[tuple[float, float]] = []
        self._maps = Maps(pins)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _look(self) -> bytes:
        numbers = [n for n, record in enumerate(self._maps.listens[:64]) if record.family]
        seen = b"".join(bytes(self._maps.listens[n]) for n in numbers)
        spans = (Span.of(self._maps.listens[n].ring) for n in numbers[:1])
        pages = (n for span in spans if span for n in range(span.first, span.first + span.pages))
        return seen + b"".join(bytes(self._maps.ring_page(n)) for n in pages)

    def _run(self) -> None:
        before, looked = self._look(), time.monotonic()
        while not self._stop.wait(LOOK):
            began = time.monotonic()
            now = self._look()
            if now != before:
                self.changes.append((looked, time.monotonic()))
            before, looked = now, began

    @contextmanager
    def watching(self) -> Iterator["RingWatch"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()


class Chaos:
    """One gateway and its servers. scheduler: of the one service. port: that clients ask; if it
    is another one than PORT, the service has a listen for both."""

    def __init__(self, lab: Lab, scheduler: str, seed: int, port: int = PORT) -> None:
        self.lab, self.gateway, self.scheduler, self.port = lab, lab.gateway, scheduler, port
        self.random = random.Random(seed)
        self.servers = {host.name: Server() for host in lab.servers}
        self.crashes: list[Crash] = []
        self.done: Counter[str] = Counter()
        self.daemon: Process | None = None

    # --- standing up --------------------------------------------------------------------

    def up(self) -> None:
        for name in self.servers:
            self._start(name)
        self.gateway.config(self.file())
        self._start_daemon()
        eventually(lambda: set(states(self.gateway).values()) == {"serving"}, timeout=60)

    def file(self) -> str:
        lines = [
            f"      {name}: {{address: '{self.lab.host(name).address}:{PORT}', weight: {s.weight}}}"
            for name, s in self.servers.items()
            if s.configured
        ]
        listens = ", ".join(f"'{VIP}:{port}/tcp'" for port in dict.fromkeys((PORT, self.port)))
        check = "{type: tcp, interval: 500ms, timeout: 450ms, fall: 3, rise: 1}"
        return "\n".join(
            [
                "apiVersion: lbctl/v1",
                "gateway: {front: front, back: back, datapath: xdp}",
                "services:",
                "  web:",
                f"    listen: [{listens}]",
                f"    scheduler: {self.scheduler}",
                f"    check: {check}",
                "    servers:",
                *lines,
                "",
            ]
        )

    def _start(self, name: str) -> None:
        words = [sys.executable, TALK, "serve", name, str(PORT)]
        host = self.lab.host(name)
        self.servers[name].process = host.start(words, log="talk.log")
        probe = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"]
        eventually(lambda: host.run(probe, check=False).returncode == 0, timeout=20)

    def _start_daemon(self) -> None:
        self.daemon = answering(self.gateway)

    @contextmanager
    def traffic(self, long: int, rate: float) -> Iterator[Process]:
        words = [sys.executable, TALK, "call", VIP, str(self.port), str(long), str(rate)]
        client = self.lab.client
        caller = client.start(words, log=f"call-{len(client.started)}.jsonl")
        try:
            eventually(lambda: '"ready"' in caller.output(), timeout=60)
            yield caller
        finally:
            caller.kill(signal.SIGTERM)
            caller.wait(30)

    # --- changes ------------------------------------------------------------------------

    def change(self) -> str:
        """One change that is possible now, at random; returns its name."""
        possible: dict[Callable[[str], None], list[str]] = {}
        for act, server in self._acts():
            possible.setdefault(act, []).append(server)
        act = self.random.choice([*possible])
        server = self.random.choice(possible[act])
        act(server)
        self.done[act.__name__] += 1
        return f"{act.__name__} {server}".strip()

    def _acts(self) -> Iterator[tuple[Callable[[str], None], str]]:
        spare = sum(one.serves for one in self.servers.values()) > 2
        for name, one in self.servers.items():
            if one.process is None:
                yield self.come_back, name
            elif not one.configured:
                yield self.add, name
            elif one.drained:
                yield self.ready, name
            else:
                yield self.weigh, name
                if spare:
                    yield from ((act, name) for act in (self.crash, self.drain, self.remove))
        for act in (self.reload, self.replace_program, self.kill_daemon):
            yield act, ""

    def add(self, name: str) -> None:
        self.servers[name].configured = True
        self._apply()

    def remove(self, name: str) -> None:
        self.servers[name].configured = False
        self._apply()

    def weigh(self, name: str) -> None:
        self.servers[name].weight = self.random.choice((1, 2, 3))
        self._apply()

    def _apply(self) -> None:
        self.gateway.lbctl("apply", self.gateway.config(self.file()), check=False)

    def drain(self, name: str) -> None:
        self.servers[name].drained = True
        self.gateway.lbctl("drain", f"web/{name}")

    def ready(self, name: str) -> None:
        self.servers[name].drained = False
        self.gateway.lbctl("ready", f"web/{name}")

    def crash(self, name: str) -> None:
        process = self.servers[name].process
        assert process is not None
        serving = {one: s.weight for one, s in self.servers.items() if s.serves}
        crash = Crash(name, time.monotonic(), serving.get(name, 0) / sum(serving.values()))
        self.crashes.append(crash)
        process.kill(signal.SIGKILL)
        self.servers[name].process = None
        eventually(lambda: states(self.gateway).get(name, "down") == "down", timeout=20)
        crash.out = time.monotonic()

    def come_back(self, name: str) -> None:
        for crash in self.crashes:
            if crash.server == name:
                crash.back = min(crash.back, time.monotonic())
        self._start(name)

    def reload(self, _: str) -> None:
        """A HUP, with other weights in the file."""
        self.servers[self.random.choice([*self.servers])].weight = self.random.choice((1, 2))
        self.gateway.config(self.file())
        assert self.daemon is not None
        self.daemon.kill(signal.SIGHUP)
        time.sleep(0.2)

    def replace_program(self, _: str) -> None:
        """As an upgrade does: the loader compiles, and swaps behind the links."""
        features = tuple(str(one) for one in Feature)
        found = json.loads(self.gateway.run(["ip", "-j", "link"]).stdout)
        links = [(one["ifname"], one["ifindex"]) for one in found if one["ifname"] != "lo"]
        job = json.dumps(asdict(Job(str(self.gateway.pins), features, tuple(links))))
        words = self.gateway.command([sys.executable, "-m", "lbctl.dataplane.xdp.loader"])
        subprocess.run(
            words, input=job, text=True, env=self.gateway.environment, check=True, timeout=60
        )

    def kill_daemon(self, _: str) -> None:
        assert self.daemon is not None
        self.daemon.kill(signal.SIGKILL)
        self.daemon.wait()
        time.sleep(self.random.uniform(0, 1))
        self._start_daemon()

    # --- judging ------------------------------------------------------------------------

    def judge(self, caller: Process, watch: RingWatch, rate: float) -> Verdict:
        """rate: of new connections, a second."""
        lines = [json.loads(line) for line in caller.output().splitlines()]
        (counted,) = [line["counted"] for line in lines if "counted" in line]
        verdict = Verdict(counted)
        for line in lines:
            if "kind" in line:
                one = Break(**line)
                if self._crashed(one, rate):
                    verdict.crashed.append(one)
                elif one.kind == "new" and in_flight(one, watch):
                    verdict.in_flight.append(one)
                else:
                    verdict.unexcused.append(one)
        return verdict

    def _crashed(self, one: Break, rate: float) -> bool:
        """A connection of a killed server; one that never had an answer may be of any that
        was dead and still in the ring, as many as were that server's share."""
        for crash in self.crashes:
            if one.server == crash.server and one.at <= crash.at <= one.ended:
                return True
            met = crash.at - 0.1 <= one.ended and one.at <= crash.out
            if not one.server and met and crash.nameless < crash.room(rate):
                crash.nameless += 1
                return True
        return False


def in_flight(one: Break, watch: RingWatch) -> bool:
    return any(began - IN_FLIGHT <= one.at <= ended for began, ended in watch.changes)
