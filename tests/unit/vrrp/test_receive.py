"""Which packets are believed, and what each of the others is counted as."""

from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import ChecksumForm, Router
from lbctl.vrrp import packet
from lbctl.vrrp.packet import GROUP4, GROUP6, Advert
from lbctl.vrrp.receive import Count, Dropped, Packet, examine
from tests.unit.vrrp.clauses import covers

OWN, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
VIP = ip_address("192.0.2.10")
LL, PEER6, VIP6 = ip_address("fe80::1"), ip_address("fe80::2"), ip_address("fe80::10")
ROUTER = Router("web", "front", 7, (VIP,))
ROUTER2 = replace(ROUTER, version=2)
ROUTER6 = replace(ROUTER, addresses=(VIP6,))
ADVERT = Advert(7, 100, 1.0, (VIP,))
ADVERT2 = replace(ADVERT, version=2)
ADVERT6 = replace(ADVERT, addresses=(VIP6,))


def sent(advert: Advert, ttl: int = 255, source: str = "192.0.2.2") -> Packet:
    where = ip_address(source)
    group = GROUP4 if where.version == 4 else GROUP6
    data = packet.encode(advert, where, group, ChecksumForm.PSEUDO)
    return Packet(where, group, ttl, data)


def patched(heard: Packet, at: int, value: int) -> Packet:
    """One byte changed, and the checksum made right again."""
    data = bytearray(heard.payload)
    data[at] = value
    data[6:8] = b"\0\0"
    data[6:8] = packet.checksum(bytes(data)).to_bytes(2, "big")
    return replace(heard, payload=bytes(data))


def counted(heard: Packet, router: Router = ROUTER) -> Count:
    with pytest.raises(Dropped) as dropped:
        examine(heard, router, OWN)
    return dropped.value.count


def test_an_advert_of_ours_passes() -> None:
    heard = examine(sent(ADVERT), ROUTER, OWN)
    assert (heard.advert, heard.source, heard.listed) == (ADVERT, PEER, True)


@covers("9568 5.1.1.3-2", "6527")
@pytest.mark.parametrize("ttl", [0, 1, 64, 254])
def test_another_ttl_is_not_from_this_link(ttl: int) -> None:
    assert counted(sent(ADVERT, ttl)) is Count.TTL_ERRORS


@covers("9568 5.1.2.3-2")
def test_another_hop_limit_is_not_from_this_link() -> None:
    assert counted(sent(ADVERT6, 254, "fe80::2"), ROUTER6) is Count.TTL_ERRORS


def test_the_hop_limit_of_an_ipv6_unicast_peer_is_not_looked_at() -> None:
    router = replace(ROUTER6, peers=(PEER6,))
    assert examine(sent(ADVERT6, 64, "fe80::2"), router, LL).advert == ADVERT6


def test_the_ttl_of_an_ipv4_unicast_peer_is() -> None:
    assert counted(sent(ADVERT, 254), replace(ROUTER, peers=(PEER,))) is Count.TTL_ERRORS


@covers("9568 7.1-1")
@pytest.mark.parametrize(("advert", "router"), [(ADVERT2, ROUTER), (ADVERT, ROUTER2)])
def test_another_version_is_dropped(advert: Advert, router: Router) -> None:
    assert counted(sent(advert), router) is Count.VERSION_ERRORS


@covers("9568 5.2.2")
def test_another_type_is_dropped() -> None:
    assert counted(patched(sent(ADVERT), 0, 0x32)) is Count.TYPE_ERRORS


@covers("9568 7.1-2")
@pytest.mark.parametrize("cut", [1, 4, 5, 11])
def test_a_short_packet_is_dropped(cut: int) -> None:
    heard = sent(ADVERT)
    assert counted(replace(heard, payload=heard.payload[:-cut])) is Count.LENGTH_ERRORS


def test_a_packet_with_something_behind_it_is_dropped() -> None:
    heard = sent(ADVERT)
    assert counted(replace(heard, payload=heard.payload + b"\0\0")) is Count.LENGTH_ERRORS


def test_nothing_at_all_is_dropped() -> None:
    assert counted(Packet(PEER, GROUP4, 255, b"")) is Count.VERSION_ERRORS


@covers("9568 7.1-3")
@pytest.mark.parametrize("at", [1, 2, 6, 11])
def test_a_flipped_bit_is_dropped(at: int) -> None:
    heard = sent(ADVERT)
    data = bytearray(heard.payload)
    data[at] ^= 4
    assert counted(replace(heard, payload=bytes(data))) is Count.CHECKSUM_ERRORS


@covers("9568 5.2.8-2")
def test_both_forms_of_checksum_pass() -> None:
    data = packet.encode(ADVERT, PEER, GROUP4, ChecksumForm.RFC9568)
    heard = examine(Packet(PEER, GROUP4, 255, data), ROUTER, OWN)
    assert heard.form is ChecksumForm.RFC9568
    assert examine(sent(ADVERT), ROUTER, OWN).form is ChecksumForm.PSEUDO


@covers("9568 5.2.8-1")
def test_an_ipv6_checksum_without_pseudo_header_is_wrong() -> None:
    heard = sent(ADVERT6, source="fe80::2")
    assert counted(patched(heard, 2, 99), ROUTER6) is Count.CHECKSUM_ERRORS


@covers("9568 7.1-4")
def test_another_vrid_is_dropped() -> None:
    assert counted(sent(replace(ADVERT, vrid=8))) is Count.VRID_ERRORS


@covers("9568 7.1-5")
@pytest.mark.parametrize(("advert", "router"), [(ADVERT, ROUTER), (ADVERT2, ROUTER2)])
def test_an_interval_of_zero_is_dropped(advert: Advert, router: Router) -> None:
    at_5 = patched(patched(sent(advert), 4, 0), 5, 0)
    assert counted(at_5, router) is Count.INTERVAL_ERRORS


@covers("9568 5.2.6")
def test_reserved_bits_are_ignored() -> None:
    assert examine(patched(sent(ADVERT), 4, 0xF0), ROUTER, OWN).advert == ADVERT


@covers("9568 5.2.5")
def test_an_advert_without_addresses_is_ignored() -> None:
    assert counted(sent(replace(ADVERT, addresses=()))) is Count.NO_ADDRESSES


@covers("9568 7.1-7")
def test_other_addresses_are_noted_in_version_3() -> None:
    assert not examine(sent(replace(ADVERT, addresses=(PEER,))), ROUTER, OWN).listed


@covers("3768 7.1-2")
def test_other_addresses_are_dropped_in_version_2_unless_the_owner_says_so() -> None:
    odd = replace(ADVERT2, addresses=(PEER,))
    assert counted(sent(odd), ROUTER2) is Count.ADDRESS_ERRORS
    assert not examine(sent(replace(odd, priority=255)), ROUTER2, OWN).listed


@covers("3768 7.1-1")
def test_version_2_insists_on_the_configured_interval() -> None:
    assert counted(sent(replace(ADVERT2, interval=2.0)), ROUTER2) is Count.INTERVAL_ERRORS


@covers("3768 5.3.6")
def test_version_2_ignores_authentication() -> None:
    heard = patched(sent(ADVERT2), 4, 1)
    for at, byte in enumerate(b"password"):
        heard = patched(heard, 12 + at, byte)
    assert examine(heard, ROUTER2, OWN).advert == ADVERT2


def test_our_own_address_is_a_loop() -> None:
    assert counted(sent(ADVERT, source=str(OWN))) is Count.OWN_SOURCE


def test_only_configured_peers_are_heard_where_there_are_some() -> None:
    router = replace(ROUTER, peers=(ip_address("192.0.2.3"),))
    assert counted(sent(ADVERT), router) is Count.UNKNOWN_PEER
    assert examine(sent(ADVERT, source="192.0.2.3"), router, OWN).advert == ADVERT


BREAKS = [
    (Count.TTL_ERRORS, lambda heard: replace(heard, ttl=254)),
    (Count.VERSION_ERRORS, lambda heard: patched(heard, 0, heard.payload[0] ^ 0x10)),
    (Count.TYPE_ERRORS, lambda heard: patched(heard, 0, heard.payload[0] ^ 0x02)),
    (Count.LENGTH_ERRORS, lambda heard: patched(heard, 3, 9)),
    (Count.CHECKSUM_ERRORS, lambda heard: replace(heard, payload=heard.payload[:-1] + b"\1")),
]


@covers("9568 7.1-6", "6527")
@pytest.mark.parametrize("first", range(len(BREAKS) - 1))
def test_of_several_faults_the_first_check_counts(first: int) -> None:
    heard = sent(replace(ADVERT, vrid=9))
    for _, spoil in reversed(BREAKS[first:]):
        heard = spoil(heard)
    assert counted(heard) is BREAKS[first][0]


@given(data=st.binary(max_size=80), ttl=st.sampled_from([255, 255, 64]), six=st.booleans())
def test_no_bytes_do_more_than_be_dropped(data: bytes, ttl: int, six: bool) -> None:
    router = ROUTER6 if six else ROUTER
    heard = Packet(PEER6, GROUP6, ttl, data) if six else Packet(PEER, GROUP4, ttl, data)
    with pytest.raises(Dropped):
        examine(heard, router, LL if six else OWN)


@given(data=st.binary(min_size=4, max_size=40), version=st.sampled_from([2, 3]))
def test_no_bytes_behind_a_right_header_do_more_either(data: bytes, version: int) -> None:
    head = bytes([version << 4 | 1, 7, 100, len(data) // 4])
    body = bytearray(head + data[:4] + data)
    body[6:8] = b"\0\0"
    body[6:8] = packet.checksum(bytes(body)).to_bytes(2, "big")
    with suppress(Dropped):
        examine(Packet(PEER, GROUP4, 255, bytes(body)), replace(ROUTER, version=version), OWN)
