"""Rings: an allocation as a small table, so that picking is one index.

by turn   slot = a counter, for weighted and round robin: members interleave evenly
sticky    slot = hash of the client's prefix: a member that leaves moves only its own
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2s
from math import log

TURNS = 64  # shares are exact to 1/64
STICKY = 256  # slots of a sticky ring


def by_turn(shares: Mapping[int, float], size: int = TURNS) -> tuple[int, ...]:
    """Members interleaved by share (smooth weighted round robin). Every share gets a turn.

    One member: one slot. A power of two slots, so that a counter's low bits pick.
    """
    if len(shares) == 1:
        return tuple(shares)
    credit = dict.fromkeys(shares, 0)
    weights = _quantise(shares, size)
    ring = []
    for _ in range(size):
        for member, weight in weights.items():
            credit[member] += weight
        best = max(credit, key=lambda member: credit[member])
        credit[best] -= size
        ring.append(best)
    return tuple(ring)


def _quantise(shares: Mapping[int, float], size: int) -> dict[int, int]:
    """Whole turns that sum to `size`, at least one each (largest remainder)."""
    total = sum(shares.values())
    spare = size - len(shares)
    exact = {member: max(0.0, share / total * size - 1) for member, share in shares.items()}
    scale = spare / (sum(exact.values()) or 1.0)
    turns = {member: 1 + int(value * scale) for member, value in exact.items()}
    by_rest = sorted(exact, key=lambda member: -(exact[member] * scale % 1))
    for member in by_rest[: size - sum(turns.values())]:
        turns[member] += 1
    return turns


def sticky(shares: Mapping[int, float], names: Sequence[str]) -> tuple[int, ...]:
    """Weighted rendezvous hashing of STICKY slots over members named `names`."""
    if len(shares) == 1:
        return tuple(shares)
    draws = {member: _draws(names[member]) for member in shares}
    return tuple(
        max(shares, key=lambda member: shares[member] / draws[member][slot])
        for slot in range(STICKY)
    )


@lru_cache(maxsize=1024)
def _draws(name: str) -> tuple[float, ...]:
    """-ln of a uniform draw per slot, the same on every gateway."""
    return tuple(
        -log((int.from_bytes(blake2s(f"{name}/{slot}".encode(), digest_size=7).digest()) + 1)
             / (2**56 + 2))
        for slot in range(STICKY)
    )  # fmt: skip
