"""Whole replies, judged by dnspython."""

import struct
from ipaddress import ip_address

import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.gslb.model import Gslb, Record, Zone
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.query import Refusal, Silence, read
from lbctl.gslb.rrl import RateLimit
from lbctl.gslb.wire import Type, name_to_wire
from tests.unit.gslb.scene import (
    FRANKFURT4,
    MUTATIONS,
    SEOUL4,
    SEOUL6,
    SOA,
    TOKYO4,
    Server,
    ecs,
    mutated,
    opt,
    query,
    record,
)

SERVER = Server()
DOWN = Standing(up=False, why="test")


def judge(reply: bytes | None) -> dns.message.Message:
    assert reply is not None
    return dns.message.from_wire(reply)


def addresses(message: dns.message.Message) -> list[str]:
    return [str(item) for rrset in message.answer for item in rrset]


def scope(message: dns.message.Message) -> int:
    (option,) = [o for o in message.options if o.otype == dns.edns.ECS]
    return option.scopelen


@pytest.mark.parametrize(
    ("subnet", "site", "bits"),
    [
        ("198.18.0.0/24", SEOUL4, 23),  # KT; 198.18.3.0/24 differs, so no wider scope is true
        ("198.18.3.0/24", FRANKFURT4, 24),  # the CIDR override
        ("198.18.9.0/24", SEOUL4, 21),
        ("198.18.64.0/18", TOKYO4, 18),  # by its provider, against country and distance
        ("198.18.200.0/24", TOKYO4, 17),
        ("198.19.7.0/24", FRANKFURT4, 16),
        ("2001:db8:1:200::/56", SEOUL4, 48),
        ("2001:db8:2::/48", TOKYO4, 48),
    ],
)
def test_each_network_gets_its_site_and_the_scope_that_decided(subnet, site, bits) -> None:
    message = judge(SERVER.ask(query("geo.gslb.example", extra=opt(ecs(subnet)))))
    assert (addresses(message), scope(message)) == ([site], bits)


def test_an_unknown_place_gets_a_scope_too() -> None:
    message = judge(SERVER.ask(query("geo.gslb.example", extra=opt(ecs("203.0.113.0/24")))))
    assert scope(message) > 0  # 0 would be cached for the whole world


def test_without_a_subnet_the_resolver_is_the_client() -> None:
    message = judge(SERVER.ask(query("geo.gslb.example"), "198.19.1.1"))
    assert addresses(message) == [FRANKFURT4]
    assert not message.options


def test_source_zero_means_the_resolver_and_scope_zero() -> None:
    reply = SERVER.ask(query("geo.gslb.example", extra=opt(ecs("0.0.0.0/0"))), "198.19.1.1")
    message = judge(reply)
    assert (addresses(message), scope(message)) == ([FRANKFURT4], 0)


@pytest.mark.parametrize("name", ["ns1.gslb.example", "nope.gslb.example", "geo.gslb.example"])
def test_an_option_asked_is_an_option_answered(name) -> None:
    kind = Type.A if name != "geo.gslb.example" else 16  # the last is NODATA
    message = judge(SERVER.ask(query(name, kind, opt(ecs("198.19.7.0/24")))))
    assert scope(message) == 0


def test_letters_keep_their_case() -> None:
    data = query("gEo.GslB.eXample")
    reply = SERVER.ask(data)
    assert reply is not None
    assert reply[12 : len(data)] == data[12:]


def test_a_cname_answers_alone_whatever_is_asked() -> None:
    server = Server()
    server.weather(Weather({("seoul", ""): DOWN, ("tokyo", ""): DOWN}))
    for kind in (Type.A, Type.AAAA, 16):
        message = judge(server.ask(query("img.gslb.example", kind)))
        assert [rrset.rdtype for rrset in message.answer] == [Type.CNAME]
        assert addresses(message) == ["www.cdn.example."]


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "authority"),
    [
        ("nope.gslb.example", 1, "NXDOMAIN", "SOA"),
        ("x.y.z.gslb.example", 1, "NXDOMAIN", "SOA"),
        ("ns1.gslb.example", 28, "NOERROR", "SOA"),
        ("c.gslb.example", 1, "NOERROR", "SOA"),  # an empty non-terminal exists (RFC 8020)
        ("b.c.gslb.example", 1, "NOERROR", "SOA"),
        ("spf.gslb.example", 67, "NOERROR", "SOA"),  # 'C' is not 'c' in a type
        ("x.sub.gslb.example", 1, "NOERROR", "NS"),
        ("sub.gslb.example", 43, "NOERROR", "SOA"),  # DS belongs to the parent
        ("example.org", 1, "REFUSED", ""),
        ("geo.gslb.example", 65535, "NOERROR", "SOA"),
        ("gslb.example", 65533, "NOERROR", "SOA"),
    ],
)
def test_negative_answers(name, kind, rcode, authority) -> None:
    message = judge(SERVER.ask(query(name, kind)))
    assert dns.rcode.to_text(message.rcode()) == rcode
    assert not message.answer
    kinds = [dns.rdatatype.to_text(rrset.rdtype) for rrset in message.authority]
    assert kinds == ([authority] if authority else [])


def test_a_delegation_is_a_referral_with_glue() -> None:
    message = judge(SERVER.ask(query("www.sub.gslb.example")))
    assert not message.flags & 0x0400  # AA
    assert [str(rrset.name) for rrset in message.additional] == ["ns.sub.gslb.example."]


def test_wildcards_and_any() -> None:
    assert addresses(judge(SERVER.ask(query("x.apps.gslb.example"), "198.19.1.1"))) == [FRANKFURT4]
    assert addresses(judge(SERVER.ask(query("a.b.apps.gslb.example"), "198.19.1.1"))) == [
        FRANKFURT4
    ]
    message = judge(SERVER.ask(query("geo.gslb.example", Type.ANY)))
    assert [dns.rdatatype.to_text(r.rdtype) for r in message.answer] == ["HINFO"]
    assert judge(SERVER.ask(query("nope.gslb.example", Type.ANY))).rcode() == 3
    # Where there is a CNAME, it is the answer (RFC 8482 section 4.2); below a cut, a referral.
    message = judge(SERVER.ask(query("alias.gslb.example", Type.ANY)))
    assert addresses(message) == ["geo.gslb.example."]
    for name in ("sub.gslb.example", "x.sub.gslb.example"):
        message = judge(SERVER.ask(query(name, Type.ANY)))
        assert not message.flags & 0x0400  # AA
        assert not message.answer
        assert [str(rrset.name) for rrset in message.authority] == ["sub.gslb.example."]


def test_any_is_counted() -> None:
    server = Server()
    for _ in range(2):
        server.ask(query("geo.gslb.example", Type.ANY))
    counted, _ = server.responder.harvest()
    assert counted == {("geo.gslb.example.\t", "static"): 2}


def nest(apex: str, *more: Record) -> Zone:
    soa = (record(apex, Type.SOA, SOA), record(apex, Type.NS, name_to_wire(f"ns1.{apex}")))
    return Zone(name_to_wire(apex), (*soa, *more), ())


OUTER = nest(
    "gslb.example",
    record("*.gslb.example", Type.A, ip_address("192.0.2.1").packed),
    record("in.gslb.example", Type.NS, name_to_wire("ns1.in.gslb.example")),
    record("in.gslb.example", 43, b"\0\1\x0d\2" + bytes(32)),
    record("ns1.in.gslb.example", Type.A, ip_address("192.0.2.9").packed),
    record("x.far.deep.gslb.example", Type.A, ip_address("192.0.2.9").packed),
)
INNER = nest(
    "in.gslb.example",
    record("www.in.gslb.example", Type.A, ip_address("192.0.2.2").packed),
    record("*.w.in.gslb.example", Type.A, ip_address("192.0.2.3").packed),
)
DEEP = nest("far.deep.gslb.example")


@pytest.mark.parametrize("zones", [(OUTER, INNER, DEEP), (DEEP, INNER, OUTER)])
def test_of_zones_within_each_other_the_closest_answers(zones) -> None:
    server = Server(Gslb(zones, {}, {}))

    def ask(name: str, kind: int = Type.A) -> tuple[str, list[str], list[str]]:
        message = judge(server.ask(query(name, kind)))
        owners = [str(rrset.name) for rrset in message.authority]
        return dns.rcode.to_text(message.rcode()), addresses(message), owners

    assert ask("www.in.gslb.example") == ("NOERROR", ["192.0.2.2"], [])
    assert ask("no.w.in.gslb.example") == ("NOERROR", ["192.0.2.3"], [])
    assert ask("no.in.gslb.example") == ("NXDOMAIN", [], ["in.gslb.example."])
    assert ask("ns1.in.gslb.example") == ("NXDOMAIN", [], ["in.gslb.example."])
    assert ask("in.gslb.example") == ("NOERROR", [], ["in.gslb.example."])
    assert len(ask("in.gslb.example", 43)[1]) == 1  # the parent's, as it has one
    assert ask("no.gslb.example") == ("NOERROR", ["192.0.2.1"], [])
    assert ask("deep.gslb.example") == ("NOERROR", [], ["gslb.example."])
    assert ask("x.far.deep.gslb.example") == ("NXDOMAIN", [], ["far.deep.gslb.example."])
    assert ask("far.deep.gslb.example", 43) == ("NOERROR", [], ["gslb.example."])


def test_what_does_not_fit_is_truncated_and_whole_over_tcp() -> None:
    data = query("big.gslb.example", 16)
    assert judge(SERVER.ask(data)).flags & 0x0200
    stream = SERVER.responder.stream_reply(data, b"\xc0\x00\x02\x01")
    assert len(judge(stream).answer[0]) == 3


def test_only_a_cookie_buys_more_than_512_octets() -> None:
    big = query("big.gslb.example", 16, opt(b"\0\x0a\0\x08clientck"))
    first = judge(SERVER.ask(big))
    assert first.flags & 0x0200
    (cookie,) = [o for o in first.options if o.otype == 10]
    server_cookie = cookie.to_wire()
    again = query("big.gslb.example", 16, opt(b"\0\x0a\0\x18" + server_cookie))
    assert not judge(SERVER.ask(again)).flags & 0x0200
    elsewhere = judge(SERVER.ask(again, "192.0.2.201"))
    assert elsewhere.flags & 0x0200  # a cookie is good for its address only


def test_a_cookie_of_one_address_is_none_of_another_that_it_spells() -> None:
    """The octets of a cookie and of an address run together are those of another pair."""
    server = Server()
    own, victim = ip_address("2001:db8:2::c000:207"), ip_address("192.0.2.7")
    assert own.packed[12:] == victim.packed
    good = server.cookies.make(b"clientck", own.packed, 1_800_000_000)
    first = query("big.gslb.example", 16, opt(b"\0\x0a\0\x18" + good))
    assert not judge(server.ask(first, str(own))).flags & 0x0200
    forged = query("big.gslb.example", 16, opt(b"\0\x0a\0\x24" + good + own.packed[:12]))
    assert judge(server.ask(forged, str(victim))).flags & 0x0200


def test_nobody_serves() -> None:
    server = Server()
    everyone = Weather({(site, ""): DOWN for site in ("seoul", "tokyo", "frankfurt")})
    assert addresses(judge(server.ask(query("good.gslb.example")))) == [SEOUL4]
    server.weather(Weather({("seoul", ""): DOWN}))
    server.weather(everyone)
    for name, found in {
        "geo": [FRANKFURT4],  # any: as if all were well
        "none": [],
        "static": ["192.0.2.99"],
        "good": [TOKYO4],  # what was answered last
    }.items():
        message = judge(server.ask(query(f"{name}.gslb.example"), "198.19.1.1"))
        assert (name, addresses(message)) == (name, found)
        assert message.rcode() == 0


def test_the_last_good_answer_outlives_a_new_configuration() -> None:
    before, after = Server(), Server()
    before.weather(Weather({("seoul", ""): DOWN}))
    after.compiler.adopt(before.compiler)
    after.weather(Weather({(site, ""): DOWN for site in ("seoul", "tokyo", "frankfurt")}))
    assert addresses(judge(after.ask(query("good.gslb.example")))) == [TOKYO4]


def test_families_choose_among_their_own() -> None:
    message = judge(SERVER.ask(query("geo.gslb.example", Type.AAAA), "198.19.1.1"))
    assert addresses(message) == [SEOUL6]  # Frankfurt has no IPv6: the next best


def test_first_names_two() -> None:
    assert addresses(judge(SERVER.ask(query("first2.gslb.example")))) == [SEOUL4, TOKYO4]


def test_weights_are_kept_over_turns() -> None:
    server = Server()
    found = [addresses(judge(server.ask(query("weighted.gslb.example"))))[0] for _ in range(640)]
    shares = [found.count(site) / 640 for site in (SEOUL4, TOKYO4, FRANKFURT4)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


def test_sticky_clients_stay_and_their_scope_is_the_key() -> None:
    server = Server()

    def who(subnet: str) -> tuple[list[str], int]:
        message = judge(server.ask(query("sticky.gslb.example", extra=opt(ecs(subnet)))))
        return addresses(message), scope(message)

    before = {n: who(f"10.0.{n}.0/24") for n in range(200)}
    assert {bits for _, bits in before.values()} == {24}
    assert len({site[0] for site, _ in before.values()}) == 3
    server.weather(Weather({("tokyo", ""): DOWN}))
    for n, (site, _) in before.items():
        if site != [TOKYO4]:
            assert who(f"10.0.{n}.0/24")[0] == site


def test_counters_name_site_and_reason() -> None:
    server = Server()
    server.ask(query("geo.gslb.example"), "198.19.1.1")
    server.weather(Weather({("frankfurt", ""): DOWN}))
    server.ask(query("geo.gslb.example"), "198.19.1.1")
    counted, _ = server.responder.harvest()
    assert counted == {
        ("geo.gslb.example.\tfrankfurt", "continent"): 1,
        ("geo.gslb.example.\tseoul", "unhealthy"): 1,
    }
    assert server.responder.harvest() == ({}, {})


# --- bad input --------------------------------------------------------------------------

GOOD = query("geo.gslb.example")
NAME = b"\3geo\4gslb\7example\0"


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (b"", None),
        (GOOD[:11], None),
        (query("geo.gslb.example", flags=0x8000), None),  # a response
        (query("geo.gslb.example", flags=0x2800), "NOTIMP"),  # UPDATE
        (query("geo.gslb.example", flags=0x2000), "NOTIMP"),  # NOTIFY
        (GOOD[:20], "FORMERR"),
        (GOOD + b"\0", "FORMERR"),
        (GOOD[:4] + b"\0\2" + GOOD[6:], "FORMERR"),  # two questions
        (GOOD[:4] + b"\0\0" + GOOD[6:12], "FORMERR"),  # none
        (GOOD[:6] + b"\0\1" + GOOD[8:], "FORMERR"),  # an answer
        (struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", "FORMERR"),
        (struct.pack("!6H", 1, 0, 1, 0, 0, 0) + NAME + b"\0\1\0\3", "REFUSED"),  # CH
        (query("geo.gslb.example", 252), "REFUSED"),
        (query("geo.gslb.example", 41), "FORMERR"),
        (query("geo.gslb.example", 0), "FORMERR"),
        (query("geo.gslb.example", 253), "NOTIMP"),
        (query("geo.gslb.example", extra=opt(ttl=1 << 16)), "BADVERS"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x03\0\1\0")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x07\0\1\x18\x08\1\2\3")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x07\0\3\x18\0\1\2\3")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x07\0\1\x17\0\1\2\3")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x08\0\1\x18\0\1\2\3\0")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x06\0\1\x18\0\1\2")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x08\0\x09\0\1\x21\0\1\2\3\4\0")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(ecs("10.0.0.0/8") * 2)), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x0a\0\x07clientc")), "FORMERR"),
        (query("geo.gslb.example", extra=opt(b"\0\x0a\0\x0fclientcookie123")), "FORMERR"),
        (query("geo.gslb.example", extra=b"\1a" + opt()), "FORMERR"),
    ],
)
def test_bad_queries_get_what_the_rfcs_say(data, rcode) -> None:
    for _ in range(2):  # the second time nothing may have been learnt from the first
        reply = SERVER.ask(data)
        if rcode is None:
            assert reply is None
        else:
            assert reply is not None
            extended = reply[-6] if rcode == "BADVERS" else 0
            assert dns.rcode.to_text(extended << 4 | reply[3] & 0xF) == rcode
            assert struct.unpack_from("!H", reply, 6) == (0,)


def test_the_count_of_additional_records_must_be_true() -> None:
    whole = query("geo.gslb.example", extra=opt())
    assert judge(SERVER.ask(whole)).rcode() == 0  # its shape is known from here on
    lies = (
        whole[:10] + b"\0\0" + whole[12:],
        GOOD[:10] + b"\0\1" + GOOD[12:],
        whole[:10] + b"\0\2" + whole[12:] + opt(),  # true, and one OPT too many
    )
    for lie in lies:
        reply = SERVER.ask(lie)
        assert reply is not None
        assert reply[3] & 0xF == 1


def test_a_query_for_a_cookie_alone() -> None:
    data = struct.pack("!6H", 1, 0, 0, 0, 0, 1) + opt(b"\0\x0a\0\x08clientck")
    message = judge(SERVER.ask(data))
    assert message.rcode() == 0
    assert [o.otype for o in message.options] == [10]


# --- the short way and the careful way --------------------------------------------------

names = st.sampled_from(
    ["geo", "GEO", "img", "nope", "ns1", "big", "x.apps", "sub", "spf", "weighted", "c"]
)
subnets = st.one_of(
    st.builds(
        lambda address, bits: ecs(f"{_masked(address, 32, bits)}/{bits}"),
        st.integers(0, 2**32 - 1), st.integers(0, 32),
    ),
    st.builds(
        lambda address, bits: ecs(f"{_masked(address, 128, bits)}/{bits}"),
        st.integers(0, 2**128 - 1), st.integers(0, 128),
    ),
    st.binary(max_size=12).map(lambda value: b"\0\x08" + struct.pack("!H", len(value)) + value),
)  # fmt: skip
cookies = st.binary(min_size=8, max_size=8).map(lambda client: b"\0\x0a\0\x08" + client)
options = st.lists(st.one_of(subnets, cookies, st.just(b"\0\3\0\0")), max_size=3).map(b"".join)
extras = st.one_of(
    st.none(),
    st.builds(
        lambda data, size, ttl: opt(data, size=size, ttl=ttl),
        options, st.sampled_from([0, 512, 1232, 4096]), st.sampled_from([0, 0x8000, 1 << 16]),
    ),
)  # fmt: skip
queries = st.builds(
    lambda name, kind, extra, flags: query(f"{name}.gslb.example", kind, extra, flags=flags),
    names, st.sampled_from([1, 28, 16, 99, 67, 255]), extras,
    st.sampled_from([0, 0x0100, 0x0020, 0x0110, 0x0400]),
)  # fmt: skip


def _masked(address: int, width: int, bits: int) -> str:
    from ipaddress import IPv4Address, IPv6Address

    kept = address >> (width - bits) << (width - bits)
    return str(IPv4Address(kept) if width == 32 else IPv6Address(kept))


def careful(server: Server, data: bytes, source: bytes) -> bytes | None:
    responder = server.responder
    try:
        return responder._respond(read(data), source, tcp=False)
    except Silence:
        return None
    except Refusal as refusal:
        return responder._refuse(refusal, source)


@settings(max_examples=400, deadline=None)
@given(queries, st.sampled_from(["192.0.2.1", "198.19.0.9", "2001:db8:2::9"]), st.data())
def test_the_short_way_never_differs_from_the_careful_one(data, source, draw) -> None:
    from ipaddress import ip_address

    packed = ip_address(source).packed
    at = draw.draw(st.integers(0, len(data)))
    damaged = data[:at] + draw.draw(st.binary(max_size=2)) + data[at + 1 :]
    for one in (data, data, damaged, damaged):
        for slot in SERVER.responder._slots.values():
            slot.turn = 0  # members that take turns are at the same turn both ways
        short = SERVER.ask(one, source)
        for slot in SERVER.responder._slots.values():
            slot.turn = 0
        assert short == careful(SERVER, one, packed)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_noise_never_raises(data) -> None:
    reply = SERVER.ask(data)
    if reply is not None:
        assert reply[:2] == data[:2]
        assert reply[2] & 0x80


def test_a_flood_of_one_network_is_cut_and_slips() -> None:
    server = Server(limit=RateLimit(responses=10, errors=3, slip=2))
    server.responder.tick(5.0, 0)
    replies = [server.ask(GOOD, f"192.0.2.{i}") for i in range(20)]
    whole = [r for r in replies if r is not None and not r[2] & 0x02]
    slipped = [r for r in replies if r is not None and r[2] & 0x02]
    assert (len(whole), len(slipped)) == (10, 5)
    assert all(len(r) <= len(GOOD) for r in slipped)
    assert server.ask(GOOD, "198.51.100.1") is not None  # another network
    server.responder.tick(6.0, 1)
    errors = [server.ask(query(f"n{i}.gslb.example"), "192.0.2.1") for i in range(9)]
    assert sum(r is not None and not r[2] & 0x02 for r in errors) == 3


@pytest.mark.parametrize("count", MUTATIONS)
def test_mutated_packets_never_raise(count) -> None:
    source = b"\xc0\x00\x02\x01"
    for packet in mutated(count, seed=20261122):
        reply = SERVER.responder.reply(packet, source)
        if reply is None:
            assert len(packet) < 12 or packet[2] & 0x80
        else:
            _allowed(packet, reply)


def _allowed(packet: bytes, reply: bytes) -> None:
    """A malformed query is never answered with data."""
    assert reply[:2] == packet[:2]
    assert reply[2] & 0x80
    if reply[6:8] != b"\0\0":
        read(packet)  # raises for what must not be answered
