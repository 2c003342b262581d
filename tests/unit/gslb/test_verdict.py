"""Who is dead, and who may say so."""

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.gslb.model import Api, Gslb, Member, Name, Observers, Policy, Site, Zone
from lbctl.gslb.overview import Overview
from lbctl.gslb.policy import Standing
from lbctl.gslb.reports import (
    DrainOrder,
    ServiceState,
    SiteReport,
    Unintelligible,
    decode,
    encode,
    newer,
    service_standing,
)
from lbctl.gslb.reports import Sighting as Seen
from lbctl.gslb.verdict import Word, needed, verdict
from lbctl.health.judge import Health
from lbctl.model import Endpoint, Timing

UP, DOWN = Health.UP, Health.DOWN
API = Api(Endpoint.parse("192.0.2.1:8443"), "peer")


def observers(*names: str, quorum: int = 0) -> Observers:
    me, *peers = names
    return Observers(me, dict.fromkeys(peers, API), quorum)


THREE = observers("seoul", "tokyo", "frankfurt")


@pytest.mark.parametrize(
    ("who", "site", "need"),
    [
        (THREE, "tokyo", 2),  # both of the two outside it
        (observers("seoul", "tokyo", "w1", "w2"), "tokyo", 2),
        (observers("seoul", "tokyo", "witness"), "tokyo", 2),
        (observers("a", "b", "c", "d"), "elsewhere", 3),
        (observers("local", quorum=1), "tokyo", 1),
        (observers("tokyo", quorum=1), "tokyo", 1),  # nobody outside: its own word
    ],
)
def test_a_majority_of_the_configured_observers_outside(who, site, need) -> None:
    assert needed(who, site) == need


def words(**healths: Health) -> dict[str, Word]:
    return {name: Word(health, 100.0) for name, health in healths.items()}


def test_one_of_two_observers_cannot_end_a_site() -> None:
    found = verdict("tokyo", words(seoul=DOWN, frankfurt=UP), THREE, 100.0)
    assert found.alive
    assert found.why == "seoul cannot reach it, but 1 of 2 observers, 2 needed"


def test_both_can() -> None:
    assert not verdict("tokyo", words(seoul=DOWN, frankfurt=DOWN), THREE, 100.0).alive


def test_a_site_has_no_say_in_its_own_death() -> None:
    assert verdict("tokyo", words(seoul=DOWN, tokyo=DOWN), THREE, 100.0).alive


def test_stale_words_are_nobodys() -> None:
    old = words(seoul=DOWN, frankfurt=DOWN)
    assert not verdict("tokyo", old, THREE, 105.0).alive
    assert verdict("tokyo", old, THREE, 105.1).alive


def test_our_own_word_counts_until_our_next_look() -> None:
    overview = Overview(replace(GSLB, observers=observers("local", quorum=1)))
    slow = Timing(interval=30.0, timeout=1.0, fall=1)
    overview.looked("tokyo", False, "refused", slow, 100.0)
    assert not overview.weather(131.0).standings["tokyo", ""].up
    assert overview.weather(163.0).standings["tokyo", ""].up  # we stopped looking


sides = st.sets(st.sampled_from("abcde"), max_size=5)


@settings(deadline=None)
@given(sides)
def test_in_a_split_only_one_side_can_end_the_other(side) -> None:
    """Every observer calls all sites down whose side it is not on."""
    everyone = set("abcde")
    ended = []
    for group in (side, everyone - side):
        for me in group:
            who = observers(me, *sorted(everyone - {me}))
            heard = {name: Word(DOWN, 0.0) for name in group}
            ended += [(me, s) for s in everyone - group if not verdict(s, heard, who, 0.0).alive]
    winners = {me for me, _ in ended}
    assert not (winners & side and winners & (everyone - side))


# --- the overview -----------------------------------------------------------------------

SITES = {"seoul": Site(apis=(API,)), "tokyo": Site(apis=(API,), capacity=100), "cdn": Site()}
NAME = Name(b"\3www\0", "p", (Member("tokyo", service="web"), Member("cdn")), ttl=30)
GSLB = Gslb((Zone(b"\0", (), (NAME,)),), SITES, {"p": Policy()}, observers=THREE)
ONCE = Timing(fall=1, rise=1)


def report(*, up: bool = True, connections: int = 0, **more: object) -> SiteReport:
    return SiteReport("tokyo", {"web": ServiceState(up, connections)}, **more)  # type: ignore[arg-type]


def test_a_service_without_servers_is_down_while_its_site_is_up() -> None:
    overview = Overview(GSLB)
    overview.reported("tokyo", 0, report(up=False), 10.0)
    standings = overview.weather(10.0).standings
    assert standings["tokyo", ""].up
    assert standings["tokyo", "web"] == Standing(False, why="web: no server")
    assert overview.weather(15.1).standings["tokyo", "web"].up  # silent: the VIPs decide


def test_any_gateway_of_a_site_is_enough() -> None:
    overview = Overview(GSLB)
    overview.reported("tokyo", 0, report(up=False), 10.0)
    overview.reported("tokyo", 1, report(up=True), 10.0)
    assert overview.weather(10.0).standings["tokyo", "web"].up


def test_load_is_the_agents_word_or_connections_over_capacity() -> None:
    overview = Overview(GSLB)
    overview.reported("tokyo", 0, report(connections=80, load=0.3), 10.0)
    assert overview.weather(10.0).standings["tokyo", ""].load == 0.8
    overview.reported("tokyo", 0, report(connections=80, load=0.9), 10.0)
    assert overview.weather(10.0).standings["tokyo", ""].load == 0.9


def test_words_of_peers_and_our_own_make_the_weather() -> None:
    overview = Overview(GSLB)
    overview.looked("tokyo", False, "refused", ONCE, 10.0)
    assert overview.weather(10.0).standings["tokyo", ""].up
    overview.heard("frankfurt", SiteReport("frankfurt", sites={"tokyo": Seen(DOWN, "late")}), 10.0)
    standing = overview.weather(10.0).standings["tokyo", ""]
    assert not standing.up
    assert standing.why == "2 of 2 observers, 2 needed: late, refused"


def test_the_latest_order_about_a_drain_wins_everywhere() -> None:
    overview = Overview(GSLB)
    overview.heard("tokyo", SiteReport("tokyo", drains={"tokyo": DrainOrder(True, 5.0)}), 0.0)
    assert overview.weather(0.0).standings["tokyo", ""].draining
    overview.heard("tokyo", SiteReport("tokyo", drains={"tokyo": DrainOrder(False, 4.0)}), 0.0)
    assert overview.weather(0.0).standings["tokyo", ""].draining
    assert newer({"s": DrainOrder(True, 1.0)}, {"s": DrainOrder(False, 2.0)})["s"].at == 2.0


def test_a_server_without_a_word_of_its_daemon_says_nothing_of_services() -> None:
    overview = Overview(GSLB)
    overview.reported("tokyo", 0, SiteReport("tokyo", load=0.4, gateway=False), 10.0)
    assert overview.weather(10.0).standings["tokyo", "web"] == Standing(load=0.4)
    overview.reported("tokyo", 0, report(up=False), 11.0)
    assert overview.weather(11.0).standings["tokyo", "web"].why == "web: no server"
    overview.reported("tokyo", 0, SiteReport("tokyo"), 12.0)
    assert overview.weather(12.0).standings["tokyo", "web"].why == "web: not there"


def test_orders_about_sites_that_there_are_not_are_nobodys() -> None:
    overview = Overview(GSLB)
    orders = {site: DrainOrder(True, 1.0) for site in ("tokyo", "atlantis")}
    overview.heard("tokyo", SiteReport("tokyo", drains=orders), 0.0)
    overview.reported("tokyo", 0, SiteReport("tokyo", drains=orders), 0.0)
    assert list(overview.drains) == ["tokyo"]


def test_an_order_is_later_than_the_one_it_follows() -> None:
    overview = Overview(GSLB)
    ahead = {"tokyo": DrainOrder(True, 2_000.0)}  # by a server whose clock is ahead
    overview.heard("tokyo", SiteReport("tokyo", drains=ahead), 0.0)
    overview.ordered("tokyo", False, "", 1_000.0)
    overview.heard("tokyo", SiteReport("tokyo", drains=ahead), 0.0)
    assert not overview.drains["tokyo"].draining


def test_connections_are_unknown_where_no_gateway_counts_them() -> None:
    overview = Overview(GSLB)
    assert overview.connections("tokyo", 10.0) is None
    overview.reported("tokyo", 0, SiteReport("tokyo", gateway=False), 10.0)
    assert overview.connections("tokyo", 10.0) is None
    overview.reported("tokyo", 1, report(connections=7), 10.0)
    assert overview.connections("tokyo", 10.0) == 7
    assert overview.connections("tokyo", 60.0) is None


def test_reports_survive_the_wire_and_garbage_does_not() -> None:
    one = report(times={"198.18.0.0/15": 0.02}, drains={"tokyo": DrainOrder(True, 1.0, "why")})
    assert decode(encode(one)) == one
    for bad in (b"", b"{}", b"[" * 100000, b'{"name": "x", "times": {"nowhere": 1}}'):
        with pytest.raises(Unintelligible):
            decode(bad)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('"times": {"2001:db8::1/128": 0.02}', "longer than a /64"),
        ('"times": {"198.18.0.0/15": 1e308}', "is no round trip"),
        ('"times": {"198.18.0.0/15": -0.1}', "is no round trip"),
        ('"times": {"198.18.0.0/15": 0}', "is no round trip"),
        ('"load": -0.5', ">= 0.0"),
        ('"load": 1e300', "<= 1000.0"),
        ('"services": {"web": {"up": true, "connections": 1%s}}' % ("0" * 400), "number|int"),
        ('"services": {"web": {"up": true, "connections": -1}}', ">= 0"),
        ('"drains": {"tokyo": {"draining": true, "at": 1e300}}', "<= "),
    ],
)
def test_a_report_with_values_that_nobody_measured_is_refused(said, why) -> None:
    with pytest.raises(Unintelligible, match=why):
        decode(f'{{"name": "x", {said}}}'.encode())


def test_what_agents_feed_counts_beside_what_gateways_say_and_not_twice() -> None:
    overview = Overview(replace(GSLB, sites={"seoul": Site(capacity=100), "tokyo": Site()}))
    web = ServiceState(True, 60, 0.3)
    overview.reported("seoul", 0, SiteReport("gw", {"web": web}, 0.3), 1.0)
    overview.heard("seoul", SiteReport("seoul", {"web": web}, 0.2, times={"192.0.2.0/24": 0.03}),
                   1.0)  # fmt: skip
    weather = overview.weather(2.0)
    assert weather.standings["seoul", ""].load == 0.6  # 60 connections of 100, counted once
    overview.heard("seoul", SiteReport("seoul", {}, 0.8), 2.0)
    assert overview.weather(2.0).standings["seoul", ""].load == 0.8
    assert overview.weather(60.0).standings["seoul", ""].load == 0.0  # old words are nobody's
    assert weather.times == {ip_network("192.0.2.0/24"): {"seoul": 0.03}}


def test_a_member_has_the_load_of_its_service() -> None:
    member = Member("seoul", service="web")
    report = SiteReport("gw", {"web": ServiceState(True, 0, 0.95)}, 0.2)
    assert service_standing(member, [report], Standing(load=0.2)).load == 0.95
