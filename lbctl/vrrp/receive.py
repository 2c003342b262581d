"""Whether a packet is an advert that this virtual router may believe.

The checks stand in the order of RFC 9568 section 7.1 (RFC 3768 section 7.1 for version 2),
each with the counter that RFC 6527 gives it: an error *is* a counter.
"""

from dataclasses import dataclass
from enum import StrEnum

from lbctl.model import Address, ChecksumForm, Router
from lbctl.vrrp import packet
from lbctl.vrrp.packet import Advert


class Count(StrEnum):
    """What is counted: RFC 6527's objects first, then ours."""

    ACTIVE_TRANSITIONS = "active_transitions"
    RECEIVED = "received_advertisements"
    SENT = "sent_advertisements"
    TTL_ERRORS = "ip_ttl_errors"
    VERSION_ERRORS = "version_errors"
    TYPE_ERRORS = "received_invalid_type"
    LENGTH_ERRORS = "packet_length_errors"
    CHECKSUM_ERRORS = "checksum_errors"
    VRID_ERRORS = "vrid_errors"
    INTERVAL_ERRORS = "advertisement_interval_errors"
    ADDRESS_ERRORS = "address_list_errors"
    RECEIVED_ZERO = "received_priority_zero"
    SENT_ZERO = "sent_priority_zero"
    # Beyond RFC 6527.
    OWN_SOURCE = "own_source_address"
    UNKNOWN_PEER = "unknown_peer"
    NO_ADDRESSES = "no_addresses"
    TWO_ACTIVES = "two_actives"
    LATE = "late_sender"
    SEND_ERRORS = "send_errors"


@dataclass(frozen=True, slots=True)
class Packet:
    """What arrived, with what its IP header said. payload: from the VRRP header on. age:
    seconds since the kernel had it."""

    source: Address
    destination: Address
    ttl: int
    payload: bytes
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Heard:
    """An advert that passed. listed: its addresses are the ones configured here."""

    advert: Advert
    source: Address
    form: ChecksumForm
    listed: bool = True


class Dropped(Exception):
    """A packet that is no advert for us: which counter, and what an operator may read."""

    def __init__(self, count: Count, detail: str) -> None:
        super().__init__(detail)
        self.count = count


def examine(heard: Packet, router: Router, own: Address | None) -> Heard:
    """The advert in `heard`, for `router`, whose interface has the address `own`.

    Raises Dropped; nothing else, whatever the bytes are.
    """
    payload, source = heard.payload, heard.source
    # A router would lower it, so 255 proves that the sender is on this link (5.1.1.3).
    # IPv6 to unicast peers, which no RFC knows, is what keepalived 2.2 sends with 64.
    if heard.ttl != packet.TTL and not (router.peers and source.version == 6):
        raise Dropped(Count.TTL_ERRORS, f"TTL {heard.ttl} instead of 255")
    if not payload or payload[0] >> 4 != router.version:
        version = payload[0] >> 4 if payload else "none"
        raise Dropped(Count.VERSION_ERRORS, f"version {version}, not {router.version}")
    if payload[0] & 0xF != packet.ADVERTISEMENT:
        raise Dropped(Count.TYPE_ERRORS, f"type {payload[0] & 0xF} instead of 1")
    expected = packet.length(payload, source.version)
    if expected != len(payload):
        raise Dropped(Count.LENGTH_ERRORS, f"{len(payload)} bytes instead of {expected or 8}")
    form = packet.checksum_form(payload, source, heard.destination)
    if form is None:
        raise Dropped(Count.CHECKSUM_ERRORS, "wrong checksum")
    advert = packet.decode(payload, source.version)
    if advert.vrid != router.vrid:
        raise Dropped(Count.VRID_ERRORS, f"VRID {advert.vrid} instead of {router.vrid}")
    # The owner is not exempt: erratum 8298 leaves it at telling, which `VirtualRouter`
    # does, since an owner that hears no one can never end a conflict.
    _examine_interval(advert, router)
    if not advert.addresses:  # 5.2.5, erratum 8299
        raise Dropped(Count.NO_ADDRESSES, "no addresses in it")
    if source == own:
        raise Dropped(Count.OWN_SOURCE, "our own source address: a loop or a double address")
    if router.peers and source not in router.peers:
        raise Dropped(Count.UNKNOWN_PEER, "not one of the configured peers")
    return Heard(advert, source, form, _listed(advert, router))


def _examine_interval(advert: Advert, router: Router) -> None:
    if advert.interval == 0:  # erratum 8301: three times zero would be no time at all
        raise Dropped(Count.INTERVAL_ERRORS, "an advertisement interval of 0")
    # Version 3 learns the Active's interval; version 2 insists on one (RFC 3768, 7.1).
    if advert.version == 2 and advert.interval != router.interval:
        detail = f"an interval of {advert.interval:g} s instead of {router.interval:g} s"
        raise Dropped(Count.INTERVAL_ERRORS, detail)


def _listed(advert: Advert, router: Router) -> bool:
    """Other addresses than ours: told in version 3 (7.1, a MAY), dropped in version 2
    unless the owner itself says so (RFC 3768, 7.1)."""
    listed = frozenset(advert.addresses) == frozenset(router.addresses)
    if not listed and advert.version == 2 and advert.priority != 255:
        raise Dropped(Count.ADDRESS_ERRORS, "other addresses than those configured")
    return listed
