"""A data path's counters by the names that people know: pure.

The data path counts by listen and endpoint; people ask for services and servers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lbctl.dataplane.port import Active, Counters, Stats
from lbctl.desired import Decision
from lbctl.model import Endpoint, Frontend, Service

NOTHING = Counters()


@dataclass(frozen=True, slots=True)
class Total:
    """One server's or service's sums.

    established: connections in full swing; None where nobody can know. source: where that
    number comes from.
    """

    counters: Counters = NOTHING
    established: int | None = None
    embryonic: int = 0
    closing: int = 0
    source: str = ""

    @property
    def open(self) -> int | None:
        """Connections that a drain waits for: those being made and half closed included."""
        if self.established is None:
            return None
        return self.established + self.embryonic + self.closing

    def __add__(self, other: "Total") -> "Total":
        known = [n for n in (self.established, other.established) if n is not None]
        return Total(
            self.counters + other.counters,
            sum(known) if known else None,
            self.embryonic + other.embryonic,
            self.closing + other.closing,
            self.source or other.source,
        )


def totals(
    service: Service, decisions: Iterable[Decision], stats: Stats
) -> list[tuple[Decision, Total]]:
    """Each server of `service` with its sums over all listens."""
    quiet = service.drain.quiet
    return [
        (one, total([(f, one.server.endpoint(f)) for f in service.listens], stats, quiet))
        for one in decisions
    ]


def service_total(service: Service, servers: Iterable[Total], stats: Stats) -> Total:
    """A service's sums: what its servers count, and what those that are gone had counted."""
    past = (stats.past.get(frontend, NOTHING) for frontend in service.listens)
    return whole((*servers, *map(Total, past)))


def total(places: Iterable[tuple[Frontend, Endpoint]], stats: Stats, quiet: float) -> Total:
    """The sums over `places`. quiet: as in `Active.after`."""
    return whole(
        _with_active(stats.servers.get(place, NOTHING), stats.active.get(place), quiet)
        for place in places
    )


def whole(parts: Iterable[Total]) -> Total:
    result: Total | None = None
    for part in parts:
        result = part if result is None else result + part
    return Total() if result is None else result


def _with_active(counters: Counters, active: Active | None, quiet: float) -> Total:
    if active is None:
        return Total(counters)
    return Total(counters, active.after(quiet), active.embryonic, active.closing, active.source)
