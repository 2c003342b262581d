"""Zone files, the section, databases: what is wrong in them is said with its place."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPNetwork, IPSet

from lbctl.config.gslb import load_gslb
from lbctl.errors import InvalidConfig
from lbctl.gslb import geo
from lbctl.gslb.board import Board, Reader
from lbctl.gslb.geo import BadDatabase, Kind
from lbctl.gslb.knowledge import learn, read_databases
from lbctl.gslb.model import Databases, Gslb, Location
from lbctl.gslb.networks import key_of_host
from lbctl.gslb.wire import name_to_wire
from lbctl.gslb.zonefile import read_zone
from tests.unit.gslb.scene import APEX, GSLB

ZONE = """$TTL 300
@ SOA ns1 hostmaster 1 3600 600 86400 60
@ NS ns1
ns1 A 192.0.2.53
"""


def test_a_zone_file_is_read_as_named_reads_it(tmp_path: Path) -> None:
    records = read_zone(ZONE + "* TXT (\n  a\n  b )\n", "z", APEX)
    assert [record.type for record in records] == [6, 2, 1, 16]
    if (judge := shutil.which("named-checkzone")) is not None:
        path = tmp_path / "zone"
        path.write_text(ZONE)
        subprocess.run([judge, "gslb.example", path], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("w 0 A 192.0.2.1", "z:5: a TTL of 0 s"),
        ("w 315360000 A 192.0.2.1", "z:5: a TTL of 315360000 s"),
        ("w CNAME x\nw A 192.0.2.1", "z:6: w.gslb.example. has a CNAME beside other data"),
        ("w A 192.0.2.1\nw CNAME x", "z:6: w.gslb.example. has a CNAME beside other data"),
        ("w CNAME x\nw CNAME y", "z:6: w.gslb.example. has a CNAME beside other data"),
        ("w A 192.0.2", "z:5: "),
        ("w A 192.0.2.1\nw 60 A 192.0.2.2", "z:6: a TTL of 60 s in a set with 300 s"),
        ("w SOA a b 1 2 3 4 5", "z:5: a second SOA"),
        ("$INCLUDE /etc/passwd", "z:"),
        ("w DNAME x.example.", "z:5: a DNAME is not followed here"),
        ("$GENERATE 1-2 n$ A 192.0.2.999", "z:5: "),
        ("$GENERATE 1-2 n 0 A 192.0.2.$", "z:5: "),
        ("$GENERATE 1-4100 w A 10.0.${0,0,d}.1", "z:5: "),
        (
            "\n".join(f"w TXT {number:0250}" for number in range(300)),
            "z:248: the TXT records of w.gslb.example. have more than 64000 octets",
        ),
        ("w TXT (", "z:"),
    ],
)
def test_a_bad_record_is_refused_with_its_line(more, said) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_zone(f"{ZONE}{more}\n", "z", APEX)
    assert caught.value.faults[0].startswith(said)


def test_a_zone_wants_soa_and_ns() -> None:
    with pytest.raises(InvalidConfig) as caught:
        read_zone("$TTL 60\nw A 192.0.2.1\n", "z", APEX)
    assert len(caught.value.faults) == 2


FILE = """\
apiVersion: lbctl/v1
gateway: {front: eth0}
gslb:
  listen: ["192.0.2.53:53", "[2001:db8::53]:53"]
  observers: {quorum: 1}
  sites:
    seoul: {location: [37.57, 126.98]}
    cdn: {probe: {type: http, target: 203.0.113.9:80, status: 200}}
  policies:
    geo:
      steps:
        - healthy
        - cidr: {198.51.100.0/24: seoul}
        - asn: {AS4766: seoul}
        - city: {KR/Busan: seoul}
        - nearest: {band: 50}
        - sticky: {prefix4: 20}
        - first: 2
  zones:
    gslb.example:
      file: zone
      names:
        "@": {policy: geo, members: {seoul: 198.51.100.1}}
        www: {policy: geo, ttl: 20, members: {seoul: [198.51.100.1, "2001:db8::1"]}}
        img: {policy: geo, members: {cdn: {cname: img.cdn.example, weight: 2}}}
"""


def section(text: str = FILE, zone: str = ZONE) -> Gslb:
    return load_gslb(text, "f", "local", lambda _: zone)


def test_the_section_becomes_the_model() -> None:
    gslb = section()
    assert gslb.sites["seoul"].location == Location(37.57, 126.98)
    assert [str(endpoint) for endpoint in gslb.listens] == ["192.0.2.53:53", "[2001:db8::53]:53"]
    (zone,) = gslb.zones
    assert [name.wire for name in zone.names] == [
        name_to_wire(name) for name in ("gslb.example", "www.gslb.example", "img.gslb.example")
    ]
    assert zone.names[2].members[0].cname == name_to_wire("img.cdn.example")
    assert learn(gslb, {}).tables


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{location: [37.57, 126.98]}", "{place: 1}", "f:7:13: gslb.sites.seoul.place: unknown"),
        ("[37.57, 126.98]", "[137, 126.98]", "f:7:23: gslb.sites.seoul.location: a list is not"),
        ("- nearest: {band: 50}", "- neerest", "'neerest' is not a step (did you mean 'nearest'?)"),
        ("{band: 50}", "{bend: 50}", "nearest has no 'bend' (known: band)"),
        ("AS4766: seoul", "AS4766: soul", "asn 4766: no site 'soul' (known: seoul, cdn)"),
        ("KR/Busan", "Busan", "city: 'Busan' has no country (write KR/Busan)"),
        ("198.51.100.0/24", "198.51.100.1/24", "has host bits set"),
        ("{prefix4: 20}", "{prefix4: 20.5}", "prefix4: 20.5 is not a whole number of bits"),
        ("{band: 50}", "{band: .nan}", "nearest.band: nan is not a positive number"),
        ("{band: 50}", "{band: 1.0e-300}", "is not a positive number (1e-06 to 1e+06)"),
        ("        www:", f"        {'.'.join(['x' * 63] * 3)}.{'y' * 52}:", "(at most 255)"),
        ("        - first: 2", "        - weighted", "exclude each other (keep one)"),
        ("ttl: 20", "ttl: 0", "f:24:33: gslb.zones.\"gslb.example\".names.www.ttl: 0 is too small"),
        ("ttl: 20", "ttl: 315360000", "315360000 is too large (at most 604800)"),
        ('"2001:db8::1"]', '"2001:db8::1"], soul: 1.2.3.4', "no site 'soul'"),
        ('[198.51.100.1, "2001:db8::1"]', "[]", "members.seoul: has no addresses"),
        ("img.cdn.example", "img.gslb.example", "is a CNAME that leads back to itself"),
        ("        img:", "        ns1:", "answers a CNAME beside other data"),
        ("policy: geo, ttl", "policy: goe, ttl", "no policy 'goe' (known: geo)"),
        ("{quorum: 1}", "{quorum: 0}", "has one observer outside it, whose error"),
        ("{quorum: 1}", "{quorum: 5}", "quorum 5, but 1 observers outside"),
        ('["192.0.2.53:53"', '["0.0.0.0:53"', "f:4:12: gslb.listen[0]: 0.0.0.0:53: replies would"),
        ('"[2001:db8::53]:53"]', '"[::]:53"]', "gslb.listen[1]: [::]:53: replies would"),
        ("        - first: 2", "        - cidr: {198.51.100.0/28: cdn}", "two cidr steps (write"),
        ("        img:", "        WWW.:", "names.\"WWW.\": is the name 'www' again (keep one)"),
        ("        img:", f"        {'.'.join(['x' * 60] * 4)}:", "has 258 octets with its zone"),
        ('"2001:db8::1"]', f'{", ".join(["10.0.0.1"] * 2300)}]', "no message holds them"),
        (
            "  zones:",
            "  zones:\n    GSLB.example.: {file: zone}",
            "f:21:5: gslb.zones.\"gslb.example\": is the zone 'GSLB.example.' again (keep one)",
        ),
        ("gslb:", "gslb:\n  measure: {2001:db8::/96: 192.0.2.1:53}", "is longer than a /64"),
        ("gslb:", "gslb:\n  measure: {192.0.2.0/24: here}", "'here' is not ADDRESS:PORT"),
        ("gslb:", "gslx:", "the file has no gslb section"),
    ],
)  # fmt: skip
def test_a_bad_section_is_refused_with_its_place(old, new, said) -> None:
    assert old in FILE
    with pytest.raises(InvalidConfig) as caught:
        section(FILE.replace(old, new, 1))
    assert said in "\n".join(caught.value.faults)
    assert all(re.match(r"f(:\d+:\d+)?: ", fault) for fault in caught.value.faults)


PEERS = "peers: {tokyo: {api: 192.0.2.9:8443, name: tokyo}, w: {api: 192.0.2.8:8443, name: w}}"


@pytest.mark.parametrize("me", ["tokyo", "w", "seoul"])
def test_an_observer_or_a_site_may_serve(me: str) -> None:
    text = FILE.replace("{quorum: 1}", f"{{quorum: 1, {PEERS}}}")
    assert load_gslb(text, "f", me, lambda _: ZONE).observers.me == me


@pytest.mark.parametrize("me", ["local", "tokio"])
def test_a_server_that_is_none_of_the_observers_is_refused(me: str) -> None:
    text = FILE.replace("{quorum: 1}", f"{{quorum: 1, {PEERS}}}")
    with pytest.raises(InvalidConfig) as caught:
        load_gslb(text, "f", me, lambda _: ZONE)
    (fault,) = caught.value.faults
    assert f"this server is '{me}', none of the observers and sites (tokyo, w, seoul, cdn)" in fault
    assert "start it with --me NAME" in fault
    assert fault.startswith("f:5:")


def test_a_loop_of_aliases_in_a_zone_file_is_refused_with_its_lines() -> None:
    with pytest.raises(InvalidConfig) as caught:
        section(zone=ZONE + "a CNAME b\nb CNAME a\nc CNAME a\n")
    assert [fault.partition("gslb.zones.")[2] for fault in caught.value.faults] == [
        f'"gslb.example".file: line {line}: {name}.gslb.example. is a CNAME that leads back to '
        "itself"
        for line, name in ((5, "a"), (6, "b"))
    ]


def test_a_balanced_name_beside_static_addresses_is_refused() -> None:
    with pytest.raises(InvalidConfig) as caught:
        section(zone=ZONE + "www A 192.0.2.1\n")
    assert "is balanced here and has A in the zone file" in caught.value.faults[0]


def test_a_delegation_that_no_message_holds_is_refused() -> None:
    servers = "".join(f"sub NS n{number}.sub\n" for number in range(1500))
    glue = "".join(f"n{number}.sub A 192.0.2.1\n" for number in range(1500))
    with pytest.raises(InvalidConfig) as caught:
        section(zone=ZONE + servers + glue)
    assert "line 5: the delegation of sub.gslb.example. has " in caught.value.faults[0]


def test_a_name_in_a_zone_within_is_written_there() -> None:
    text = FILE.replace("  zones:\n", "  zones:\n    www.gslb.example: {file: zone}\n")
    with pytest.raises(InvalidConfig) as caught:
        section(text)
    assert "www: lies in the zone www.gslb.example., which answers" in caught.value.faults[0]


def test_a_name_under_a_delegation_is_refused() -> None:
    with pytest.raises(InvalidConfig) as caught:
        section(zone=ZONE + "www NS ns.other.example.\n")
    assert "lies under a delegation" in "\n".join(caught.value.faults)


# --- databases --------------------------------------------------------------------------

SEOUL = {
    "country": {"iso_code": "KR"},
    "continent": {"code": "AS"},
    "city": {"names": {"en": "Seoul"}},
    "location": {"latitude": 37.5, "longitude": 127.0},
}


class Writer(MMDBWriter):
    """Writes records of a size of our choice; the library takes the smallest that fits."""

    size = 24

    def _adjust_record_size(self) -> None:
        super()._adjust_record_size()
        self.record_size = self.size
        self.data_offset = self.size * 2 / 8 * self._node_counter


def database(path: Path, kind: str = "GeoLite2-City", size: int = 28, version: int = 6) -> Path:
    writer = Writer(version, kind, ipv4_compatible=version == 6)
    writer.size = size
    writer.insert_network(IPSet([IPNetwork("198.18.0.0/24"), IPNetwork("198.18.2.0/23")]), SEOUL)
    writer.insert_network(IPSet([IPNetwork("198.18.1.0/24")]), {"country": {"iso_code": "JP"}})
    if version == 6:
        writer.insert_network(IPSet([IPNetwork("2001:db8:1::/48")]), SEOUL)
        writer.insert_network(IPSet([IPNetwork("2001:db8:2::8/128")]), SEOUL)
        writer.insert_network(IPSet([IPNetwork("2001:db8:3::/128")]), SEOUL)
    writer.to_db_file(str(path))
    return path


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [24, 28, 32])
def test_a_database_is_read_as_maxminddb_reads_it(tmp_path: Path, version: int, size: int) -> None:
    import maxminddb

    path = database(tmp_path / "city.mmdb", version=version, size=size)
    layer = geo.load(str(path), Kind.CITY).layer
    with maxminddb.open_database(str(path)) as reader:
        for network, record in reader:
            host = network.network_address
            if network.prefixlen <= 64 or not key_of_host(host) << 64 < int(host):
                spans = layer.v4 if host.version == 4 else layer.v6
                place = layer.places[spans.find(key_of_host(host))]
                assert place.country == record["country"]["iso_code"]
    assert layer.places[layer.v4.find(0)].country == ""
    if version == 6:  # past a /64 only the first address speaks for its /64
        assert layer.places[layer.v6.find(0x20010DB800030000)].country == "KR"
        assert layer.places[layer.v6.find(0x20010DB800020000)].country == ""


def test_a_corrupt_database_is_refused(tmp_path: Path) -> None:
    good = database(tmp_path / "city.mmdb").read_bytes()
    path = tmp_path / "bad.mmdb"
    for bad in (b"", b"no database", good[: len(good) // 2], b"\xff" * 400 + good[400:]):
        path.write_bytes(bad)
        with pytest.raises(BadDatabase, match="the database in use stays"):
            geo.load(str(path), Kind.CITY)


def of_record(path: Path, kind: str, record: object) -> str:
    writer = MMDBWriter(4, kind)
    writer.insert_network(IPSet([IPNetwork("198.18.0.0/24")]), record)
    writer.to_db_file(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"country": "KR"}, "country is 'KR'"),
        ({"country": {"iso_code": {"a": "b"}}}, "iso_code is {'a': 'b'}"),
        ({"country_code": 410}, "country_code is 410"),
        ({"city": {"names": "Seoul"}}, "names is 'Seoul'"),
        ({"location": {"latitude": "37.5", "longitude": "127"}}, r"latitude is '37.5'"),
        ({"location": {"latitude": 97.5, "longitude": 127.0}}, r"latitude is 97.5"),
        ("KR", "a record is 'KR'"),
    ],
)
def test_a_database_of_another_shape_is_refused(tmp_path: Path, record, said) -> None:
    path = of_record(tmp_path / "flat.mmdb", "GeoLite2-City", record)
    with pytest.raises(BadDatabase, match=f"cannot read the city database: {said}"):
        geo.load(path, Kind.CITY)


def test_a_provider_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = of_record(tmp_path / "asn.mmdb", "x-ASN", {"autonomous_system_number": "AS4766"})
    with pytest.raises(BadDatabase, match="autonomous_system_number is 'AS4766'"):
        geo.load(path, Kind.ASN)


def test_a_loop_in_the_tree_is_refused(tmp_path: Path) -> None:
    path = database(tmp_path / "city.mmdb", version=4)
    data = bytearray(path.read_bytes())
    with_loop = bytes(len(data[:8])) + bytes(data[8:])  # both branches of the root: the root
    path.write_bytes(with_loop)
    with pytest.raises(BadDatabase, match=r"deeper than an address|loop"):
        geo.load(str(path), Kind.CITY)


def test_another_kind_and_an_older_one_are_refused(tmp_path: Path) -> None:
    path = database(tmp_path / "asn.mmdb", "GeoLite2-ASN")
    with pytest.raises(BadDatabase, match="cannot be used as 'city'"):
        geo.load(str(path), Kind.CITY)
    path = database(tmp_path / "city.mmdb")
    epoch = geo.load(str(path), Kind.CITY).epoch
    with pytest.raises(BadDatabase, match="built 10 s before the one in use"):
        geo.load(str(path), Kind.CITY, epoch + 10)


def test_databases_that_did_not_change_are_not_read_again(tmp_path: Path) -> None:
    path = database(tmp_path / "city.mmdb")
    gslb = Gslb((), {}, {}, databases=Databases(city=str(path)))
    first = read_databases(gslb, {})
    path.unlink()
    assert read_databases(gslb, first) == first


# --- the board --------------------------------------------------------------------------


def test_readers_see_all_parts_change_at_once(tmp_path: Path) -> None:
    board = Board(tmp_path)
    reader = Reader(tmp_path)
    assert not reader.changed
    board.put({"names": b"n1", "networks": b"w1", "answers": b"a1"})
    board.put({"answers": b"a2"})
    assert reader.changed
    numbers = reader.fetch()
    assert numbers == (1, 1, 2)
    assert bytes(reader.open("answers", numbers.answers)) == b"a2"
    assert not reader.changed
    for number in range(5):
        board.put({"answers": b"a%d" % number})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers.6", "answers.7", "board", "names.1", "networks.1",
    ]  # fmt: skip
    assert Board(tmp_path).numbers == (1, 1, 7)  # a writer that starts again goes on
    board.close()


def test_names_answers_and_networks_share_their_numbers() -> None:
    known = learn(GSLB, {})
    assert known.names.startswith(b"lbGSLBq1")
    assert len(known.tables) == len(known.plan.tables)
