"""What the drill of a hand-over measures, without sockets or clock.

A client of the pair (`lbctl.ha.probe`) opens a connection every few milliseconds, holds some
more, and tells in *beats* what became of them:

* A probe is lost where its connection was not open within `PATIENCE`, which is shorter than
  TCP's first retransmission: one lost packet is one lost probe.
* A held connection is lost where it broke, or where nothing was heard of its server since
  the hand-over although TCP asked every second. One that its server closed is not: any
  server may do that.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from lbctl.messages import Role

PATIENCE = 0.5  # seconds; RFC 6298's first retransmission comes after one
MARGIN = 0.2  # seconds that a beat may need from the client to here
CLOSED = "closed"  # by its server
UNHEARD = "nothing heard of its server"
KEPT = 20  # drills that a gateway remembers


class Beat(msgspec.Struct, frozen=True):
    """What the client saw since its last beat. probes: when each was begun, in seconds of its
    clock, and why it was lost ("": it was not). held: of every held connection, milliseconds
    since its server was heard, and "" or how it ended."""

    probes: tuple[tuple[float, str], ...] = ()
    held: tuple[tuple[int, str], ...] = ()


class Passage(msgspec.Struct, frozen=True):
    """One hand-over. took: seconds until the other one was active. gap: the longest time, in
    seconds, in which no probe that was begun was answered. broken: held connections that were
    lost; closed: by their servers. reasons: of what was lost."""

    took: float
    probes: int = 0
    lost: int = 0
    gap: float = 0.0
    connections: int = 0
    broken: int = 0
    closed: int = 0
    reasons: Mapping[str, int] = {}

    @property
    def unhurt(self) -> bool:
        return self.probes > 0 and not (self.lost or self.broken)


class Drill(msgspec.Struct, frozen=True):
    """The record of a drill. at: wall clock, in seconds since the epoch. via: the client.
    back: null where the addresses stay with the peer. failed: what did not happen."""

    router: str
    peer: str
    via: str
    targets: tuple[str, ...]
    there: Passage
    back: Passage | None = None
    failed: str = ""
    by: str = ""
    at: float = 0.0

    @property
    def unhurt(self) -> bool:
        passages = [self.there] if self.back is None else [self.there, self.back]
        return not self.failed and all(one.unhurt for one in passages)


@dataclass
class Tally:
    """Beats of one hand-over. since: when it began, on the clock that `take` is called with.
    held: as they were when it began."""

    since: float
    held: tuple[tuple[int, str], ...]
    probes: list[tuple[float, str]] = field(default_factory=list)
    done: float | None = None  # when the other one was active
    _now: tuple[tuple[int, str], ...] = ()
    _at: float = 0.0

    def take(self, beat: Beat, now: float) -> None:
        self.probes += beat.probes
        self._now, self._at = beat.held, now

    @property
    def told(self) -> bool:
        """Whether the client spoke for long enough after it: probes in flight are known."""
        return self.done is not None and self._at >= self.done + PATIENCE + MARGIN

    @property
    def settled(self) -> bool:
        """Whether all that can be known is: every held connection, too."""
        return self.told and not any(self._unheard(one) for one in self._now)

    def passage(self) -> Passage:
        words = [word for _, word in self._outcomes()]
        broken = [word for word in words if word not in ("", CLOSED)]
        lost = [why for _, why in self.probes if why]
        return Passage(
            took=(self.done if self.done is not None else self._at) - self.since,
            probes=len(self.probes),
            lost=len(lost),
            gap=longest_gap(self.probes),
            connections=len(words),
            broken=len(broken),
            closed=words.count(CLOSED),
            reasons=dict(Counter([*lost, *broken])),
        )

    def _outcomes(self) -> Iterable[tuple[int, str]]:
        """Of those that were open when it began."""
        for before, after in zip(self.held, self._now, strict=True):
            if not before[1]:
                yield after if not self._unheard(after) else (after[0], UNHEARD)

    def _unheard(self, one: tuple[int, str]) -> bool:
        done = self.done if self.done is not None else self.since
        return not one[1] and one[0] / 1000 > self._at - done - MARGIN


def longest_gap(probes: Sequence[tuple[float, str]]) -> float:
    """From the first of a row of lost probes to the next one that was answered."""
    longest, since, at = 0.0, None, 0.0
    for at, why in sorted(probes):
        if why and since is None:
            since = at
        if since is not None:
            longest = max(longest, at - since)
        if not why:
            since = None
    return longest


def obstacle(role: Role, peer: str, line: Mapping[str, object]) -> str:
    """Why a hand-over would not be a drill; "": it would. peer: who was heard last; line: the
    daemon's `/v1/replication`."""
    if role is not Role.ACTIVE:
        other = f", {peer} is active" if peer else ""
        return f"this gateway is not Active: it is {role}{other}"
    if not line["configured"]:
        return "" if peer else "there is no Backup: no other gateway was ever heard"
    if not line["connected"]:
        return f"there is no Backup: no line to {line['peer']}"
    if not line["copied"]:
        return f"the peer is not synced: {line['node']} does not hold all of this gateway's flows"
    return ""


def tell(drill: Drill) -> str:
    """In one line, the router aside."""
    text = f"drill: to {drill.peer or 'the peer'} {_told(drill.there)}"
    if drill.back is not None:
        text += f"; back {_told(drill.back)}"
    return text + (f"; {drill.failed}" if drill.failed else "")


def _told(one: Passage) -> str:
    lost = f"{one.lost} of {one.probes} probes and {one.broken} of {one.connections} connections"
    gap = f", {one.gap * 1000:.0f} ms without an answer" if one.lost else ""
    reasons = ", ".join(f"{why} ({number})" for why, number in one.reasons.items())
    return f"in {one.took:.2f} s: {lost} lost{gap}" + (f": {reasons}" if reasons else "")
