"""Response-rate limiting: how much one network may make us send to it without a cookie.

A spoofed source is a victim, so the limit counts what *leaves* per source network (/24 or
/56), in windows of a second. Every `slip`-th reply over the limit goes out truncated and
empty: an honest client behind the same network then asks again by TCP, which cannot be
spoofed. One network always meets the same process, so nobody gets more than the limit; of
more than 65,536 networks within a second some share a meter of `fast.c`, and get less.
"""

from dataclasses import dataclass, field
from enum import Enum

NETWORK_OCTETS = {4: 3, 16: 7}  # of a packed address: /24 and /56


class Ruling(Enum):
    SEND = "send"
    SLIP = "slip"  # answer truncated and empty
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Replies a second to one network. errors: the share that may be NXDOMAIN, FORMERR or
    another error, which floods of random names are made of. slip: 0 never slips."""

    responses: int = 1000
    errors: int = 100
    slip: int = 2


@dataclass
class Window:
    """One second of counts; memory is bounded by the networks that asked within it."""

    limit: RateLimit
    second: int = 0
    sent: dict[bytes, int] = field(default_factory=dict)
    failed: dict[bytes, int] = field(default_factory=dict)

    def turn(self, now: float) -> None:
        """Start a new window if a second has begun."""
        second = int(now)
        if second != self.second:
            self.second = second
            self.sent.clear()
            self.failed.clear()

    def rule(self, network: bytes, *, error: bool) -> Ruling:
        """Count one reply to `network` and say what becomes of it."""
        count = self.sent[network] = self.sent.get(network, 0) + 1
        over = count - self.limit.responses
        if error:
            count = self.failed[network] = self.failed.get(network, 0) + 1
            over = max(over, count - self.limit.errors)
        if over <= 0:
            return Ruling.SEND
        slip = self.limit.slip
        return Ruling.SLIP if slip and over % slip == 0 else Ruling.DROP
