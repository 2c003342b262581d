"""A bare real-time timer: `python -m bench.control.timer PERIOD SECONDS`.

What it misses, no process of this machine could have kept. Prints one JSON list of
[start, end] of the gaps that were longer than twice the period (CLOCK_MONOTONIC).
"""

import json
import select
import sys
import time

from lbctl.vrrp import realtime


def main(period: float, seconds: float) -> None:
    realtime.be_on_time(50)
    realtime.freeze()
    timer = realtime.Timer()
    poll = select.epoll()
    poll.register(timer.fileno(), select.EPOLLIN)
    gaps: list[tuple[float, float]] = []
    last = time.monotonic()
    end, due = last + seconds, last + period
    while last < end:
        timer.set(due)
        poll.poll()
        timer.rest()
        now = time.monotonic()
        if now - last > 2 * period:
            gaps.append((last, now))
        last, due = now, max(due + period, now)
    print(json.dumps(gaps))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]))
