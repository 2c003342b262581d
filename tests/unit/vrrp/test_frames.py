"""Frames, judged by scapy: it takes them apart, and builds the same."""

from ipaddress import ip_address

from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vrrp import VRRPv3

from lbctl.model import ChecksumForm
from lbctl.vrrp import frames, packet
from lbctl.vrrp.packet import GROUP4, GROUP6, Advert
from tests.unit.vrrp.clauses import covers

MAC = bytes.fromhex("00005e000107")
MAC6 = bytes.fromhex("00005e000207")
OWN, LL = ip_address("192.0.2.1"), ip_address("fe80::1")
VIP, VIP6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")


def rebuilt(frame: Ether) -> bytes:
    """The same with every length and checksum computed by scapy."""
    again = frame.copy()
    for layer in (IP, VRRPv3, ICMPv6ND_NA):
        if again.haslayer(layer):
            for field in ("chksum", "cksum", "len"):
                if field in again[layer].fields:
                    delattr(again[layer], field)
    return bytes(again)


@covers("9568 5.1.1.1", "9568 5.1.1.2", "9568 5.1.1.3-1", "9568 7.2-1", "9568 7.2-2")
def test_an_ipv4_advert() -> None:
    payload = packet.encode(Advert(7, 100, 1.0, (VIP,)), OWN, GROUP4, ChecksumForm.PSEUDO)
    data = frames.advert(payload, MAC, OWN)
    frame = Ether(data)
    assert (frame.src, frame.dst) == ("00:00:5e:00:01:07", "01:00:5e:00:00:12")
    assert (frame[IP].src, frame[IP].dst) == ("192.0.2.1", "224.0.0.18")
    assert (frame[IP].ttl, frame[IP].proto) == (255, 112)
    assert rebuilt(frame) == data


@covers("9568 5.1.2.1", "9568 5.1.2.2", "9568 5.1.2.3-1", "9568 7.2-1")
def test_an_ipv6_advert() -> None:
    payload = packet.encode(Advert(7, 100, 1.0, (VIP6,)), LL, GROUP6, ChecksumForm.PSEUDO)
    data = frames.advert(payload, MAC6, LL)
    frame = Ether(data)
    assert (frame.src, frame.dst) == ("00:00:5e:00:02:07", "33:33:00:00:00:12")
    assert (frame[IPv6].src, frame[IPv6].dst) == ("fe80::1", "ff02::12")
    assert (frame[IPv6].hlim, frame[IPv6].nh, frame[IPv6].plen) == (255, 112, len(payload))
    assert bytes(frame[IPv6].payload) == payload


@covers("9568 8.1.2-2")
def test_gratuitous_arp() -> None:
    frame = Ether(frames.announcement(MAC, VIP))
    assert (frame.src, frame.dst) == ("00:00:5e:00:01:07", "ff:ff:ff:ff:ff:ff")
    arp = frame[ARP]
    assert (arp.op, arp.hwsrc, arp.hwdst) == (1, "00:00:5e:00:01:07", "00:00:5e:00:01:07")
    assert (arp.psrc, arp.pdst) == ("192.0.2.10", "192.0.2.10")


@covers("9568 8.2.4")
def test_unsolicited_neighbour_advertisement() -> None:
    data = frames.announcement(MAC6, VIP6)
    frame = Ether(data)
    assert (frame.src, frame.dst) == ("00:00:5e:00:02:07", "33:33:00:00:00:01")
    na = frame[ICMPv6ND_NA]
    assert (na.R, na.S, na.O, na.tgt) == (1, 0, 1, "2001:db8::10")
    assert frame[ICMPv6NDOptDstLLAddr].lladdr == "00:00:5e:00:02:07"
    assert frame[IPv6].hlim == 255
    assert rebuilt(frame) == data
