"""`make bench-connections`: what becomes of 600 connections, half of them idle, when their
gateway falls, comes back, and is stopped; into bench/out/connections.json.

lbctl on XDP with `mh` and with `rr`, replication running, beside keepalived + conntrackd over
nftables' DNAT, in turns within one run at 100 ms adverts. One part a product:

    make bench-connections ARGS='mh rr conntrackd'
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

from bench.control.conntrackd import ConntrackdPair, missing
from bench.report import Report, write_parts
from lbctl.lab import Lab, standard
from tests.lab.failover.pair import Pair, calling

NAME = "connections"
LONG, IDLE, RATE = 300, 300, 20.0
BEFORE = 1.0  # seconds of traffic before each act: more than any lag


class Acts(Protocol):
    """What can happen to the first gateway; each returns once the other has taken over, or
    it has the addresses again and the other its copy."""

    def crash(self) -> None: ...
    def come_back(self) -> None: ...
    def stop(self) -> None: ...
    def start_again(self) -> None: ...


class LbctlActs:
    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def crash(self) -> None:
        self._pair.one.crash()
        self._pair.taken_over()

    def come_back(self) -> None:
        self._pair.one.come_back()
        self._pair.one.synced()
        self._pair.taken_back()

    def stop(self) -> None:
        self._pair.one.stop_vrrp()
        self._pair.taken_over()

    def start_again(self) -> None:
        self._pair.one.start_vrrp()
        self._pair.taken_back()


@contextmanager
def ours(scheduler: str) -> Iterator[tuple[Lab, Acts]]:
    with tempfile.TemporaryDirectory() as home, Lab(standard(servers=3, gateways=2)) as lab:
        pair = Pair(lab, scheduler, Path(home))
        try:
            pair.start()
            yield lab, LbctlActs(pair)
        finally:
            pair.close()


@contextmanager
def theirs() -> Iterator[tuple[Lab, Acts]]:
    with Lab(standard(servers=3, gateways=2)) as lab:
        pair = ConntrackdPair(lab)
        try:
            pair.start()
            yield lab, pair
        finally:
            pair.close()


def measure(
    report: Report,
    name: str,
    stand: Callable[[], AbstractContextManager[tuple[Lab, Acts]]],
    limit: int | None = None,
) -> None:
    """limit: connections that may be lost in all; None: it is only told."""
    with stand() as (lab, acts), calling(lab, LONG, IDLE, RATE) as caller:
        lost = 0
        for act, do in (
            ("crash", acts.crash),
            ("return", acts.come_back),
            ("graceful stop", acts.stop),
            ("another return", acts.start_again),
        ):
            time.sleep(BEFORE)
            do()
            caller.round()
            now = len(caller.lost())
            report.case(f"{name}, {act}: lost of {LONG + IDLE}", [now - lost], "connections")
            lost = now
        counted = caller.end()
        lost = len(caller.lost())  # the idle ones ask at the end
    report.case(f"{name}: lost in all", [lost], "connections", open=counted["open"])
    if limit is not None:
        report.target(f"{name}: connections lost in all", lost, "", "<=", limit)
        report.target(f"{name}: open at the end", counted["open"], "", "==", LONG + IDLE)


PARTS: dict[str, Callable[[Report], None]] = {
    "mh": partial(measure, name="lbctl mh", stand=partial(ours, "mh"), limit=0),
    "rr": partial(measure, name="lbctl rr", stand=partial(ours, "rr"), limit=0),
    "conntrackd": partial(measure, name="keepalived + conntrackd", stand=theirs),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"{', '.join(unknown)}: none of {' '.join(PARTS)}")
    if lacking := missing():
        parser.error(f"{', '.join(lacking)}: not installed (make setup-test)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # `timeout`: take all down first
    return int(write_parts(NAME, PARTS, options.parts or PARTS) > 0)


if __name__ == "__main__":
    sys.exit(main())
