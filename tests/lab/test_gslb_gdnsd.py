"""gdnsd and lbctl on one database: the same region for 5,000 random clients."""

import random
import shutil
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import dns.message
import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPNetwork, IPSet

from bench.control.dns_peers import BY_COUNTRY, gdnsd, running
from lbctl.gslb.answers import Answers, read_names
from lbctl.gslb.cookie import Cookies
from lbctl.gslb.geo import Kind, load
from lbctl.gslb.knowledge import learn
from lbctl.gslb.model import (
    Attribute,
    Failover,
    Gslb,
    Healthy,
    Match,
    Member,
    Name,
    Policy,
    Record,
    Site,
    Zone,
)
from lbctl.gslb.policy import Weather
from lbctl.gslb.regions import read
from lbctl.gslb.responder import Responder
from lbctl.gslb.rrl import RateLimit
from lbctl.gslb.wire import name_to_wire
from tests.unit.gslb.scene import APEX, SOA, ecs, opt, query

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("gdnsd") is None, reason="no gdnsd: apt-get install gdnsd"),
]
ADDRESSES = {"seoul": "198.51.100.1", "tokyo": "198.51.100.2", "frankfurt": "198.51.100.3"}
CONTINENTS = {"KR": "AS", "JP": "AS", "DE": "EU", "FR": "EU", "US": "NA"}
PORT = 5391


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[IPNetwork]]:
    """Nested and neighbouring networks of all lengths."""
    rng = random.Random(1)
    writer = MMDBWriter(6, "GeoLite2-Country", ipv4_compatible=True)
    networks = []
    for _ in range(3000):
        length = rng.choice([8, 12, 16, 18, 20, 22, 24, 24, 24])
        address = rng.randrange(0x01000000, 0xDF000000)
        networks.append(IPNetwork(f"{ip_address(address)}/{length}").cidr)
    for network in sorted(networks, key=lambda one: one.prefixlen):
        country = rng.choice(list(CONTINENTS))
        record = {"country": {"iso_code": country}, "continent": {"code": CONTINENTS[country]}}
        writer.insert_network(IPSet([network]), record)
    path = tmp_path_factory.mktemp("gdnsd") / "country.mmdb"
    writer.to_db_file(str(path))
    return path, networks


def responder(path: Path) -> Responder:
    sites = {site: Site() for site in ADDRESSES}
    match = Match(Attribute.COUNTRY, {code: (site,) for code, site in BY_COUNTRY.items()})
    policies = {"geo": Policy((Healthy(), match, Failover()))}
    members = tuple(Member(site, (ip_address(a),)) for site, a in ADDRESSES.items())
    name = Name(name_to_wire("www0.gslb.example"), "geo", members, 60)
    records = (Record(APEX, 6, 60, SOA),)
    gslb = Gslb((Zone(APEX, records, (name,)),), sites, policies)
    known = learn(gslb, {Kind.COUNTRY: load(str(path), Kind.COUNTRY)})
    made = Responder(RateLimit(10**9, 10**9), Cookies(b"0" * 16))
    answers = Answers(memoryview(known.compiler().answers(Weather())))
    made.load(read_names(memoryview(known.names)), answers, read(memoryview(known.networks)))
    return made


@pytest.fixture
def judge(database, tmp_path) -> Iterator[socket.socket]:
    command = gdnsd(tmp_path / "gdnsd", database[0], 1, PORT)
    with (
        running(command, tmp_path / "log", PORT),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.connect(("127.0.0.1", PORT))
        client.settimeout(2.0)
        yield client


def test_the_same_region_for_5000_random_clients(database, judge) -> None:
    path, networks = database
    ours = responder(path)
    rng = random.Random(2)
    differ, seen = [], set()
    for _ in range(5000):
        near = rng.random() < 0.8
        around = int(rng.choice(networks).first) if near else rng.randrange(2**32)
        length = rng.choice([16, 20, 24, 24, 28, 32])
        address = (around + rng.randrange(-70000, 70000)) % 2**32
        if address >> 24 in (0, 127):
            continue
        subnet = f"{ip_address(address >> (32 - length) << (32 - length))}/{length}"
        data = query("www0.gslb.example", 1, opt(ecs(subnet)))
        judge.send(data)
        theirs, mine = judge.recv(1500), ours.reply(data, b"\x7f\0\0\1")
        seen.add(first(mine))
        if first(theirs) != first(mine):
            differ.append((subnet, first(theirs), first(mine)))
    assert differ == []
    assert seen == set(ADDRESSES.values())


def first(reply: bytes | None) -> str:
    assert reply is not None
    return str(dns.message.from_wire(reply).answer[0][0])
