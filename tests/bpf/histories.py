"""The transition rule as a model, and random histories that drive it beside the program.

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
    had a packet of such a flow (UDP: when the change began)."""

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
    records that a set can hold."""

    slots: list[Slot]
    times: Times
    place: Callable[[Flow], tuple[int, int]]
    ways: int = 5
    udp: bool = False
    alive: set[str] = field(default_factory=set)
    records: dict[Flow, Record] = field(default_factory=dict)

    def change(self, table: Sequence[str | None], alive: Collection[str], now: int) -> None:
        self.alive = set(alive)
        self.records = {f: r for f, r in self.records.items() if r.server in self.alive}
        for slot, server in zip(self.slots, table, strict=True):
            stable = slot.old if slot.changing else slot.server
            slot.server = server
            if stable not in self.alive:
                stable = server
            if not slot.changing and stable != server:
                slot.changing, slot.used = True, now
            slot.old = stable

    def sweep(self, now: int) -> None:
        self.records = {f: r for f, r in self.records.items() if not self._aged(r, now)}
        named: dict[int, set[str]] = {}
        for flow, record in self.records.items():
            named.setdefault(self.place(flow)[0], set()).add(record.server)
        for number, slot in enumerate(self.slots):
            if not slot.changing:
                continue
            if now - slot.used > self.times.idle:
                slot.old = slot.server
            if slot.old == slot.server and not named.get(number, set()) - {slot.server}:
                slot.changing = False
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
        self, flow: Flow, now: int, *, syn: bool, seq: int, payload: bool = False
    ) -> str | None:
        """The server that this packet reaches."""
        slot = self._slot(flow)
        if not slot.changing:
            return slot.server
        record = self.records.get(flow)
        if record is not None and self._aged(record, now):
            record = None
        if record is not None and self._continues(record, syn, seq):
            record.used, record.confirmed = now, record.confirmed or not syn
            return record.server
        if self.udp:
            return self._udp(flow, slot, now)
        new = syn and record is None
        if new and slot.server is None:
            return None
        if new and not payload and slot.old != slot.server and self._room(flow, now):
            assert slot.server is not None
            self.records[flow] = Record(slot.server, seq, confirmed=False, used=now)
            return slot.server
        if not syn or slot.old != slot.server:
            slot.used = now
        return slot.old

    @staticmethod
    def _continues(record: Record, syn: bool, seq: int) -> bool:
        return record.confirmed or seq == (record.isn + (0 if syn else 1)) % 2**32

    def _udp(self, flow: Flow, slot: Slot, now: int) -> str | None:
        if slot.old == slot.server or not self._room(flow, now):
            return slot.server
        assert slot.old is not None
        self.records[flow] = Record(slot.old, 0, confirmed=True, used=now)
        return slot.old
