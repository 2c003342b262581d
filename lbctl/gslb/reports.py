"""What gateways and observers tell each other, once a second, over mutual TLS.

    GET /v1/site  ->  SiteReport as JSON

One report says how the site does, what this observer sees of the others, and what it
measured; so one connection per pair carries everything.
"""

from dataclasses import replace
from ipaddress import ip_network
from typing import Annotated

import msgspec

from lbctl.gslb.model import Member
from lbctl.gslb.networks import key_of
from lbctl.gslb.policy import Standing
from lbctl.health.judge import Health
from lbctl.model import Network

LONGEST = 60.0  # seconds; no round trip is longer, and what says so is no measurement
MOST_TIMES = 1024  # client networks in one report

Load = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
Times = Annotated[dict[str, float], msgspec.Meta(max_length=MOST_TIMES)]


class ServiceState(msgspec.Struct, frozen=True):
    """A service at the site. up: a server is scheduled. load: as the agents of its servers
    say; a share of what they can."""

    up: bool
    connections: Count = 0
    load: Load = 0.0


class Sighting(msgspec.Struct, frozen=True):
    """What an observer sees of a site."""

    health: Health
    why: str = ""


class DrainOrder(msgspec.Struct, frozen=True):
    """Whether a site drains. at: Unix seconds of the order; the latest wins everywhere."""

    draining: bool
    at: Annotated[float, msgspec.Meta(ge=0, le=1 << 40)]
    reason: str = ""


class SiteReport(msgspec.Struct, frozen=True):
    """load: share of the site's capacity. times: measured round trips in seconds, by
    client network. gateway: whether it says how a gateway's services do; a GSLB server that
    has no word of the daemon beside it knows nothing of them, which is not that there are
    none."""

    name: str
    services: dict[str, ServiceState] = {}
    load: Load = 0.0
    sites: dict[str, Sighting] = {}
    drains: dict[str, DrainOrder] = {}
    times: Times = {}
    gateway: bool = True

    @property
    def connections(self) -> int:
        return sum(service.connections for service in self.services.values())


class Unintelligible(ValueError):
    """Not a report."""


def encode(report: SiteReport) -> bytes:
    return msgspec.json.encode(report)


def decode(data: bytes) -> SiteReport:
    """Raises Unintelligible, and nothing else."""
    try:
        report = msgspec.json.decode(data, type=SiteReport)
        check_times(report.times)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unintelligible(str(error)) from None
    return report


def check_times(times: dict[str, float]) -> None:
    """Raises ValueError: a network that no table can hold, or a time that is none."""
    for text, seconds in times.items():
        key_of(ip_network(text))
        if not 0 < seconds <= LONGEST:
            raise ValueError(f"{text}: {seconds:g} s is no round trip (0 to {LONGEST:g} s)")


def newer(one: dict[str, DrainOrder], two: dict[str, DrainOrder]) -> dict[str, DrainOrder]:
    """The later order for each site."""
    merged = dict(one)
    for site, order in two.items():
        if site not in merged or merged[site].at < order.at:
            merged[site] = order
    return merged


def service_standing(member: Member, reports: list[SiteReport], site: Standing) -> Standing:
    """A member's standing by its service: up where any gateway of the site has it up. A
    site whose gateways all keep silent is judged by its VIPs alone."""
    if not reports:
        return site
    found = [one.services[member.service] for one in reports if member.service in one.services]
    if any(service.up for service in found):
        load = max(site.load, *(service.load for service in found))
        return replace(site, load=round(load, 2))
    why = f"{member.service}: no server" if found else f"{member.service}: not there"
    return Standing(up=False, load=site.load, why=why)


def networks_of(report: SiteReport) -> dict[Network, float]:
    """The measured networks of a report."""
    return {ip_network(text): seconds for text, seconds in report.times.items()}
