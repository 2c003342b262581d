"""Writes rings and turns: only what differs, in place, while packets read them.

A ring is one page of slots or several in a row. One that has grown never shrinks: slots
can be split, each half with the server of the whole, but not joined.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lbctl.dataplane import ring
from lbctl.dataplane.ring import Slot
from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.abi import SchedulerCode
from lbctl.dataplane.xdp.maps import Maps
from lbctl.errors import DataPlaneError
from lbctl.model import Endpoint

TAKES_TURNS = frozenset({SchedulerCode.RR, SchedulerCode.WRR, SchedulerCode.LC, SchedulerCode.WLC})
NO_LIMIT = 1 << 40  # more connections than any server has
# Pages by the number of servers up to which they serve. Few sizes: tables of two sizes have
# nothing in common, so with one server more than a size serves most slots change.
SIZES = ((20, 1), (256, 32), (abi.SERVERS, 128))


@dataclass(frozen=True, slots=True)
class Span:
    """Pages in a row, a power of two of them, as a listen's record names them."""

    first: int
    pages: int

    @classmethod
    def of(cls, word: int) -> "Span | None":
        if not word:
            return None
        return cls(word & abi.RING_PAGE, 1 << 64 - abi.PAGE_BITS - (word >> abi.RING_SHIFT))

    @property
    def word(self) -> int:
        shift = 64 - abi.PAGE_BITS - (self.pages.bit_length() - 1)
        return shift << abi.RING_SHIFT | self.first

    @property
    def slots(self) -> range:
        """Numbered from the first page of all on."""
        start = self.first << abi.PAGE_BITS
        return range(start, start + (self.pages << abi.PAGE_BITS))


class Rings:
    """The pages, and who has which.

    A ring that grew is another one: until Registry.publish() tells packets of it they read the
    one that it left, and not until then may tidy() free that.
    """

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._spans = {
            number: span
            for number, record in enumerate(maps.listens)
            if (span := Span.of(record.ring)) is not None
        }
        self._left: list[Span] = []  # by rings that grew: a packet may still read them
        self._taken = bytearray(abi.PAGES)
        for span in self._spans.values():
            self._mark(span, 1)
        self._taken[0] = 1
        self.changing = set(self._spans)  # listens that may have slots to settle
        self._passed: dict[int, set[int]] = {}  # by listen: servers that no turn was given

    def span(self, listen: int) -> Span:
        return self._spans[listen]

    def open(self, listen: int) -> None:
        """Give a listen the smallest ring, in which every slot is nobody's."""
        if listen not in self._spans:
            span = self._find(SIZES[0][1])
            if span is None:
                raise DataPlaneError(
                    f"all {abi.PAGES - 1} pages of rings are in use",
                    f"a listen takes one, and up to {SIZES[-1][1]} where it has many servers",
                )
            self._spans[listen] = span
            self._maps.listens[listen].ring = span.word

    def write(
        self, listen: int, members: Mapping[Endpoint, int], *, weighted: bool, tick: int
    ) -> int:
        """Make a listen's ring and turns follow its members; return how many places were
        written. members: those alive, by number. tick: now, as the program counts."""
        record = self._maps.listens[listen]
        weights = self._weights(members, weighted)
        numbers = {str(endpoint): number for endpoint, number in members.items()}
        self._grow(listen, len(weights))
        names = ring.maglev(weights, len(self._spans[listen].slots))
        table = [numbers[name] for name in names] or [0] * len(self._spans[listen].slots)
        keeps = set() if record.flags & abi.LISTEN_ONESHOT else set(members.values())
        written = self._rewrite(listen, table, keeps, tick)
        return written + self.write_turns(listen, members, weighted=weighted)

    def write_turns(self, listen: int, members: Mapping[Endpoint, int], *, weighted: bool) -> int:
        """The sequence of new flows alone: of servers that have room, unless none has."""
        record = self._maps.listens[listen]
        if record.scheduler not in TAKES_TURNS:
            record.turns = 0
            return 0
        self.write_spares(listen, members.values())
        weights = self._weights(members, weighted)
        numbers = {str(endpoint): number for endpoint, number in members.items()}
        full = self._passed[listen] = self._full(members.values())
        roomy = {name: weight for name, weight in weights.items() if numbers[name] not in full}
        order = ring.turns(roomy or weights, abi.TURNS)
        return self._write_turns(listen, [numbers[name] for name in order])

    def follow_room(self, listen: int, members: Mapping[Endpoint, int], *, weighted: bool) -> None:
        """Some of the members have limits, and what they have was just counted anew."""
        if self._passed.get(listen) != self._full(members.values()):
            self.write_turns(listen, members, weighted=weighted)
        else:
            self.write_spares(listen, members.values())

    def _full(self, numbers: Iterable[int]) -> set[int]:
        servers, loads = self._maps.servers, self._maps.loads
        return {n for n in numbers if 0 < servers[n].max_connections <= loads[n].open}

    def write_spares(self, listen: int, numbers: Collection[int]) -> None:
        """Who takes a new flow where the one whose turn it is has no room: those of the
        servers with these numbers that have the most."""
        servers, loads = self._maps.servers, self._maps.loads
        room = {
            number: servers[number].max_connections - loads[number].open
            if servers[number].max_connections
            else NO_LIMIT - loads[number].open
            for number in numbers
            if servers[number].weight
        }
        best = sorted(room, key=lambda number: -room[number])[: abi.SPARES]
        self._maps.listens[listen].spare[:] = [*best, *[0] * (abi.SPARES - len(best))]

    def read(self, listen: int) -> tuple[list[int], list[int], list[int]]:
        """For each slot its server, its old one (0 where it does not change) and the tick
        (16 bits) at which that was last reached."""
        words, olds, used = list[int](), list[int](), list[int]()
        for page, old in self._pages(self._spans[listen]):
            found = memoryview(old).cast("B").cast("H")
            names, ticks = found[0::2].tolist(), found[1::2].tolist()
            for word, name, tick in zip(page.slot[:], names, ticks, strict=True):
                changing = word & abi.SLOT_CHANGING
                words.append(word & ~abi.SLOT_CHANGING)
                olds.append(name & ~abi.OLD_KEPT if changing else 0)
                used.append(tick)
        return words, olds, used

    def replace(self, listen: int, slots: list[Slot], used: Mapping[int, int]) -> int:
        """Have all slots as a peer has them; return how many were written. The ring grows
        where the peer's is larger, and splits its slots where it is smaller."""
        while len(self._spans[listen].slots) < len(slots):
            if not self._move(listen, len(slots) >> abi.PAGE_BITS):
                raise DataPlaneError(f"no {len(slots) >> abi.PAGE_BITS} pages of rings are free")
        span = self._spans[listen]
        times, written = len(span.slots) // len(slots), 0
        for at in range(len(span.slots)):
            fresh = slots[at // times]
            word = self._maps.ring_page(span.first + (at >> abi.PAGE_BITS)).slot[
                at & abi.PAGE_SLOTS - 1
            ]
            if self._slot(span, at, word) != fresh:
                written += 1
                self._put(span, at, fresh, 0)
            if fresh.old is not None:
                page = self._maps.old_page(span.first + (at >> abi.PAGE_BITS))
                page.slot[at & abi.PAGE_SLOTS - 1].used = used.get(at // times, 0) & 0xFFFF
        return written

    def hold(self, listen: int, tick: int) -> None:
        """Have packets look for records first in every slot: those of a scheduler with
        memory that was replaced by one without."""
        for page, old in self._pages(self._spans[listen]):
            for at, word in enumerate(page.slot[:]):
                if not word & abi.SLOT_CHANGING:
                    old.slot[at].used, old.slot[at].server = tick & 0xFFFF, word
                    page.slot[at] = word | abi.SLOT_CHANGING
        self.changing.add(listen)

    def _weights(self, members: Mapping[Endpoint, int], weighted: bool) -> dict[str, int]:
        found = {str(e): int(self._maps.servers[n].weight) for e, n in members.items()}
        return {name: weight if weighted else 1 for name, weight in found.items() if weight}

    def _grow(self, listen: int, servers: int) -> None:
        """Move to more pages where there are many servers: every slot is split in equal
        slots that are what it was."""
        pages = next(pages for most, pages in SIZES if servers <= most)
        if pages > self._spans[listen].pages:
            self._move(listen, pages)  # or shares are less even, nothing else

    def _move(self, listen: int, pages: int) -> bool:
        """To more pages, if there are any."""
        small = self._spans[listen]
        if (large := self._find(pages)) is None:
            return False
        times = pages // small.pages
        words = [w for page, _ in self._pages(small) for w in page.slot for _ in range(times)]
        olds = [
            (old.server, old.used)
            for _, page in self._pages(small)
            for old in page.slot
            for _ in range(times)
        ]
        for number, (page, old) in enumerate(self._pages(large)):
            part = slice(number * abi.PAGE_SLOTS, (number + 1) * abi.PAGE_SLOTS)
            old.slot[:] = [abi.OldSlot(*one) for one in olds[part]]
            page.slot[:] = [*words[part]]
        self._spans[listen] = large
        self._maps.listens[listen].ring = large.word
        self._left.append(small)
        return True

    def _rewrite(self, listen: int, table: list[int], alive: Collection[int], tick: int) -> int:
        """What a dead server leaves is written first."""
        first: list[tuple[int, Slot]] = []
        rest: list[tuple[int, Slot]] = []
        span = self._spans[listen]
        words = [word for page, _ in self._pages(span) for word in page.slot[:]]
        for at, (word, server) in enumerate(zip(words, table, strict=True)):
            if word != server:
                slot = self._slot(span, at, word)
                fresh = ring.change(slot, server, alive)
                (rest if slot.server in alive else first).append((at, fresh))
        for at, fresh in (*first, *rest):
            self._put(span, at, fresh, tick)
            if fresh.old is not None:
                self.changing.add(listen)
        return len(first) + len(rest)

    def _slot(self, span: Span, at: int, word: int) -> Slot:
        if not word & abi.SLOT_CHANGING:
            return Slot(word)
        old = self._maps.old_page(span.first + (at >> abi.PAGE_BITS))
        server = old.slot[at & abi.PAGE_SLOTS - 1].server & ~abi.OLD_KEPT
        return Slot(word & ~abi.SLOT_CHANGING, server)

    def _put(self, span: Span, at: int, slot: Slot, tick: int) -> None:
        """The old server first: the word that names both comes last. Its time begins when
        it stops being the slot's own."""
        number, at = span.first + (at >> abi.PAGE_BITS), at & abi.PAGE_SLOTS - 1
        page = self._maps.ring_page(number)
        if slot.old is None:
            page.slot[at] = slot.server
            return
        old, before = self._maps.old_page(number).slot[at], page.slot[at]
        own = before & ~abi.SLOT_CHANGING == old.server & ~abi.OLD_KEPT
        if own or not before & abi.SLOT_CHANGING:
            old.used = tick & 0xFFFF
        old.server = slot.old
        self._maps.ring_page(number).slot[at] = slot.server | abi.SLOT_CHANGING

    def _pages(self, span: Span) -> Iterator[tuple[abi.RingPage, abi.OldPage]]:
        for number in range(span.first, span.first + span.pages):
            yield self._maps.ring_page(number), self._maps.old_page(number)

    def _write_turns(self, listen: int, order: list[int]) -> int:
        """Into the half that is not in use; one store then switches. Returns how many."""
        record, buffer = self._maps.listens[listen], self._maps.turns(listen)
        half = 0 if record.turns & abi.TURNS_HALF else 1
        present = buffer.server[1 - half][: record.turns & (abi.TURNS_HALF - 1)]
        if order == present:
            return 0
        buffer.server[half][: len(order)] = [*order]
        record.turns = len(order) | (abi.TURNS_HALF if half else 0)
        return len(order)

    def unrest(self, listen: int) -> float:
        """The share of a listen's slots that are in transition."""
        words = [word for page, _ in self._pages(self._spans[listen]) for word in page.slot[:]]
        return sum(word & abi.SLOT_CHANGING > 0 for word in words) / len(words)

    # --- pages ------------------------------------------------------------------------

    def tidy(self) -> None:
        """Free what rings left when they grew: nothing reads it by now."""
        while self._left:
            self._free(self._left.pop())

    def release(self, listen: int) -> None:
        """The listen is freed: so are its pages."""
        if (span := self._spans.pop(listen, None)) is not None:
            self._free(span)
        self.changing.discard(listen)
        self._passed.pop(listen, None)

    def _find(self, pages: int) -> Span | None:
        """First fit among spans that start at a multiple of their size."""
        for first in range(0, abi.PAGES, pages):
            if not any(self._taken[first : first + pages]):
                span = Span(first, pages)
                self._mark(span, 1)
                return span
        return None

    def _mark(self, span: Span, taken: int) -> None:
        self._taken[span.first : span.first + span.pages] = bytes([taken]) * span.pages

    def _free(self, span: Span) -> None:
        for number in range(span.first, span.first + span.pages):
            page = self._maps.ring_page(number)
            memoryview(page).cast("B")[:] = bytes(memoryview(page).nbytes)
        self._mark(span, 0)
