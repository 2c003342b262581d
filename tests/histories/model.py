"""The transition rule as a model: what random histories hold the data paths to.

The model knows nothing of bits, pages or hashes: it is told which slot a flow is in, and
says which server each packet must reach. Time is in ticks of the program's clock.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

Flow = int  # a client port: one client talks to one listen


@dataclass
class Record:
    server: str
    isn: int
    confirmed: bool
    used: int


@dataclass
class Slot:
    """server None: nobody. old: the one whose unrecorded flows stay; used: when it last
    had a packet of such a flow (UDP: when it became the old one)."""

    server: str | None = None
    old: str | None = None
    changing: bool = False
    used: int = 0


@dataclass(frozen=True)
class Times:
    """Ticks after which a record, and an old server that nobody needs, are forgotten."""

    embryonic: int
    idle: int


@dataclass
class Model:
    """One ring. place: the slot of a flow, and the set that its record must lie in. ways:
    records that a set can hold. memory: every flow is remembered, new ones take turns."""

    slots: list[Slot]
    times: Times
    place: Callable[[Flow], tuple[int, int]]
    ways: int = 5
    udp: bool = False
    memory: bool = False
    turns: Sequence[str] = ()
    turn: int = 0
    alive: set[str] = field(default_factory=set)
    records: dict[Flow, Record] = field(default_factory=dict)

    def change(self, table: Sequence[str | None], alive: Collection[str], now: int) -> None:
        self.alive = set(alive)
        self.records = {f: r for f, r in self.records.items() if r.server in self.alive}
        for slot, server in zip(self.slots, table, strict=True):
            stable = slot.old if slot.changing else slot.server
            if slot.server == stable:
                slot.used = now
            slot.server = server
            if stable not in self.alive:
                stable = server
            slot.changing = slot.changing or stable != server
            slot.old = stable

    def schedule(self, turns: Sequence[str] | None, now: int) -> None:
        """turns: in which new flows go round; None: the ring alone places them. Flows that
        were remembered keep their records."""
        if self.memory and turns is None:
            for slot in self.slots:
                if not slot.changing:
                    slot.changing, slot.old, slot.used = True, slot.server, now
        self.memory, self.turns = turns is not None, turns or ()

    def sweep(self, now: int) -> None:
        self.records = {f: r for f, r in self.records.items() if not self._aged(r, now)}
        named: dict[int, set[str]] = {}
        for flow, record in self.records.items():
            if not self.memory:
                named.setdefault(self.place(flow)[0], set()).add(record.server)
        for number, slot in enumerate(self.slots):
            if not slot.changing:
                continue
            if now - slot.used > self.times.idle:
                slot.old = slot.server
            if slot.old == slot.server and not named.get(number, set()) - {slot.server}:
                slot.changing = False
        if not self.memory:
            self.records = {f: r for f, r in self.records.items() if self._slot(f).changing}

    def _slot(self, flow: Flow) -> Slot:
        return self.slots[self.place(flow)[0]]

    def _aged(self, record: Record, now: int) -> bool:
        return now - record.used > (self.times.idle if record.confirmed else self.times.embryonic)

    def _room(self, flow: Flow, now: int) -> bool:
        mine = self.place(flow)[1]
        rivals = (r for f, r in self.records.items() if self.place(f)[1] == mine)
        return sum(not self._aged(rival, now) for rival in rivals) < self.ways

    def packet(
        self,
        flow: Flow,
        now: int,
        *,
        syn: bool = False,
        seq: int = 0,
        payload: bool = False,
        reset: bool = False,
    ) -> str | None:
        """The server that this packet reaches. reset: without ACK."""
        slot = self._slot(flow)
        if not slot.changing and not self.memory:
            return slot.server
        record = self.records.get(flow)
        if record is not None and self._aged(record, now):
            record = None
        if record is not None and reset and not record.confirmed:
            return record.server
        if record is not None and self._continues(record, syn, seq):
            record.used, record.confirmed = now, record.confirmed or not syn
            return record.server
        new = record is None and (syn or self.udp) and not payload
        if self.memory:
            if new and (server := self._take_turn()) is None:
                return None
            if new and self._remember(flow, server, seq, now):
                return server
            return self._by_ring(slot, syn, now)
        if self.udp:
            if slot.old != slot.server and self._remember(flow, slot.old, seq, now):
                return slot.old
            return slot.server
        if record is None and syn and slot.server is None:
            return None
        if new and slot.old != slot.server and self._remember(flow, slot.server, seq, now):
            return slot.server
        return self._by_ring(slot, syn, now)

    @staticmethod
    def _continues(record: Record, syn: bool, seq: int) -> bool:
        """A client may have sent the first window of a SYN-ACK, and all but this been lost."""
        if record.confirmed:
            return True
        return seq == record.isn if syn else (seq - record.isn - 1) % 2**32 < 65536

    def _take_turn(self) -> str | None:
        if not self.turns:
            return None
        self.turn += 1
        return self.turns[(self.turn - 1) % len(self.turns)]

    def _remember(self, flow: Flow, server: str | None, seq: int, now: int) -> bool:
        assert server is not None
        if room := self._room(flow, now):
            self.records[flow] = Record(server, seq, confirmed=self.udp, used=now)
        return room

    def _by_ring(self, slot: Slot, syn: bool, now: int) -> str | None:
        if not slot.changing or self.udp:
            return slot.server
        if not syn or slot.old != slot.server:
            slot.used = now
        return slot.old
