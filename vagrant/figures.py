"""From what programs printed to numbers: pure."""

import json
import re
from collections import Counter
from itertools import pairwise
from typing import NamedTuple

# [1700000000.123456] 64 bytes from 192.0.2.10: icmp_seq=7 ttl=64 time=1.23 ms
_REPLY = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) .*time=", re.MULTILINE)
_SENT = re.compile(r"^(\d+) packets transmitted", re.MULTILINE)


class Silence(NamedTuple):
    """seconds: the longest time without an answer. lost: questions in it that had none.
    watched: seconds from the first answer to the last."""

    seconds: float
    lost: int
    watched: float


def longest_silence(ping: str, interval: float) -> Silence:
    """From all that `ping -D` said; interval: seconds between questions. Raises ValueError: it
    has not ended, or there were fewer than two answers."""
    sent = _SENT.search(ping)
    if sent is None:
        raise ValueError(f"ping did not end: {ping[-300:]!r}")
    replies = sorted((float(at), int(number)) for at, number in _REPLY.findall(ping))
    if len(replies) < 2:
        raise ValueError(f"ping had {len(replies)} answers: {ping[-300:]!r}")
    watched = replies[-1][0] - replies[0][0]
    gaps = [
        Silence(after[0] - before[0], max(0, after[1] - before[1] - 1), watched)
        for before, after in pairwise(replies)
    ]
    # The silence that it ended in: there is no answer after it.
    last = max(0, int(sent[1]) - replies[-1][1])
    return max(*gaps, Silence(last * interval, last, watched))


class Held(NamedTuple):
    """What hold.py says at its end."""

    opened: int
    kept: int
    asked: int
    broken: dict[str, int]

    @property
    def words(self) -> str:
        why = "".join(f"; {count} x {reason}" for reason, count in self.broken.items())
        return f"{self.kept} of {self.opened} connections kept, {self.asked} answers{why}"


def held(text: str) -> Held:
    """From hold.py's last line. Raises ValueError."""
    lines = text.strip().splitlines()
    if not lines:
        raise ValueError("hold.py said nothing")
    said = json.loads(lines[-1])
    if "kept" not in said:
        raise ValueError(f"hold.py did not end: {lines[-1]}")
    return Held(said["opened"], said["kept"], said["asked"], said["broken"])


def answers(curl: str) -> Counter[str]:
    """Who answered how often: each answer is a server's name on a line."""
    return Counter(line for line in curl.split() if line)


def shared(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nobody"
