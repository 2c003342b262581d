"""Lines that would come too often: the first, and then how many there were."""

from collections import Counter
from collections.abc import Hashable

SPAN = 10.0  # seconds between two lines about the same thing


class Seldom:
    """Keys are what lines are about. At most `limit` of them are remembered, so that a
    forger of addresses fills no memory."""

    def __init__(self, span: float = SPAN, limit: int = 256) -> None:
        self._span, self._limit = span, limit
        self._last: dict[Hashable, float] = {}
        self._held_back: Counter[Hashable] = Counter()

    def due(self, key: Hashable, now: float) -> int | None:
        """How many lines about `key` were held back since the last one; None: this one is
        held back too."""
        last = self._last.get(key)
        if last is not None and now - last < self._span:
            self._held_back[key] += 1
            return None
        if last is None and len(self._last) >= self._limit:
            self._last.clear()
            self._held_back.clear()
        self._last[key] = now
        return self._held_back.pop(key, 0)
