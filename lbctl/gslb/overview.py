"""All that is known of the sites, and the weather that follows from it. No I/O.

Shells put in what they saw and heard (`reported`, `looked`, `heard`, `ordered`); `weather`
is a function of that, the configuration and the time.
"""

from dataclasses import dataclass, field

from lbctl.gslb.model import Gslb, Site
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.reports import (
    DrainOrder,
    Sighting,
    SiteReport,
    networks_of,
    newer,
    service_standing,
)
from lbctl.gslb.verdict import Sight, Verdict, Word, verdict
from lbctl.model import Network, Timing

SITE_TIMING = Timing(interval=1.0, timeout=1.0, fall=2, rise=2, fast_interval=0.5)


@dataclass(slots=True)
class Overview:
    """Facts about sites. Times are monotonic seconds.

    reports: the last of each gateway, by (site, number of the gateway), with its time.
    feeds: what a site's own GSLB server was told by agents there: load and times.
    """

    gslb: Gslb
    sights: dict[str, Sight] = field(default_factory=dict)
    reports: dict[tuple[str, int], tuple[SiteReport, float]] = field(default_factory=dict)
    feeds: dict[str, tuple[SiteReport, float]] = field(default_factory=dict)
    words: dict[tuple[str, str], Word] = field(default_factory=dict)  # (observer, site)
    drains: dict[str, DrainOrder] = field(default_factory=dict)

    def looked(self, site: str, passed: bool, why: str, timing: Timing, now: float) -> None:
        """We looked at `site` ourselves."""
        sight = self.sights.get(site, Sight()).look(passed, why, timing)
        self.sights[site] = sight
        me = self.gslb.observers.me
        # A look asks and then probes, each up to the timeout; twice that until the next is
        # late even on a busy machine.
        lasts = 2 * (timing.interval + timing.timeout)
        self.words[me, site] = Word(sight.track.health, now, sight.why, lasts)

    def reported(self, site: str, gateway: int, report: SiteReport, now: float) -> None:
        """A gateway of `site` told us how it does."""
        self.reports[site, gateway] = (report, now)
        self._orders(report)

    def heard(self, observer: str, report: SiteReport, now: float) -> None:
        """An observer told us what it sees."""
        for site, seen in report.sites.items():
            if site in self.gslb.sites:
                self.words[observer, site] = Word(seen.health, now, seen.why)
        self.fed(observer, report, now)
        self._orders(report)

    def fed(self, observer: str, report: SiteReport, now: float) -> None:
        """The GSLB server at a site said what agents told it."""
        if observer in self.gslb.sites:
            self.feeds[observer] = (SiteReport(observer, {}, report.load, times=report.times), now)

    def _orders(self, report: SiteReport) -> None:
        """Orders given elsewhere, about sites that there are."""
        known = {site: one for site, one in report.drains.items() if site in self.gslb.sites}
        self.drains = newer(self.drains, known)

    def ordered(self, site: str, draining: bool, reason: str, now: float) -> None:
        """An operator's word. now: Unix seconds; where another server's clock is ahead, the
        order is still later than the one it follows."""
        last = self.drains.get(site)
        at = now if last is None else max(now, last.at + 0.001)
        self.drains[site] = DrainOrder(draining, at, reason)

    def connections(self, site: str, now: float) -> int | None:
        """What the gateways of `site` count; None: none of them says."""
        counts = [report.connections for report in self.gateways(site, now)]
        return sum(counts) if counts else None

    def fresh(self, site: str, now: float) -> list[SiteReport]:
        """The reports of `site` that still count."""
        silent = self.gslb.observers.silent_after
        return [
            report
            for (name, _), (report, at) in self.reports.items()
            if name == site and now - at <= silent
        ]

    def gateways(self, site: str, now: float) -> list[SiteReport]:
        """Those of them that a gateway stands behind."""
        return [report for report in self.fresh(site, now) if report.gateway]

    def _all(self, site: str, now: float) -> list[SiteReport]:
        """The reports and the feed of `site` that still count."""
        feed, at = self.feeds.get(site, (SiteReport(site), now))
        silent = self.gslb.observers.silent_after
        return [*self.fresh(site, now), *([feed] if now - at <= silent else [])]

    def verdict(self, site: str, now: float) -> Verdict:
        """What the observers say of `site` together."""
        observers = self.gslb.observers
        words = {who: word for (who, what), word in self.words.items() if what == site}
        return verdict(site, words, observers, now)

    def weather(self, now: float) -> Weather:
        """Standings and times, as they follow from the facts."""
        standings: dict[tuple[str, str], Standing] = {}
        times: dict[Network, dict[str, float]] = {}
        for name, site in self.gslb.sites.items():
            reports = self._all(name, now)
            standings[name, ""] = self._site(name, site, reports, now)
            for report in reports:
                for network, seconds in networks_of(report).items():
                    times.setdefault(network, {})[name] = seconds
        for zone in self.gslb.zones:
            for balanced in zone.names:
                for member in balanced.members:
                    if member.service and member.site in self.gslb.sites:
                        site_standing = standings[member.site, ""]
                        standings[member.site, member.service] = service_standing(
                            member, self.gateways(member.site, now), site_standing
                        )
        return Weather(standings, times)

    def _site(self, name: str, site: Site, reports: list[SiteReport], now: float) -> Standing:
        judged = self.verdict(name, now) if _judged(site) else Verdict(True, "")
        order = self.drains.get(name)
        draining = order is not None and order.draining
        why = judged.why if not judged.alive else (order.reason if order and draining else "")
        load = max((report.load for report in reports), default=0.0)
        if site.capacity:
            load = max(load, sum(report.connections for report in reports) / site.capacity)
        return Standing(judged.alive, draining, _steps(load), why)

    def mine(self) -> dict[str, Sighting]:
        """What we tell others that we see."""
        return {
            site: Sighting(sight.track.health, sight.why) for site, sight in self.sights.items()
        }


def _judged(site: Site) -> bool:
    """Whether there is anything to judge a site by; else it is taken to be up."""
    return bool(site.apis or site.vips or site.check)


def _steps(load: float) -> float:
    """In hundredths: finer steps would rewrite answers that stay the same."""
    return round(load, 2)
