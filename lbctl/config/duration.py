"""Spans of time as a person writes them: `500ms`, `2s`, `5m`, `1h`, `2d`, or seconds."""

import re
from fractions import Fraction

_UNITS = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?)(ms|s|m|h|d)")


def seconds(value: object) -> float:
    """Seconds in `value`. Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value <= 1e12:
            raise ValueError(f"{value} is not a number of seconds")
        return float(value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a duration (write 500ms, 2s, 5m, 1h, or a number of seconds)")
    return float(Fraction(match[1]) * _UNITS[match[2]])


def show_duration(value: float) -> str | float:
    """The shortest form that `seconds()` reads back to exactly `value`."""
    if value == 0:
        return "0s"
    for unit, length in reversed(_UNITS.items()):
        count = Fraction(value) / length
        if count.denominator == 1 and 0 < count < 10**12 and (count < 1000 or unit == "d"):
            return f"{count}{unit}"
    if value == round(value, 3) and value < 10**9 and seconds(f"{value * 1000:.0f}ms") == value:
        return f"{value * 1000:.0f}ms"
    return value
