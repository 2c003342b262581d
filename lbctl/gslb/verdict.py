"""Which sites are alive: the words of observers, counted.

Every observer has its own view of every site (`Sight`), and tells it to the others with
each report. A site is dead when at least `needed` of the observers outside it say `down`,
each within `silent_after` seconds. The majority is of those *configured*: an observer that
is silent, or that only we cannot hear, counts as nobody's vote.

So in a split the side with the majority takes the other side's sites out of its answers,
and the side without it changes nothing: it goes on answering with what it last knew, which
is the better half of a bad choice, because resolvers on either side ask whom they reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lbctl.gslb.model import Observers
from lbctl.health.judge import Health, Track, judge
from lbctl.model import Timing


@dataclass(frozen=True, slots=True)
class Word:
    """What one observer says of a site. at: monotonic seconds, when we heard it. lasts:
    seconds for which it counts at least, because the next word comes no sooner."""

    health: Health
    at: float
    why: str = ""
    lasts: float = 0.0

    def counts(self, silent_after: float, now: float) -> bool:
        """Whether it is still the observer's word."""
        return now - self.at <= max(silent_after, self.lasts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the observers together say."""

    alive: bool
    why: str


@dataclass(frozen=True, slots=True)
class Sight:
    """Our own view of a site, folded from what each look saw."""

    track: Track = field(default_factory=Track)
    why: str = ""

    def look(self, passed: bool, why: str, timing: Timing) -> "Sight":
        """After one more look; `why` is what it saw."""
        track = judge(self.track, passed, timing)
        changed = track.health is not self.track.health or not self.why
        return Sight(track, why if changed else self.why)


def needed(observers: Observers, site: str) -> int:
    """How many must say `down`."""
    return observers.quorum or len(observers.outside(site)) // 2 + 1


def verdict(site: str, words: Mapping[str, Word], observers: Observers, now: float) -> Verdict:
    """Whether `site` is alive, by the `words` of observers."""
    outside = observers.outside(site)
    fresh = {
        name: word
        for name, word in words.items()
        if name in outside and word.counts(observers.silent_after, now)
    }
    down = sorted(name for name, word in fresh.items() if word.health is Health.DOWN)
    need = needed(observers, site)
    count = f"{len(down)} of {len(outside)} observers, {need} needed"
    if len(down) >= need:
        whys = ", ".join(sorted({fresh[name].why for name in down if fresh[name].why}))
        return Verdict(False, f"{count}: {whys}" if whys else count)
    if down:
        return Verdict(True, f"{', '.join(down)} cannot reach it, but {count}")
    silent = sorted(outside - fresh.keys())
    return Verdict(True, f"no word from {', '.join(silent)}" if silent else "")
