"""Counters by name: several listens, servers that are gone, numbers that nobody knows."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lbctl.dataplane.port import Active, Counters, Stats
from lbctl.desired import Decision, Rule
from lbctl.model import Drain, Endpoint, Listen, Server, ServerName, Service
from lbctl.stats.totals import service_total, totals

HTTP, HTTPS = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.10:443/tcp")
# Without a port a server has that of each listen.
SERVER = Server(ip_address("198.51.100.1"))
SERVICE = Service((HTTP, HTTPS), {"app1": SERVER})
DECISIONS = [Decision(ServerName("web", "app1"), SERVER, 1, Rule.WEIGHT, "")]
PLACES = {HTTP: Endpoint.parse("198.51.100.1:80"), HTTPS: Endpoint.parse("198.51.100.1:443")}


def test_a_servers_sums_are_over_all_its_listens() -> None:
    stats = Stats(
        servers={
            (HTTP, PLACES[HTTP]): Counters(1, 2, 3, 4, 5),
            (HTTPS, PLACES[HTTPS]): Counters(10),
        },
        active={(HTTP, PLACES[HTTP]): Active(3, "records", 1, 2)},
    )
    [(_, sums)] = totals(SERVICE, DECISIONS, stats)
    assert sums.counters == Counters(11, 2, 3, 4, 5)
    assert (sums.established, sums.open, sums.source) == (3, 6, "records")


def test_what_nobody_can_know_is_not_zero() -> None:
    stats = Stats(active={(HTTP, PLACES[HTTP]): Active(None, "")})
    [(_, sums)] = totals(SERVICE, DECISIONS, stats)
    assert sums.established is None
    assert sums.open is None


@pytest.mark.parametrize(("silent", "left"), [(0.0, 1), (59.0, 1), (60.0, 1), (61.0, 0), (None, 0)])
def test_who_has_been_silent_for_less_than_quiet_is_there(silent: float | None, left: int) -> None:
    service = replace(SERVICE, drain=Drain(quiet=60.0))
    stats = Stats(active={(HTTP, PLACES[HTTP]): Active(0, "estimate", silent=silent)})
    [(_, sums)] = totals(service, DECISIONS, stats)
    assert (sums.open, sums.source) == (left, "estimate")


def test_a_services_totals_do_not_fall_when_a_server_goes() -> None:
    before = Stats(servers={(HTTP, PLACES[HTTP]): Counters(7)})
    after = Stats(past={HTTP: Counters(7)})
    sums = [
        service_total(SERVICE, (t for _, t in totals(SERVICE, DECISIONS, stats)), stats)
        for stats in (before, after)
    ]
    assert [one.counters.connections for one in sums] == [7, 7]
