"""One query in, one reply out. No socket, no clock but what is passed in.

Two ways lead to the same reply. `reply` first tries the short one: a plain header, a name
that is in the table, an OPT record of a known shape; a dozen look-ups and one join of
bytes. All else goes through `query.read` and `respond`. A property test holds them equal.

    reply = id | flags, counts | question as it came | answer | OPT [subnet] [cookie]

What a reply depends on beside the query: the address, for the region of its network; a
counter, for members that take turns; the window of the rate limit.
"""

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from zlib import crc32

from lbctl.gslb import edns, records, shape
from lbctl.gslb.answers import STICKY, Answers, PoolRow, reason_of
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.edns import Edns
from lbctl.gslb.plan import BELOW, NXDOMAIN, OTHER, STAR
from lbctl.gslb.query import Query, Refusal, Silence, read
from lbctl.gslb.records import Answer
from lbctl.gslb.regions import Family, RegionMap
from lbctl.gslb.rrl import NETWORK_OCTETS, RateLimit, Ruling, Window
from lbctl.gslb.shape import NO_EDNS, SUBNET_FIELDS, Shape
from lbctl.gslb.wire import (
    AA,
    CD,
    HEADER,
    OPCODE,
    PLAIN_SIZE,
    QR,
    RD,
    TC,
    UDP_SIZE,
    Type,
    parent,
)

SCOPES = [bytes((scope,)) for scope in range(256)]
MOST_SHAPES = 1024
MOST_COOKIES = 65536


def _plain_headers() -> dict[bytes, int]:
    """Octets 2 to 12 of plain queries -> 2 x (RD) + (has an additional record).

    AD and Z are ignored; CD is rare and left to the careful path.
    """
    return {
        struct.pack("!5H", rd | ad, 1, 0, 0, additional): 2 * bool(rd) + additional
        for rd in (0, RD)
        for ad in (0, 0x20)
        for additional in (0, 1)
    }


PLAIN_HEADERS = _plain_headers()


class Entry:
    """An answer ready to send, and how often it was."""

    __slots__ = ("answer", "body", "count", "headers", "label", "reason")

    def __init__(self, answer: Answer, label: str, reason: str) -> None:
        self.answer = answer
        self.body = answer.body
        self.label = label
        self.reason = reason
        self.count = 0
        self.headers = [header(answer, flags, extra) for flags in (0, RD) for extra in (0, 1)]


class Slot:
    """A question that has an answer, as the process uses it. cells: by region, filled when
    first asked; a static slot has one, under 0."""

    __slots__ = ("cells", "number", "pool", "prefix4", "prefix6", "turn", "v4", "v6")

    def __init__(self, number: int) -> None:
        self.number = number
        self.cells: dict[int, list[Entry]] = {}
        self.turn = 0
        self.pool: PoolRow | None = None
        self.v4: Family | None = None
        self.v6: Family | None = None
        self.prefix4 = self.prefix6 = 0

    def bind(self, pool: PoolRow | None, maps: RegionMap | None) -> None:
        """Take the pool's present rules, and forget the cells."""
        self.cells.clear()
        self.pool = pool
        self.v4, self.v6 = (maps.v4, maps.v6) if maps is not None else (None, None)
        sticky = pool is not None and pool.mode == STICKY
        self.prefix4 = pool.prefix4 if pool is not None and sticky else 0
        self.prefix6 = pool.prefix6 if pool is not None and sticky else 0


def header(answer: Answer, flags: int, additional: int) -> bytes:
    """Octets 2 to 12 of a reply. flags: those copied from the query."""
    counts = (1, answer.answers, answer.authorities, answer.additionals + additional)
    return struct.pack("!5H", QR | answer.flags | flags, *counts)


class Responder:
    """Answers queries from the three blobs. Not thread-safe: one per process."""

    def __init__(self, limit: RateLimit, cookies: Cookies, identity: bytes = b"") -> None:
        self.cookies = cookies
        self.identity = identity
        self.window = Window(limit)
        self.events: Counter[str] = Counter()
        self._unix = 0
        self._slots: dict[bytes, Slot] = {}
        self._short: dict[bytes, Slot] = {}  # those that the short way may serve
        self._answers: Answers | None = None
        self._maps: Sequence[RegionMap] = ()
        self._entries: dict[tuple[int, int], Entry] = {}
        self._counted: Counter[tuple[str, str]] = Counter()
        self._shapes: dict[bytes, Shape] = {b"": NO_EDNS}
        self._cookies: dict[tuple[bytes, bytes], tuple[bytes, bool]] = {}

    # --- what it answers from -----------------------------------------------------------

    def load(self, names: Mapping[bytes, int], answers: Answers, maps: Sequence[RegionMap]) -> None:
        """Serve these from the next query on; all three belong together."""
        self._slots = {key: Slot(number) for key, number in names.items()}
        self._short = {key: slot for key, slot in self._slots.items() if _plain(key)}
        self._maps = maps
        self.swap(answers)

    def swap(self, answers: Answers) -> None:
        """Serve these answers: the same names and maps, another state of the sites."""
        self._gather()
        self._entries.clear()
        self._answers = answers
        for slot in self._slots.values():
            pool = answers.pool_of(slot.number)
            slot.bind(pool, self._maps[pool.map] if pool is not None else None)

    def tick(self, monotonic: float, unix: int) -> None:
        """The time, in seconds; to be told at least once a second."""
        self.window.turn(monotonic)
        if unix - self._unix >= 60 or len(self._cookies) > MOST_COOKIES:
            self._cookies.clear()
        self._unix = unix

    def harvest(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Answers by (name TAB site, reason), and events, since the last harvest."""
        self._gather()
        counted, events = dict(self._counted), dict(self.events)
        self._counted.clear()
        self.events.clear()
        return counted, events

    def count(self, label: str, reason: str, count: int) -> None:
        """Add answers that were given elsewhere."""
        self._counted[label, reason] += count

    def slip(self, data: bytes, source: bytes) -> bytes | None:
        """The truncated reply to a query that is over the rate limit."""
        return self._limited(Ruling.SLIP, read(data), source)

    def _gather(self) -> None:
        for entry in self._entries.values():
            if entry.count:
                self._counted[entry.label, entry.reason] += entry.count
                entry.count = 0

    # --- the short way ------------------------------------------------------------------

    def reply(self, data: bytes, source: bytes) -> bytes | None:
        """The reply to datagram `data` from the packed address `source`; None: silence."""
        end = data.find(0, HEADER) + 5
        extra = PLAIN_HEADERS.get(data[2:HEADER])
        slot = self._short.get(data[HEADER:end].lower())
        opt = data[end:]
        form = self._shapes.get(opt[: shape.KEY])
        if (
            extra is None
            or slot is None
            or form is None
            or form.octets != len(opt)
            or form.edns != extra & 1
            or (form.second and opt[form.second : form.second + 4] != form.second_header)
        ):
            return self._careful(data, source)
        options = b""
        if form.subnet:
            at = form.subnet
            field = SUBNET_FIELDS.get(opt[at : at + 4])
            raw = opt[at + 4 : at + 4 + form.address]
            address = int.from_bytes(raw, "big")
            if field is None or field.octets != form.address or address & field.spare:
                return self._careful(data, source)
            entry, scope = self._pick(slot, address << field.widen >> field.drop, field.v4)
            options = opt[at - 4 : at + 3] + SCOPES[scope] + raw
        else:
            entry, scope = self._pick(slot, int.from_bytes(source[:8], "big"), len(source) == 4)
        shown = False
        if form.cookie:
            cookie, shown = self._cookie(opt[form.cookie : form.cookie_end], source)
            options += COOKIE_HEADER + cookie
        reply = (
            data[:2] + entry.headers[extra] + data[HEADER:end] + entry.body + form.opening + options
        )
        if len(reply) > PLAIN_SIZE and (not shown or len(reply) > form.limit):
            return self._careful(data, source)
        if not shown:
            network = source[:3] if len(source) == 4 else source[:7]
            ruling = self.window.rule(network, error=entry.answer.rcode != 0)
            if ruling is not Ruling.SEND:
                return self._limited(ruling, read(data), source)
        entry.count += 1
        return reply

    def _pick(self, slot: Slot, key: int, v4: bool) -> tuple[Entry, int]:
        """The entry for a client's network, and the prefix length that it holds for."""
        family = slot.v4 if v4 else slot.v6
        if family is None:
            cell = slot.cells.get(0) or self._fill(slot, 0)
            return cell[0], 0
        upper, first = key >> family.shift, family.first
        value = family.values[bisect_right(family.starts, key, first[upper], first[upper + 1]) - 1]
        scope = value & 0xFF
        cell = slot.cells.get(value >> 8) or self._fill(slot, value >> 8)
        if len(cell) == 1:
            return cell[0], scope
        if slot.prefix4:
            bits, prefix = (32, slot.prefix4) if v4 else (64, slot.prefix6)
            sticky = (key >> (bits - prefix)).to_bytes(8, "big")
            return cell[crc32(sticky) % len(cell)], max(scope, prefix)
        slot.turn += 1
        return cell[slot.turn & (len(cell) - 1)], scope

    def _fill(self, slot: Slot, region: int) -> list[Entry]:
        """Read a cell from the blob, on first use."""
        assert self._answers is not None  # a slot exists only in loaded answers
        if slot.pool is None:
            cell = [self._entry(slot, 0, "static")]
        else:
            ring = self._answers.ring(slot.pool, region)
            cell = [self._entry(slot, picked, reason_of(picked)) for picked in ring]
        slot.cells[region] = cell
        return cell

    def _entry(self, slot: Slot, picked: int, reason: str) -> Entry:
        assert self._answers is not None
        entry = self._entries.get((slot.number, picked))
        if entry is None:
            answer, label = self._answers.answer(slot.number, picked & 0xFFFF)
            entry = self._entries[slot.number, picked] = Entry(answer, label, reason)
        return entry

    def _cookie(self, cookie: bytes, source: bytes) -> tuple[bytes, bool]:
        """Our cookie in reply, and whether theirs was ours; remembered for a minute."""
        known = self._cookies.get((cookie, source))
        if known is None:
            known = self.cookies.reply(cookie, source, self._unix)
            self._cookies[cookie, source] = known
        return known

    # --- the careful way ----------------------------------------------------------------

    def _careful(self, data: bytes, source: bytes) -> bytes | None:
        try:
            query = read(data)
        except Silence:
            self.events["silence"] += 1
            return None
        except Refusal as refusal:
            return self._refuse(refusal, source)
        self._learn(data, query)
        return self._respond(query, source, tcp=False)

    def stream_reply(self, data: bytes, source: bytes) -> bytes | None:
        """Like `reply`, for a message that came by TCP: never truncated or rate-limited."""
        try:
            return self._respond(read(data), source, tcp=True)
        except Silence:
            self.events["silence"] += 1
            return None
        except Refusal as refusal:
            self.events[refusal.rcode.name.lower()] += 1
            return self._assemble(refusal.query, Answer(flags=refusal.rcode & 0xF), b"",
                                  refusal.rcode)  # fmt: skip

    def _learn(self, data: bytes, query: Query) -> None:
        opt = data[HEADER + len(query.question) :]
        # Only an OPT record that is the whole additional section has a shape.
        if query.edns is not None and data[10:HEADER] == b"\x00\x01" and len(opt) >= shape.FIXED:
            learnt = shape.learn(opt)
            if learnt is not None:
                if len(self._shapes) >= MOST_SHAPES:
                    self._shapes = {b"": NO_EDNS}
                self._shapes[opt[: shape.KEY]] = learnt

    def _refuse(self, refusal: Refusal, source: bytes) -> bytes | None:
        self.events[refusal.rcode.name.lower()] += 1
        if self.window.rule(network_of(source), error=True) is not Ruling.SEND:
            self.events["limited"] += 1
            return None
        answer = Answer(flags=refusal.rcode & 0xF)
        return self._assemble(refusal.query, answer, b"", refusal.rcode)

    def _respond(self, query: Query, source: bytes, *, tcp: bool) -> bytes | None:
        if not query.question:  # it asks for a cookie only (RFC 7873 section 5.4)
            entry, scope = Entry(Answer(flags=0), "\t", "static"), 0
        else:
            entry, scope = self._look_up(query, source)
        options, shown = self._options(query.edns, scope, source)
        if not tcp and not shown:
            ruling = self.window.rule(network_of(source), error=entry.answer.rcode != 0)
            if ruling is not Ruling.SEND:
                return self._limited(ruling, query, source)
        reply = self._assemble(query, entry.answer, options)
        if not tcp and len(reply) > _limit(query.edns, shown):
            self.events["truncated"] += 1
            return self._assemble(query, Answer(flags=entry.answer.flags | TC), options)
        entry.count += 1
        return reply

    def _look_up(self, query: Query, source: bytes) -> tuple[Entry, int]:
        slot = self._find(query.name, query.question[-4:])
        if slot is None:
            self.events["refused"] += 1
            return Entry(records.REFUSED, "\t", "static"), 0
        subnet = query.edns.subnet if query.edns is not None else None
        if subnet is None or subnet.source == 0:
            # "Use no address of mine": the resolver's own, with scope 0 (RFC 7871, 7.1.2).
            entry, _ = self._pick(slot, int.from_bytes(source[:8], "big"), len(source) == 4)
            scope = 0
        else:
            v4 = subnet.family == 1
            key = subnet.network if v4 else subnet.network >> 64
            entry, scope = self._pick(slot, key, v4)
        if query.type == Type.ANY and entry.answer.flags == AA and not entry.answer.answers:
            # Neither a referral nor a CNAME, which ANY gets as any type does.
            return self._any(slot, entry.label), scope
        return entry, scope

    def _any(self, slot: Slot, label: str) -> Entry:
        key = slot.number, ANY_PICK
        if (entry := self._entries.get(key)) is None:
            entry = self._entries[key] = Entry(records.any_type(), label, "static")
        return entry

    def _find(self, name: bytes, tail: bytes) -> Slot | None:
        """The slot for a name: itself, else what its nearest ancestor says; None: not ours."""
        slots = self._slots
        tail = OTHER if tail in NOT_ASKED else tail
        if (slot := slots.get(name + tail) or slots.get(name + OTHER)) is not None:
            return slot
        below = name
        while len(below) > 1:
            below = parent(below)
            if below + OTHER in slots:
                break
        else:
            return None
        cut = slots.get(below + BELOW)
        star = slots.get(STAR + below + tail) or slots.get(STAR + below + OTHER)
        if (slot := cut or star) is not None:
            return slot
        while (slot := slots.get(below + NXDOMAIN)) is None and len(below) > 1:
            below = parent(below)
        return slot

    def _options(self, asked: Edns | None, scope: int, source: bytes) -> tuple[bytes, bool]:
        if asked is None:
            return b"", False
        options, shown = b"", False
        if asked.subnet is not None:
            options = edns.subnet_option(asked.subnet, scope)
        if asked.cookie is not None:
            cookie, shown = self._cookie(asked.cookie, source)
            options += COOKIE_HEADER + cookie
        if asked.wants_nsid and self.identity:
            options += edns.option(edns.NSID, self.identity)
        return options, shown

    def _limited(self, ruling: Ruling, query: Query, source: bytes) -> bytes | None:
        self.events["limited"] += 1
        if ruling is Ruling.DROP:
            return None
        options, _ = self._options(query.edns, 0, source)
        return self._assemble(query, Answer(flags=TC), options)

    def _assemble(self, query: Query, answer: Answer, options: bytes, rcode: int = 0) -> bytes:
        questions = 1 if query.question else 0
        copied = query.flags & (RD | CD | OPCODE)
        counts = (questions, answer.answers, answer.authorities, answer.additionals)
        asked = query.edns
        opt = b""
        if asked is not None:
            opt = edns.opt_record(options, dnssec_ok=asked.dnssec_ok, rcode=rcode)
        head = struct.pack("!5H", QR | answer.flags | copied, *counts[:3], counts[3] + bool(opt))
        return query.id + head + query.question + answer.body + opt


ANY_PICK = -1  # of the entry that a slot has for ANY
NOT_ASKED = frozenset({OTHER, BELOW, NXDOMAIN})  # tails of keys that are no questions
COOKIE_HEADER = b"\x00\x0a\x00\x18"


def network_of(source: bytes) -> bytes:
    """What the rate limit counts by: the /24 or /56 of a packed address."""
    return source[: NETWORK_OCTETS[len(source)]]


def _limit(asked: Edns | None, shown: bool) -> int:
    """The most octets to send by UDP: 512 to an address that may be spoofed."""
    if asked is None or not shown:
        return PLAIN_SIZE
    return min(asked.size, UDP_SIZE)


def _plain(key: bytes) -> bool:
    """Whether the short way may serve this key: it is a question, and lower-casing another
    type or class cannot yield its octets."""
    return key[-4:] not in NOT_ASKED and not any(0x61 <= octet <= 0x7A for octet in key[-4:])
