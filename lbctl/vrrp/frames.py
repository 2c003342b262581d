"""What a virtual router puts on the wire by itself, as whole Ethernet frames.

Adverts to the multicast group and announcements leave from the virtual MAC, whichever
device the addresses are on, so that bridges learn where it is (RFC 9568, 7.2, 8.1.2, 8.2.4).
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from lbctl.model import Address
from lbctl.vrrp.packet import GROUP4, GROUP6, PROTOCOL, TTL, checksum

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
_ICMPV6 = 58
_CONTROL = 0xC0  # internetwork control (RFC 2474, CS6)
_NEIGHBOUR_ADVERTISEMENT = 136
_ROUTER_OVERRIDE = 0xA0000000  # R and O set, S clear
_TARGET_LINK_LAYER = 2  # option; its length is counted in units of eight bytes


def advert(payload: bytes, mac: bytes, own: Address) -> bytes:
    """A VRRP packet to the group of its family."""
    if isinstance(own, IPv4Address):
        group = b"\x01\x00\x5e" + GROUP4.packed[1:]
        return group + mac + b"\x08\x00" + _ipv4(own, GROUP4, payload) + payload
    return _ipv6_frame(mac, own, GROUP6, PROTOCOL, payload)


def gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    """A request for `address` from itself (RFC 9568, 8.1.2; errata 7947, 7949)."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return BROADCAST + mac + b"\x08\x06" + head + (mac + address.packed) * 2


def unsolicited_na(mac: bytes, address: IPv6Address) -> bytes:
    """A neighbour advertisement to all nodes (RFC 9568, 8.2.4; RFC 4861, 4.4)."""
    body = struct.pack("!BBHI", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _ROUTER_OVERRIDE)
    body += address.packed + bytes([_TARGET_LINK_LAYER, 1]) + mac
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!II", len(body), _ICMPV6)
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    return _ipv6_frame(mac, address, ALL_NODES, _ICMPV6, body)


def announcement(mac: bytes, address: Address) -> bytes:
    if isinstance(address, IPv4Address):
        return gratuitous_arp(mac, address)
    return unsolicited_na(mac, address)


def _ipv4(source: IPv4Address, destination: IPv4Address, payload: bytes) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        _CONTROL,
        20 + len(payload),
        0,
        0,
        TTL,
        PROTOCOL,
        0,
        source.packed,
        destination.packed,
    )
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:]


def _ipv6_frame(
    mac: bytes, source: IPv6Address, group: IPv6Address, following: int, payload: bytes
) -> bytes:
    head = struct.pack("!IHBB", 6 << 28 | _CONTROL << 20, len(payload), following, TTL)
    ethernet = b"\x33\x33" + group.packed[-4:] + mac + b"\x86\xdd"
    return ethernet + head + source.packed + group.packed + payload
