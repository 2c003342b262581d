"""What packets meet in the data path in memory: rings, records and the transition rule.

A slot whose server changes while the old one lives holds both: flows that are older than
the change stay, new ones are recorded and go to the new server, until nothing has reached
the old one for a flow's idle time. Schedulers with memory record every flow, and ask the
ring where they cannot.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lbctl.dataplane import ring
from lbctl.dataplane.port import RingCopy
from lbctl.dataplane.ring import Slot
from lbctl.model import HASHING, WEIGHTLESS, Endpoint, Frontend, Listen, Proto, VirtualService

TURNS = 1024  # longest sequence of rr and wrr
NOBODY = 0  # as a slot's server
FIRST_WINDOW = 65536  # bytes that a client may send before it hears from the server again


@dataclass(frozen=True, slots=True)
class FakePacket:
    """A client's packet. flow: a number that no other flow of the listen has. syn, and reset
    (without ACK): never of UDP, which has no such thing."""

    flow: int
    syn: bool = False
    seq: int = 0
    payload: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """isn: of the SYN that began the flow. used: the tick of its last packet."""

    server: int
    isn: int
    confirmed: bool
    used: int

    def continued_by(self, packet: FakePacket) -> bool:
        """Does the packet belong to this flow, or to an older one of the same tuple?"""
        if self.confirmed:
            return True
        if packet.syn:
            return packet.seq == self.isn
        return (packet.seq - self.isn - 1) % 2**32 < FIRST_WINDOW


@dataclass(frozen=True, slots=True)
class FakeRoom:
    """How much there is of everything. place: of a flow, the slot (below `slots`) and the
    set that its record must lie in, which has so many ways. In ticks: after `embryonic` and
    `idle` a record is forgotten, after `idle` an old server is finished."""

    place: Callable[[int], tuple[int, int]]
    slots: int = 512
    ways: int = 5
    embryonic: int = 2
    idle: int = 225


@dataclass
class FakeRing:
    """One listen's. last: for each slot that changes, when an unrecorded packet last
    reached its old server (UDP: when that became the old one)."""

    room: FakeRoom
    udp: bool
    service: VirtualService
    slots: list[Slot] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    begun: int = 0  # flows that took a turn
    records: dict[int, FakeRecord] = field(default_factory=dict)
    numbers: dict[Endpoint, int] = field(default_factory=dict)
    alive: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.slots = [Slot(NOBODY)] * self.room.slots
        self.last = [0] * self.room.slots

    @property
    def memory(self) -> bool:
        return self.service.scheduler.name not in HASHING

    # --- changes ------------------------------------------------------------------------

    def follow(self, service: VirtualService, now: int) -> None:
        """Take the service as it is from now on."""
        if self.memory and service.scheduler.name in HASHING:
            self._hold(now)
        self.service = service
        for endpoint in service.destinations:
            self.numbers.setdefault(endpoint, len(self.numbers) + 1)
        self.alive = {self.numbers[endpoint] for endpoint in service.destinations}
        weights = self._weights()
        numbers = {str(endpoint): number for endpoint, number in self.numbers.items()}
        names = ring.maglev(weights, len(self.slots))
        keep = set() if service.oneshot else self.alive
        for at, name in enumerate(names or [""] * len(self.slots)):
            self._put(at, ring.change(self.slots[at], numbers.get(name, NOBODY), keep), now)
        self.turns = [numbers[name] for name in ring.turns(weights, TURNS)]
        self.records = {f: one for f, one in self.records.items() if one.server in self.alive}

    def _weights(self) -> dict[str, int]:
        weightless = self.service.scheduler.name in WEIGHTLESS
        found = {str(e): one.weight for e, one in self.service.destinations.items() if one.weight}
        return dict.fromkeys(found, 1) if weightless else found

    def _hold(self, now: int) -> None:
        """From here on packets look for a record first, in every slot."""
        for at, slot in enumerate(self.slots):
            if slot.old is None:
                self._put(at, Slot(slot.server, slot.server), now)

    def _put(self, at: int, fresh: Slot, now: int) -> None:
        if self.slots[at].old in (None, self.slots[at].server):
            self.last[at] = now
        self.slots[at] = fresh

    def copy(self, now: int) -> RingCopy:
        """As a peer takes it over; a tick counts as a second."""
        names = {number: endpoint for endpoint, number in self.numbers.items()}
        named = {n for s in self.slots for n in (s.server, s.old) if n}
        servers = sorted((names[n] for n in named), key=str)
        place = {self.numbers[endpoint]: at for at, endpoint in enumerate(servers, 1)}
        return RingCopy(
            tuple(servers),
            tuple(place.get(slot.server, 0) for slot in self.slots),
            tuple(place.get(slot.old or 0, 0) for slot in self.slots),
            {at: float(now - self.last[at]) for at, slot in enumerate(self.slots) if slot.old},
        )

    def take(self, copy: RingCopy, now: int) -> int:
        """Have all slots as a peer has them."""
        numbers = [NOBODY, *(self.numbers[endpoint] for endpoint in copy.servers)]
        fresh = [
            Slot(numbers[one], numbers[old] if old else None)
            for one, old in zip(copy.slots, copy.old, strict=True)
        ]
        written = sum(one != two for one, two in zip(fresh, self.slots, strict=True))
        self.slots = fresh
        for at, idle in copy.idle.items():
            self.last[at] = now - round(idle)
        return written

    def sweep(self, now: int) -> None:
        """Forget what is too old; settle slots whose old server is finished and that no
        record of a third server needs."""
        self.records = {f: r for f, r in self.records.items() if not self._aged(r, now)}
        needed = set() if self.memory else self._named_elsewhere()
        for at, slot in enumerate(self.slots):
            if slot.old is not None:
                finished = now - self.last[at] > self.room.idle
                old = slot.server if finished else slot.old
                settled = old == slot.server and at not in needed
                self.slots[at] = Slot(slot.server, None if settled else old)
        if not self.memory:
            self.records = {f: r for f, r in self.records.items() if self._changes(f)}

    def _named_elsewhere(self) -> set[int]:
        """Slots with a record that names another server than theirs."""
        places = ((self.room.place(flow)[0], one) for flow, one in self.records.items())
        return {at for at, one in places if one.server != self.slots[at].server}

    def _changes(self, flow: int) -> bool:
        return self.slots[self.room.place(flow)[0]].old is not None

    def _aged(self, record: FakeRecord, now: int) -> bool:
        most = self.room.idle if record.confirmed else self.room.embryonic
        return now - record.used > most

    # --- packets ------------------------------------------------------------------------

    def packet(self, packet: FakePacket, now: int) -> Endpoint | None:
        """The server that it reaches; None: it is dropped."""
        number = self._server(packet, now)
        return next((e for e, n in self.numbers.items() if n == number), None)

    def _server(self, packet: FakePacket, now: int) -> int:
        at = self.room.place(packet.flow)[0]
        if self.slots[at].old is None and not self.memory:
            return self.slots[at].server
        record = self.records.get(packet.flow)
        if record is not None and not self._aged(record, now):
            if packet.reset and not record.confirmed:
                return record.server  # it took the SYN for an older flow's, and must hear it
            if not record.continued_by(packet):
                return self._unrecorded(at, packet, now)
            confirmed = record.confirmed or not packet.syn
            self.records[packet.flow] = replace(record, confirmed=confirmed, used=now)
            return record.server
        if self.udp or packet.syn:
            return self._new(at, packet, now)
        return self._unrecorded(at, packet, now)

    def _new(self, at: int, packet: FakePacket, now: int) -> int:
        """A flow that nobody remembers: a SYN, or a datagram."""
        slot = self.slots[at]
        if packet.syn and not self.memory and slot.server == NOBODY:
            return NOBODY
        if (packet.syn and packet.payload) or (not self.memory and slot.old == slot.server):
            return self._unrecorded(at, packet, now)
        wanted = self._turn() if self.memory else slot.old if self.udp else slot.server
        if not wanted:
            return NOBODY
        if not self._has_room(packet.flow, now):
            return self._unrecorded(at, packet, now)
        self.records[packet.flow] = FakeRecord(wanted, packet.seq, self.udp, now)
        return wanted

    def _turn(self) -> int:
        """The next server in turn."""
        if not self.turns:
            return NOBODY
        self.begun += 1
        return self.turns[(self.begun - 1) % len(self.turns)]

    def _unrecorded(self, at: int, packet: FakePacket, now: int) -> int:
        """Where the ring puts it: a TCP flow stays with the slot's old server."""
        slot = self.slots[at]
        if slot.old is None or self.udp:
            return slot.server
        if not packet.syn or slot.old != slot.server:
            self.last[at] = now
        return slot.old

    def _has_room(self, flow: int, now: int) -> bool:
        mine = self.room.place(flow)[1]
        rivals = (r for f, r in self.records.items() if self.room.place(f)[1] == mine)
        return sum(not self._aged(rival, now) for rival in rivals) < self.room.ways


@dataclass
class FakeTraffic:
    """The rings of all listens. now: in ticks; it stands still but for `pass_time`."""

    room: FakeRoom
    now: int = 0
    rings: dict[Frontend, FakeRing] = field(default_factory=dict)
    replicas: set[Frontend] = field(default_factory=set)

    def copy(self, frontend: Frontend) -> RingCopy:
        return self.rings[frontend].copy(self.now)

    def take(self, frontend: Frontend, copy: RingCopy) -> int:
        """A peer is the author of this ring; nothing settles here."""
        self.replicas.add(frontend)
        return self.rings[frontend].take(copy, self.now)

    def pass_time(self, ticks: int) -> None:
        self.now += ticks

    def follow(self, frontend: Frontend, service: VirtualService | None) -> None:
        """What the table says of a listen now; None: it is gone."""
        if service is None:
            self.rings.pop(frontend, None)
            return
        udp = isinstance(frontend, Listen) and frontend.proto is Proto.UDP
        fresh = FakeRing(self.room, udp, service)
        self.rings.setdefault(frontend, fresh).follow(service, self.now)

    def sweep(self) -> None:
        for frontend, one in self.rings.items():
            if frontend not in self.replicas:
                one.sweep(self.now)

    def packet(self, frontend: Frontend, packet: FakePacket) -> Endpoint | None:
        return self.rings[frontend].packet(packet, self.now)
