"""Flows, packets, additions, drains with their deadlines, crashes, returns and sweeps, at
random, on a stand."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.histories.stand import ACK, PLACES, RST, SYN, TURNING, Packet, Stand

DRAIN = 75  # ticks that a server has to drain: about five minutes


@dataclass
class Live:
    """A flow with packets to come. server: the one that holds its connection."""

    server: str
    seq: int
    used: int


@dataclass(frozen=True)
class Greeting:
    """A SYN that went to a server. changes: how many there had been."""

    server: str
    isn: int
    sent: int
    changes: int


@dataclass
class Tally:
    """handshakes: cut though the server lives and the SYN is not forgotten. late: done after a
    change of servers, or of weights."""

    histories: int = 0
    flows: int = 0
    packets: int = 0
    handshakes: int = 0
    late: int = 0
    deaf: int = 0  # servers that did not hear a client's RST
    broken: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, f) + getattr(other, f) for f in Tally.__annotations__))


@dataclass(frozen=True)
class Trouble:
    """flood: SYNs from nowhere before each step. forge: SYNs, and in mh RSTs too, that match
    nothing, on tuples that live."""

    flood: int = 0
    forge: float = 0.0


TROUBLES = {
    "plain": Trouble(),
    "flood": Trouble(flood=8),
    "forged": Trouble(forge=0.5),
    "flood and forged": Trouble(flood=8, forge=0.5),
}


@dataclass(frozen=True)
class Kind:
    """schedulers: one of them to begin with; where there are more, they alternate."""

    schedulers: tuple[str, ...] = ("mh",)
    trouble: Trouble = Trouble()


class History:
    def __init__(self, stand: Stand, seed: int, kind: Kind) -> None:
        self.stand, self.trouble = stand, kind.trouble
        self.schedulers = kind.schedulers
        self.random = random.Random(seed)
        self.live: dict[int, Live] = {}
        self.greetings: dict[int, Greeting] = {}
        self.until: dict[str, int] = {}  # deadlines of servers that drain
        self.tally = Tally(histories=1)
        self.ports = self.random.sample(range(1024, 65536), 60000)
        count = self.random.randint(2, 5)
        weights = dict.fromkeys(self.random.sample([*PLACES], count), 1)
        self.stand.change(weights, kind.schedulers[0])

    def run(self, steps: int) -> Tally:
        acts = [self.begin, self.go_on, self.end, self.add, self.leave, self.back]
        acts += [self.stand.sweep, self.reschedule, self.greet, self.shake]
        odds = [36, 46, 6, 1, 2, 1, 4, 0.5, 8, 6]
        for act in self.random.choices(acts, odds, k=steps):
            if self.random.random() < 0.4:
                self.stand.pass_time(self.random.choice((0, 1, 1, 2, 40)))
                self.meet_deadlines()
            for _ in range(self.trouble.flood):
                self.packet(self.ports.pop(), SYN, self.random.getrandbits(32))
            if self.live and self.random.random() < self.trouble.forge:
                # Who remembers flows takes a RST for a flow's end.
                memory = self.stand.scheduler in TURNING
                forged = RST if self.random.random() < 0.3 and not memory else SYN
                port = self.pick()
                # One in 65,536 would move a flow (ADR 5): none of these does.
                far = self.live[port].seq + 2**30 + self.random.getrandbits(31)
                self.packet(port, forged, far)
            act()
        return self.tally

    def packet(self, port: int, flags: int, seq: int, payload: bytes = b"") -> str | None:
        self.tally.packets += 1
        return self.stand.packet(Packet(port, flags, seq % 2**32, payload))

    def pick(self) -> int:
        return self.random.choice([*self.live])

    # --- flows --------------------------------------------------------------------------

    def begin(self) -> None:
        port, isn = self.ports.pop(), self.random.getrandbits(32)
        self.tally.flows += 1
        if self.stand.udp:
            server = again = self.packet(port, ACK, 0)
        else:
            data = b"fast" if self.random.random() < 0.05 else b""
            server = self.packet(port, SYN, isn, data)
            if not data and self.random.random() < 0.1:
                self.undeceive(port, isn, server)
            again = self.packet(port, ACK, isn + 1 + len(data) + self.lost())
        if server is not None and server != again:
            self.tally.handshakes += 1
        elif server is not None:
            self.live[port] = Live(server, isn + 65535, self.stand.now)

    def greet(self) -> None:
        """A SYN, whose answer is under way when servers change."""
        if not self.stand.udp:
            port, isn = self.ports.pop(), self.random.getrandbits(32)
            if server := self.packet(port, SYN, isn):
                self.tally.flows += 1
                changes = self.stand.changes
                self.greetings[port] = Greeting(server, isn, self.stand.now, changes)

    def shake(self) -> None:
        """What follows such a SYN. One that is too old is forgotten: it is a stranger's."""
        if not self.greetings:
            return
        port = self.random.choice([*self.greetings])
        one = self.greetings.pop(port)
        if self.packet(port, ACK, one.isn + 1 + self.lost()) == one.server:
            self.tally.late += self.stand.changes > one.changes
            self.live[port] = Live(one.server, one.isn + 65535, self.stand.now)
        elif self.stand.now - one.sent <= self.stand.room.embryonic:
            self.tally.handshakes += 1

    def lost(self) -> int:
        """Bytes after the handshake that no gateway sees: of its first window at most."""
        return self.random.choice((0, 0, 0, 1460, 2920, 65530))

    def undeceive(self, port: int, isn: int, server: str | None) -> None:
        """The server took the SYN for one of an older flow, and acknowledged that: the
        client's RST has to reach it, and its next SYN too."""
        told = self.packet(port, RST, self.random.getrandbits(32))
        again = self.packet(port, SYN, isn)
        self.tally.deaf += server is not None and not server == told == again

    def go_on(self) -> None:
        if not self.live:
            return
        port = self.pick()
        flow = self.live[port]
        flow.seq += self.random.randrange(1, 1460)
        server = self.packet(port, ACK, flow.seq)
        if server == flow.server:
            flow.used = self.stand.now
            return
        alive = flow.server in self.stand.model.alive
        self.tally.broken += alive and self.stand.now - flow.used <= self.stand.room.idle
        del self.live[port]

    def end(self) -> None:
        if self.live:
            del self.live[self.pick()]

    # --- servers ------------------------------------------------------------------------

    def add(self) -> None:
        if absent := [name for name in PLACES if name not in self.stand.weights]:
            self.stand.change({**self.stand.weights, self.random.choice(absent): 1})

    def leave(self) -> None:
        """Drain, or die; sometimes the last."""
        if not self.stand.weights:
            return
        name = self.random.choice([*self.stand.weights])
        if self.random.random() < 0.5:
            self.until.setdefault(name, self.stand.now + DRAIN)
            self.stand.change({**self.stand.weights, name: 0})
        elif len(self.stand.weights) > 1:
            self.die([name])

    def meet_deadlines(self) -> None:
        if late := [name for name, until in self.until.items() if self.stand.now > until]:
            self.die(late)

    def die(self, names: Iterable[str]) -> None:
        gone = set(names)
        self.live = {port: flow for port, flow in self.live.items() if flow.server not in gone}
        self.greetings = {p: one for p, one in self.greetings.items() if one.server not in gone}
        for name in gone:
            self.until.pop(name, None)
        self.stand.change({n: w for n, w in self.stand.weights.items() if n not in gone})

    def back(self) -> None:
        """A weight that rises: from a drain, or to another share."""
        if self.stand.weights:
            name = self.random.choice([*self.stand.weights])
            self.until.pop(name, None)
            self.stand.change({**self.stand.weights, name: self.random.randint(1, 3)})

    def reschedule(self) -> None:
        self.stand.change(self.stand.weights, self.random.choice(self.schedulers))


def histories(make: Callable[[], Stand], kind: Kind, seeds: range, steps: int) -> Tally:
    """make: a stand on which nothing is left of an earlier history."""
    total = Tally()
    for seed in seeds:
        try:
            total += History(make(), seed, kind).run(steps)
        except AssertionError as error:
            error.add_note(f"seed {seed} of {kind}")
            raise
    return total
