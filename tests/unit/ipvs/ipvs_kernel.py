"""IPVS as the plane sees it, in memory: services and servers by their messages, and the
switches as files. What a test sets in `refuse` is answered with that errno."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

from lbctl.dataplane.ipvs.codec import DEST, SERVICE, Command, Dest, Svc, _frontend
from lbctl.dataplane.ipvs.genl import NESTED, attribute, attributes, nested

Q = Struct("=Q")
COUNTS = (Dest.ACTIVE_CONNS, Dest.INACT_CONNS, Dest.PERSIST_CONNS)
SWITCHES = (
    *(f"ipv4/vs/{name}" for name in ("conntrack", "expire_nodest_conn", "sloppy_tcp")),
    *("ipv4/ip_forward", "ipv6/conf/all/forwarding"),
)


@dataclass
class Kernel:
    """In place of `Netlink`. services: the attributes of each; servers: those of each, by
    address and port. daemons: sync daemons by role. connections: how many each service counts,
    and each of its servers, by the same keys."""

    root: Path
    services: dict = field(default_factory=dict)
    servers: dict = field(default_factory=dict)
    daemons: dict = field(default_factory=dict)
    refuse: dict = field(default_factory=dict)
    sent: dict = field(default_factory=dict)
    connections: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in SWITCHES:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("0\n")

    def switch(self, name):
        return int((self.root / name).read_text())

    def close(self):
        pass

    def write(self, requests):
        return [self._take(command, memoryview(body)) for command, body in requests]

    def dump(self, command, body=b""):
        if command is Command.GET_SERVICE:
            return [self._counting(one, SERVICE, f) for f, one in self.services.items()]
        if command is Command.GET_DEST:
            frontend = frontend_of(memoryview(body))
            servers = self.servers.get(frontend, {}).items()
            return [self._counting(one, DEST, (frontend, key)) for key, one in servers]
        assert command is Command.GET_DAEMON
        return list(self.daemons.values())

    def ask(self, command, body=b""):
        assert command is Command.GET_SERVICE
        try:
            return self.services[frontend_of(memoryview(body))]
        except KeyError:
            raise ProcessLookupError(3, os.strerror(3)) from None

    def connect(self, frontend, endpoint, count):
        """Clients do."""
        key = frontend, (endpoint.address.packed.ljust(16, b"\0"), endpoint.port.to_bytes(2, "big"))
        for one in (frontend, key):
            self.connections[one] = self.connections.get(one, 0) + count

    def _counting(self, body, kind, key):
        """A service or server with its numbers, where it has any."""
        if (count := self.connections.get(key)) is None:
            count = 0
        inside = attributes(body).get(kind)
        if inside is None:  # of a kind that nobody knows
            return body
        numbers = [count, *[0] * 9]
        stats = b"".join(attribute(n, Q.pack(one)) for n, one in enumerate(numbers, 1))
        return memoryview(nested(kind & ~NESTED, bytes(inside), nested(Svc.STATS64, stats)))

    def _take(self, command, body):
        self.sent[command] = self.sent.get(command, 0) + 1
        if command in self.refuse:
            return self.refuse[command]
        if command in (Command.NEW_DAEMON, Command.DEL_DAEMON):
            return self._sync(command, body)
        frontend = frontend_of(body)
        match command:
            case Command.NEW_SERVICE | Command.SET_SERVICE:
                self.services[frontend] = body
                self.servers.setdefault(frontend, {})
            case Command.DEL_SERVICE:
                del self.services[frontend], self.servers[frontend]
            case Command.NEW_DEST | Command.SET_DEST:
                self.servers[frontend][key_of(body)] = as_shown(body)
            case Command.DEL_DEST:
                self.connections.pop((frontend, key_of(body)), None)
                del self.servers[frontend][key_of(body)]
        return 0

    def _sync(self, command, body):
        (inside,) = attributes(body).values()
        role = bytes(attributes(inside)[1])
        if command is Command.NEW_DAEMON:
            self.daemons[role] = body
        else:
            del self.daemons[role]
        return 0


def frontend_of(body):
    return _frontend(attributes(attributes(body)[SERVICE]))


def key_of(body):
    found = attributes(attributes(body)[DEST])
    return bytes(found[Dest.ADDR]), bytes(found[Dest.PORT])


def as_shown(body):
    """A server's request as the kernel lists it: with what it counts."""
    inside = bytes(attributes(body)[DEST])
    counts = b"".join(attribute(kind, bytes(4)) for kind in COUNTS)
    return memoryview(nested(DEST & ~NESTED, inside + counts))
