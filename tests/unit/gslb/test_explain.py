"""What is explained is what is answered."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from lbctl.errors import NotFound
from lbctl.gslb import regions
from lbctl.gslb.explain import explain, simulate
from lbctl.gslb.geo import Database, Kind
from lbctl.gslb.knowledge import Knowledge, learn
from lbctl.gslb.policy import Standing, Weather
from tests.unit.gslb.scene import GSLB, LAYER, NETWORKS, Server, ecs, opt, query
from tests.unit.gslb.test_responder import addresses, judge, scope

DATABASES = {
    Kind.CITY: Database("city", Kind.CITY, 1, 6, LAYER),
    Kind.ASN: Database("asn", Kind.ASN, 1, 6, LAYER),
}
DOWN = Weather({("tokyo", ""): Standing(up=False, why="test")})


@pytest.fixture(scope="module")
def known() -> Knowledge:
    return learn(GSLB, DATABASES)


@pytest.mark.parametrize("weather", [Weather(), DOWN])
@pytest.mark.parametrize("name", ["geo", "sticky", "first2", "spill", "img", "x.apps"])
def test_the_explanation_is_the_answer(known, name, weather) -> None:
    server = Server()
    server.weather(weather)
    maps = regions.read(memoryview(known.networks))
    for text in [*NETWORKS, "198.18.3.0/24", "203.0.113.0/24"]:
        network = ip_network(text)
        said = explain(known, maps, weather, f"{name}.gslb.example", ip_address("192.0.2.1"),
                       network)  # fmt: skip
        message = judge(server.ask(query(f"{name}.gslb.example", 1, opt(ecs(text)))))
        first = addresses(message)[0]
        assert first in [line.removeprefix("CNAME ") for line in said.answer], (text, said)
        assert scope(message) == said.scope, text


def test_unknown_names_say_which_are_known(known) -> None:
    maps = regions.read(memoryview(known.networks))
    with pytest.raises(NotFound, match=r"nope.*known: geo\.gslb\.example\."):
        explain(known, maps, Weather(), "nope.gslb.example", ip_address("192.0.2.1"))


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
    said = explain(bare, maps, Weather(), "geo.gslb.example", ip_address("198.18.3.9"))
    assert (said.answer, said.reasons) == (["198.51.100.3"], {"frankfurt": "cidr"})
