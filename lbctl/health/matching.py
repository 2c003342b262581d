"""Searching what a server sent for what an operator wrote.

Who writes the one does not know the other, and some pairs take for ever: `\\s*\\s*ok` is
cubic in a run of blanks, `(a+)+$` exponential.
"""

import re
from itertools import repeat
from typing import AnyStr

SEARCHED = 4 << 10  # bytes
_AT_ONCE = 16  # places


def found(pattern: re.Pattern[AnyStr], text: AnyStr) -> bool:
    """Whether `pattern` matches somewhere in `text`.

    Place by place and not with one `search`: the matcher lets no signal in while it goes
    through places itself, and whoever calls may want to end it by one.
    """
    places = len(text) + 1
    for start in range(0, places, _AT_ONCE):
        here = range(start, min(start + _AT_ONCE, places))
        if any(map(pattern.match, repeat(text), here)):
            return True
    return False
