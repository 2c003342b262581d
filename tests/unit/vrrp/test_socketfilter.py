"""The filters, run by an interpreter of the six instructions that they use."""

from ipaddress import ip_address

import pytest

from lbctl.model import Address
from lbctl.vrrp.socketfilter import Instruction, others, ours, strangers

NET = 0xFFF00000
PEERS = [ip_address("192.0.2.3"), ip_address("192.0.2.4")]
PEERS6 = [ip_address("fe80::3"), ip_address("fe80::4")]


def hears(program: list[Instruction], vrid: int, source: Address) -> bool:
    """As the kernel runs it (linux/filter.h) on an advert with this VRID from `source`."""
    advert = bytes([0x31, vrid]) + bytes(6)
    if source.version == 4:
        network = b"\x46" + bytes(11) + source.packed + bytes(8) + advert  # with an option
        data = network
    else:
        network = bytes(8) + source.packed + bytes(16) + advert
        data = advert
    at = index = value = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        match code:
            case 0xB1:
                index = (data[k] & 0xF) * 4
            case 0x30:
                value = data[k]
            case 0x50:
                value = data[index + k]
            case 0x20:
                value = int.from_bytes(network[k - NET : k - NET + 4], "big")
            case 0x15:
                at += yes if value == k else no
            case 0x06:
                return k > 0


@pytest.mark.parametrize("peers", [PEERS, PEERS6], ids=["ipv4", "ipv6"])
def test_each_packet_is_heard_or_counted_once(peers: list[Address]) -> None:
    six = peers[0].version == 6
    stranger = ip_address("fe80::9" if six else "192.0.2.9")
    filters = [ours(7, peers, six), others(7, peers, six), strangers({7, 8}, six)]
    for vrid, source, wanted in (
        (7, peers[0], [True, False, False]),
        (7, peers[1], [True, False, False]),
        (7, stranger, [False, True, False]),
        (8, peers[0], [False, False, False]),  # another router of ours hears it
        (9, peers[0], [False, False, True]),
        (9, stranger, [False, False, True]),
    ):
        assert [hears(one, vrid, source) for one in filters] == wanted, (vrid, source)


def test_without_peers_everybody_is_heard() -> None:
    for source in (*PEERS, ip_address("192.0.2.9")):
        assert hears(ours(7, [], six=False), 7, source)
        assert not hears(ours(7, [], six=False), 8, source)
