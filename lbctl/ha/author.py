"""The sending side of replication, without sockets or clock.

What is replicated is a set of keys with values. The author never queues changes: it keeps
the *names* of keys that the peer does not have as they are now, and sends their present
values when the peer has room. A slow peer, or one that is away for an hour, therefore costs
no more memory than the state itself, and gets each key once.

    change() -> pending keys -> take() -> Batch in flight -> acknowledged()
                     ^------ the line was cut: start() ------'
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from lbctl.ha.words import Ack, Batch, Begin, Hello

WINDOW = 8  # batches on their way
KEYS = 512  # in a batch
BYTES = 128 << 10  # in a batch, about
MASK = (1 << 64) - 1


def fingerprint(key: bytes, value: bytes) -> int:
    """Of one key; a state's digest is the sum over its keys, in any order."""
    data = len(key).to_bytes(4, "big") + key + value
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that was sent. before: each of its keys with the fingerprint that the peer had
    of it. since: when the oldest of its changes was made. digest: after it."""

    seq: int
    before: tuple[tuple[bytes, int | None], ...]
    since: float
    digest: int
    whole: bool


class Author:
    """epoch: never used twice, and not 0; a peer that holds another one starts anew."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.state: dict[bytes, bytes] = {}
        self.copies = 0  # full ones that were begun
        self._pending: dict[bytes, float] = {}  # with the time of the change; oldest first
        self._sent: dict[bytes, int] = {}
        self._digest = 0
        self._seq = 0
        self._acked = (0, 0, False)  # seq, digest, whole
        self._flights: deque[Flight] = deque()
        self._copying = 0  # pending keys that the full copy still needs
        self._begin = True
        self._unsaid = True  # no batch yet on this line, or of this copy

    def change(self, puts: Mapping[bytes, bytes], gone: Iterable[bytes], now: float) -> None:
        """The state is now another one. What did not change costs nothing."""
        for key, value in puts.items():
            if self.state.get(key) != value:
                self.state[key] = value
                self._pending.setdefault(key, now)
        for key in gone:
            if self.state.pop(key, None) is not None:
                self._pending.setdefault(key, now)

    def start(self, held: Hello, now: float) -> None:
        """A new line, and what the peer holds: go on after that, or begin a full copy."""
        self._unsaid = True
        if held.epoch != self.epoch or not self._rewind(held):
            self.copy(now)

    def copy(self, now: float) -> None:
        """Begin a full copy."""
        self._pending = dict.fromkeys(self.state, now)
        self._sent, self._digest, self._seq = {}, 0, 0
        self._acked = (0, 0, False)
        self._flights.clear()
        self._begin = self._unsaid = True
        self.copies += 1

    def acknowledged(self, ack: Ack) -> list[float]:
        """The peer holds all up to there; an old or odd acknowledgement says nothing. Returns
        since when each batch had waited."""
        if ack.epoch != self.epoch or not self._acked[0] < ack.seq <= self._seq:
            return []
        waited = []
        while self._flights and self._flights[0].seq <= ack.seq:
            done = self._flights.popleft()
            self._acked = (done.seq, done.digest, done.whole)
            waited.append(done.since)
        return waited

    def take(self) -> Begin | Batch | None:
        """The next thing to send, if there is one and the peer has room for it."""
        if self._begin:
            self._begin, self._copying = False, len(self._pending)
            return Begin(self.epoch)
        # Also an empty state has to be known to be whole, and one that did not change.
        if len(self._flights) >= WINDOW or not (self._pending or self._unsaid):
            return None
        return self._batch()

    def lag(self, now: float) -> float:
        """Seconds for which the peer has not had all there is."""
        waiting = [flight.since for flight in self._flights]
        waiting += [next(iter(self._pending.values()))] if self._pending else []
        return max(0.0, now - min(waiting)) if waiting else 0.0

    @property
    def copied(self) -> bool:
        """Whether the peer holds a full copy, at most a moment old."""
        return self._acked[2] and self._copying == 0

    @property
    def behind(self) -> int:
        """Keys that the peer may not have as they are."""
        return len(self._pending) + sum(len(flight.before) for flight in self._flights)

    def _batch(self) -> Batch:
        puts: list[tuple[bytes, bytes]] = []
        before: list[tuple[bytes, int | None]] = []
        gone: list[bytes] = []
        size, since = 0, next(iter(self._pending.values()), 0.0)
        while self._pending and len(before) < KEYS and size < BYTES:
            key = next(iter(self._pending))
            since = min(since, self._pending.pop(key))
            self._copying = max(0, self._copying - 1)
            value, old = self.state.get(key), self._sent.get(key)
            if value is None and old is None:
                continue
            before.append((key, old))
            if value is None:
                gone.append(key)
                self._note(key, None)
            else:
                puts.append((key, value))
                self._note(key, fingerprint(key, value))
            size += len(key) + len(value or b"")
        self._seq += 1
        self._unsaid = False
        whole = self._copying == 0
        self._flights.append(Flight(self._seq, tuple(before), since, self._digest, whole))
        return Batch(self.epoch, self._seq, tuple(puts), tuple(gone), self._digest, whole)

    def _note(self, key: bytes, fresh: int | None) -> None:
        """What the peer will have of `key`."""
        old = self._sent.pop(key, 0)
        if fresh is not None:
            self._sent[key] = fresh
        self._digest = (self._digest - old + (fresh or 0)) & MASK

    def _rewind(self, held: Hello) -> bool:
        """Take back what was sent after what the peer holds; False where it holds what we do
        not know of."""
        known = {self._acked[0]: self._acked[1:]}
        known |= {flight.seq: (flight.digest, flight.whole) for flight in self._flights}
        if known.get(held.seq) != (held.digest, True):
            return False
        lost: dict[bytes, float] = {}
        while self._flights and self._flights[-1].seq > held.seq:
            flight = self._flights.pop()
            for key, old in reversed(flight.before):
                self._note(key, old)
                lost[key] = flight.since
        self._pending = lost | self._pending
        self._flights.clear()
        self._acked = (held.seq, held.digest, True)
        self._seq, self._copying, self._begin = held.seq, 0, False
        return True
