"""How this gateway's site does, in the words in which GSLB servers ask. Pure."""

from collections.abc import Iterable
from statistics import fmean

from lbctl.daemon.shapes import AgentView, ServiceView
from lbctl.gslb.reports import ServiceState, SiteReport

SPEAKS = "speaks"


def site_report(
    name: str, services: Iterable[ServiceView], agents: Iterable[AgentView]
) -> SiteReport:
    """The report of the gateway `name`.

    The load of a service is the mean of its servers' loads, that of the site the mean of all
    servers'; a server's is its CPU or its memory, whichever is fuller. Servers without an
    agent, or with a silent one, say nothing.
    """
    loads: dict[str, list[float]] = {}
    for agent in agents:
        shares = [share for share in (agent.cpu, agent.memory) if share is not None]
        if agent.state == SPEAKS and shares:
            loads.setdefault(agent.server.partition("/")[0], []).append(max(shares))
    states = {
        one.name: ServiceState(one.scheduled > 0, one.connections or 0, _mean(loads.get(one.name)))
        for one in services
    }
    return SiteReport(name, states, _mean([load for found in loads.values() for load in found]))


def _mean(loads: list[float] | None) -> float:
    return round(fmean(loads), 3) if loads else 0.0
