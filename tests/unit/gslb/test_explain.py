"""What is explained is what is answered."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from lbctl.errors import NotFound
from lbctl.gslb import regions
from lbctl.gslb.explain import explain, sample_of, simulate
from lbctl.gslb.geo import Database, Kind
from lbctl.gslb.knowledge import Knowledge, learn
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.wire import Type
from tests.unit.gslb.scene import GSLB, LAYER, NETWORKS, SEOUL6, Server, ecs, opt, query
from tests.unit.gslb.test_responder import addresses, judge, scope

DATABASES = {
    Kind.CITY: Database("city", Kind.CITY, 1, 6, LAYER),
    Kind.ASN: Database("asn", Kind.ASN, 1, 6, LAYER),
}
DOWN = Weather({("tokyo", ""): Standing(up=False, why="test")})

ALL_DOWN = Weather({(site, ""): Standing(up=False, why="test") for site in GSLB.sites})


@pytest.fixture(scope="module")
def known() -> Knowledge:
    return learn(GSLB, DATABASES)


NAMES = ["geo", "sticky", "first2", "spill", "img", "x.apps", "none", "static", "good"]


@pytest.mark.parametrize("weather", [Weather(), DOWN, ALL_DOWN])
@pytest.mark.parametrize("name", NAMES)
def test_the_explanation_is_the_answer(known, name, weather) -> None:
    compiler = known.compiler()
    maps = regions.read(memoryview(known.networks))
    server = Server()
    server.weather(weather)
    compiler.answers(Weather())  # a good moment, for `last-good`
    for text in [*NETWORKS, "198.18.3.0/24", "203.0.113.0/24"]:
        said = explain(known, compiler, maps, weather, f"{name}.gslb.example",
                       ip_address("192.0.2.1"), ip_network(text))  # fmt: skip
        asked = [server.ask(query(f"{name}.gslb.example", kind, opt(ecs(text))))
                 for kind in (Type.A, Type.AAAA)]  # fmt: skip
        answers = [judge(answer) for answer in asked]
        found = [one for message in answers for one in addresses(message)]
        wanted = [line.removeprefix("CNAME ") for line in said.answer]
        assert set(found) == set(wanted), (text, said)
        if wanted and not said.answer[0].startswith("CNAME"):
            assert scope(answers[0]) == said.scope, text


def test_a_client_that_hides_its_network_is_its_resolver(known) -> None:
    compiler, maps = known.compiler(), regions.read(memoryview(known.networks))
    for client, place in (("198.18.200.1", "JP"), ("198.19.0.1", "DE")):
        said = explain(known, compiler, maps, Weather(), "geo.gslb.example", ip_address(client),
                       ip_network("0.0.0.0/0"))  # fmt: skip
        assert (said.client, said.place["country"], said.scope) == (client, place, 0)


def test_a_simulation_takes_the_networks_that_there_are_and_no_gaps(known) -> None:
    assert simulate(known, Weather(), "geo.gslb.example").networks == len(NETWORKS)
    for most in (1, 2, 4, 5, 6):
        assert 1 <= len(sample_of(known, most)) <= most
    assert {one.version for one in sample_of(known, 100)} == {4, 6}


def test_unknown_names_say_which_are_known(known) -> None:
    maps = regions.read(memoryview(known.networks))
    client = ip_address("192.0.2.1")
    with pytest.raises(NotFound, match=r"nope.*known: geo\.gslb\.example\."):
        explain(known, known.compiler(), maps, Weather(), "nope.gslb.example", client)


def test_a_simulation_moves_only_the_clients_of_the_failed_site(known) -> None:
    now = simulate(known, Weather(), "geo.gslb.example")
    then = simulate(known, Weather(), "geo.gslb.example", failed="tokyo")
    assert now.countries["JP"] == {"tokyo": 1.0}
    assert then.countries["JP"] == {"seoul": 1.0}
    assert now.countries["DE"] == then.countries["DE"] == {"frankfurt": 1.0}
    assert now.providers["AS9318"] == {"tokyo": 1.0}
    assert sum(now.total.values()) == pytest.approx(1.0)
    with pytest.raises(NotFound, match="known: seoul, tokyo"):
        simulate(known, Weather(), "geo.gslb.example", failed="paris")


def test_a_configuration_without_databases_works_by_cidr_maps() -> None:
    bare = learn(replace(GSLB), {})
    maps = regions.read(memoryview(bare.networks))
    said = explain(bare, bare.compiler(), maps, Weather(), "geo.gslb.example",
                   ip_address("198.18.3.9"))  # fmt: skip
    assert (said.answer, said.reasons) == (["198.51.100.3", SEOUL6], {"frankfurt": "cidr"})
