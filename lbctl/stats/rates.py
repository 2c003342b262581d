"""Two snapshots of counters, and what happened per second between them: pure."""

from collections.abc import Mapping


def rates(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> dict[str, float]:
    """Per second, by key. A counter that went back was started anew: it counts from zero."""
    if seconds <= 0:
        return dict.fromkeys(after, 0.0)
    return {
        key: (value - before.get(key, 0) if value >= before.get(key, 0) else value) / seconds
        for key, value in after.items()
    }
