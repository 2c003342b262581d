"""Adverts in bytes, judged by scapy's own VRRP layers."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.vrrp import VRRP, VRRPv3

from lbctl.model import ChecksumForm
from lbctl.vrrp import packet
from lbctl.vrrp.packet import GROUP4, GROUP6, Advert
from tests.unit.vrrp.clauses import covers

A, B = ip_address("192.0.2.1"), ip_address("192.0.2.2")
LL = ip_address("fe80::1")
VIPS4 = (ip_address("192.0.2.10"), ip_address("192.0.2.11"))
VIPS6 = (ip_address("fe80::10"), ip_address("2001:db8::10"))
PSEUDO, PLAIN = ChecksumForm.PSEUDO, ChecksumForm.RFC9568


@covers("9568 7.2-2", "9568 5.2.7", "9568 5.2.6")
def test_version_3_is_the_bytes_of_the_figure() -> None:
    advert = Advert(7, 150, 0.1, VIPS4)
    data = packet.encode(advert, A, GROUP4, PLAIN)
    assert data[:6].hex() == "31079602000a"
    assert data[8:].hex() == "c000020ac000020b"
    assert data[6:8].hex() == "b4d5"


def test_version_2_is_the_bytes_of_the_figure() -> None:
    data = packet.encode(Advert(7, 150, 3.0, VIPS4[:1], 2), A, GROUP4, PSEUDO)
    assert data[:6].hex() == "210796010003"
    assert data[8:].hex() == "c000020a" + "00" * 8


@covers("9568 5.2.8-2")
@pytest.mark.parametrize("version", [2, 3])
def test_scapy_computes_the_same_ipv4_checksum(version: int) -> None:
    advert = Advert(7, 150, 1.0, VIPS4, version)
    ours = packet.encode(advert, A, GROUP4, PSEUDO)
    if version == 3:
        layer = VRRPv3(vrid=7, priority=150, adv=100, addrlist=[str(v) for v in VIPS4])
    else:
        layer = VRRP(vrid=7, priority=150, adv=1, addrlist=[str(v) for v in VIPS4])
    theirs = bytes(IP(src=str(A), dst=str(GROUP4), proto=112) / layer)[20:]
    assert ours == theirs


@covers("9568 5.2.8-1")
def test_scapy_finds_the_ipv6_checksum_right() -> None:
    ours = packet.encode(Advert(7, 150, 1.0, VIPS6), LL, GROUP6, PLAIN)
    layer = VRRPv3(vrid=7, priority=150, adv=100, addrlist=[str(v) for v in VIPS6])
    theirs = bytes(IPv6(src=str(LL), dst=str(GROUP6), nh=112) / layer)[40:]
    assert ours == theirs


@covers("9568 5.2.8-2")
@pytest.mark.parametrize("form", [PSEUDO, PLAIN])
def test_the_form_of_a_checksum_is_told_apart(form: ChecksumForm) -> None:
    data = packet.encode(Advert(7, 150, 1.0, VIPS4), A, GROUP4, form)
    assert packet.checksum_form(data, A, GROUP4) is form
    assert packet.checksum_form(data[:-1] + b"\xff", A, GROUP4) is None


addresses = st.one_of(
    st.lists(st.ip_addresses(v=4), min_size=1, max_size=20),
    st.lists(st.ip_addresses(v=6), min_size=1, max_size=20),
)


@given(
    vrid=st.integers(1, 255),
    priority=st.integers(0, 255),
    centiseconds=st.integers(1, 4095),
    addresses=addresses,
    form=st.sampled_from([PSEUDO, PLAIN]),
)
def test_what_is_encoded_decodes(
    vrid: int,
    priority: int,
    centiseconds: int,
    addresses: list[IPv4Address | IPv6Address],
    form: ChecksumForm,
) -> None:
    advert = Advert(vrid, priority, centiseconds / 100, tuple(addresses))
    family = addresses[0].version
    source, group = (A, GROUP4) if family == 4 else (LL, GROUP6)
    data = packet.encode(advert, source, group, form)
    assert packet.length(data, family) == len(data)
    assert packet.decode(data, family) == advert
    assert packet.checksum_form(data, source, group) is not None


@pytest.mark.parametrize(
    ("version", "interval"), [(2, 0.1), (2, 256), (3, 0.0), (3, 0.001), (3, 40.96)]
)
def test_an_interval_that_does_not_fit_is_refused(version: int, interval: float) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        packet.encode(Advert(1, 1, interval, VIPS4, version), A, GROUP4, PSEUDO)


@given(st.binary(max_size=64))
def test_the_checksum_of_what_carries_it_is_zero(data: bytes) -> None:
    data += bytes(len(data) % 2)
    whole = data + packet.checksum(data).to_bytes(2, "big")
    assert packet.checksum(whole) == 0
