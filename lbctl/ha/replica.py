"""The receiving side of replication, without sockets or clock.

A full copy is built beside what is held and takes its place when it is complete; changes
after it are applied one batch at a time, each checked against the digest that came with it.
What cannot be right changes nothing and asks for a new copy, with the reason.
"""

from dataclasses import dataclass, field

from lbctl.ha.author import MASK, fingerprint
from lbctl.ha.words import Ack, Again, Batch, Begin, Fault, Hello

MOST = 4 << 20  # keys that a peer may have us hold
MOST_BYTES = 1 << 30


@dataclass
class Copy:
    """A state as far as it was received."""

    epoch: int = 0
    seq: int = 0
    digest: int = 0
    size: int = 0
    state: dict[bytes, bytes] = field(default_factory=dict)

    def checked(self, batch: Batch) -> tuple[int, int]:
        """Digest and size after `batch`. Raises Fault where they are not what it says."""
        if batch.epoch != self.epoch:
            raise Fault(f"a batch of another copy ({batch.epoch:x}, not {self.epoch:x})")
        if batch.seq <= self.seq:
            raise Fault(f"batch {batch.seq} was here before: replayed")
        if batch.seq > self.seq + 1:
            raise Fault(f"batch {batch.seq} follows {self.seq}: some are missing")
        digest, size, fresh = self.digest, self.size, dict[bytes, bytes | None]()
        for key, value in (*batch.puts, *((key, None) for key in batch.gone)):
            old = fresh[key] if key in fresh else self.state.get(key)
            digest -= fingerprint(key, old) if old is not None else 0
            digest += fingerprint(key, value) if value is not None else 0
            size += (len(key) + len(value)) if value is not None else 0
            size -= (len(key) + len(old)) if old is not None else 0
            fresh[key] = value
        if digest & MASK != batch.digest:
            raise Fault(f"batch {batch.seq} does not add up: corrupt")
        if len(self.state) + len(batch.puts) > MOST or size > MOST_BYTES:
            raise Fault(f"more than {MOST} keys or {MOST_BYTES >> 20} MiB")
        return digest & MASK, size

    def add(self, batch: Batch) -> None:
        self.digest, self.size = self.checked(batch)
        self.seq = batch.seq
        self.state.update(batch.puts)
        for key in batch.gone:
            self.state.pop(key, None)


class Replica:
    """state: the last complete copy with all changes since. whole: it is complete, and the
    line that it comes over is up. faults: by what the peer got wrong."""

    def __init__(self) -> None:
        self.whole = False
        self.faults: dict[str, int] = {}
        self._held = Copy()
        self._building: Copy | None = None
        self._complete = False
        self._asked = False  # for a new copy; until it begins nothing else is looked at
        self._refused = 0  # the batch that made us ask: one before it is of the new copy
        self._changed: dict[bytes, bytes | None] = {}

    @property
    def state(self) -> dict[bytes, bytes]:
        return self._held.state

    def hello(self, version: int, node: str) -> Hello:
        """What we begin a line with."""
        if not self._complete:
            return Hello(version, node)
        held = self._held
        return Hello(version, node, held.epoch, held.seq, held.digest)

    def cut(self) -> None:
        """The line is down: half a copy is worth nothing, a whole one keeps its worth."""
        self._building, self._asked, self.whole = None, False, False

    def distrust(self, reason: str) -> None:
        """What is held adds up and yet means nothing: only a new copy can mend that."""
        self.faults[reason] = self.faults.get(reason, 0) + 1
        self._held, self._complete = Copy(), False
        self.cut()

    def begin(self, word: Begin) -> None:
        self._building, self._asked = Copy(word.epoch), False
        self.whole = False

    def take(self, batch: Batch) -> Ack | Again | None:
        """Apply it, and what to answer."""
        if self._asked:
            return (
                None
                if batch.seq > self._refused
                else self._again(batch, "a copy without its beginning")
            )
        target = self._building if self._building is not None else self._held
        if target is self._held and not self._complete:
            return self._again(batch, "a change before any copy")
        try:
            target.add(batch)
        except Fault as fault:
            return self._again(batch, str(fault))
        if target is self._held:
            self._changed.update(batch.puts)
            self._changed.update(dict.fromkeys(batch.gone))
            self.whole = True
        elif batch.whole:
            self._replace(target)
        return Ack(batch.epoch, batch.seq)

    def drain(self) -> dict[bytes, bytes | None]:
        """What changed since this was last asked; None: gone."""
        changed, self._changed = self._changed, {}
        return changed

    def _replace(self, copy: Copy) -> None:
        old, self._held = self._held.state, copy
        self._building, self._complete, self.whole = None, True, True
        self._changed.update((k, v) for k, v in copy.state.items() if old.get(k) != v)
        self._changed.update((key, None) for key in old if key not in copy.state)

    def _again(self, refused: Batch, reason: str) -> Again:
        kind = reason.rpartition(": ")[2] if ": " in reason else reason.split(" (")[0]
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self._building, self._asked, self.whole = None, True, False
        self._refused = refused.seq
        return Again(reason)
