"""Virtual routers in messages and back, and what is wrong with them."""

import shlex
from collections.abc import Iterable
from dataclasses import astuple
from ipaddress import IPv6Address, ip_address, ip_network

from msgspec import structs

from lbctl.errors import InvalidConfig
from lbctl.messages import NotifySettings, RouterSettings, TrackerSettings
from lbctl.model import (
    Address,
    ChecksumForm,
    Family,
    Mac,
    Notify,
    Preempt,
    Router,
    Tracker,
    TrackerKind,
    family_of,
)

LEAST = 5  # jiffies; a shorter lease would be lost to rounding
FAST = 0.1  # seconds; adverts closer than this need a real-time scheduler
MAC_PREFIX = {Family.IPV4: "00:00:5e:00:01", Family.IPV6: "00:00:5e:00:02"}


def virtual_mac(router: Router) -> bytes:
    """The virtual router's MAC (RFC 9568, 7.3)."""
    return bytes.fromhex(MAC_PREFIX[router.family].replace(":", "")) + bytes([router.vrid])


def with_link_local(vrid: int, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
    """IPv6 addresses with a link-local one first, as the RFC demands (5.2.9): the first
    that is given, else the one that follows from the virtual MAC (EUI-64)."""
    local = [address for address in addresses if address.is_link_local]
    if not local:
        local = [IPv6Address(f"fe80::200:5eff:fe00:2{vrid:02x}")]
    return (*local[:1], *(address for address in addresses if address != local[0]))


def faults(router: Router) -> list[str]:
    """What cannot be, each with its mend. Empty: it can run."""
    found = []
    if not 1 <= router.vrid <= 255:
        found.append(f"vrid {router.vrid}: 1 to 255")
    if not 1 <= router.priority <= 255:
        found.append(f"priority {router.priority}: 1 to 254, or 255 for the owner")
    if not 1 <= len(router.addresses) <= 255:
        return [*found, "addresses: at least one, at most 255"]
    if len({address.version for address in (*router.addresses, *router.peers)}) > 1:
        found.append("addresses and peers: all IPv4 or all IPv6 (two virtual routers for both)")
    found += _peer_faults(router) + _interval_faults(router) + _text_faults(router)
    if router.version == 2 and router.family is Family.IPV6:
        found.append("version 2 has no IPv6: set version: 3")
    if min(router.preempt_delay, router.hold, router.refresh) < 0:
        found.append("preempt_delay, hold and refresh are not negative")
    if router.owner and any(tracker.weight is not None for tracker in router.trackers):
        found.append("the owner's priority is always 255: its trackers have no weight")
    return found


def _peer_faults(router: Router) -> list[str]:
    """IPv6 adverts leave from a link-local address (RFC 9568, 5.1.2.1), and a peer hears
    only those that it knows."""
    return [
        f"peer {peer}: write the peer's link-local address (fe80::...): IPv6 adverts leave from it"
        for peer in router.peers
        if peer.version == 6 and not peer.is_link_local
    ]


def _text_faults(router: Router) -> list[str]:
    """Commands and prefixes that cannot be read when they are needed."""
    found = []
    if router.notify is not None:
        found += _command_faults("notify", router.notify.command)
    for tracker in router.trackers:
        if tracker.kind is TrackerKind.SCRIPT:
            found += _command_faults("script", tracker.subject)
        if tracker.kind is TrackerKind.ROUTE:
            try:
                ip_network(tracker.subject)
            except ValueError as error:
                found.append(f"route {tracker.subject}: {error}")
    return found


def _command_faults(what: str, command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"{what} {command!r}: {error}"]
    return [] if words else [f"{what} {command!r}: no command"]


def _interval_faults(router: Router) -> list[str]:
    if router.version == 2:
        if router.interval in range(1, 256):
            return []
        return [f"interval {router.interval:g} s: whole seconds, 1 to 255, in version 2"]
    if router.version != 3:
        return [f"version {router.version}: 2 or 3"]
    hundredths = router.interval * 100
    if not 1 <= round(hundredths) <= 4095 or abs(hundredths - round(hundredths)) > 1e-6:
        return [f"interval {router.interval:g} s: 0.01 to 40.95 in steps of 0.01"]
    return []


def too_short(lease: float, tick: float) -> str:
    """What is wrong with a lease (seconds) where a jiffy takes `tick`, if anything."""
    if int(lease / tick + 1e-6) >= LEAST:
        return ""
    return (
        f"a lease of {lease * 1000:g} ms is under {LEAST} jiffies of this kernel "
        f"({tick * 1000:g} ms each): use a longer interval"
    )


def clashes(routers: Iterable[Router]) -> list[tuple[str, str]]:
    """Virtual routers that cannot be on one gateway together: name, what is wrong."""
    found: list[tuple[str, str]] = []
    holders: dict[tuple[object, ...], str] = {}
    for router in routers:
        interface = router.interface
        things: dict[tuple[object, ...], str] = {
            (interface, router.family, router.vrid): f"vrid {router.vrid} on {interface}"
        }
        for address in router.addresses:
            link = interface if address.is_link_local else ""
            things[link, address] = f"{address}"
        for key, thing in things.items():
            holder = holders.setdefault(key, router.name)
            if holder != router.name:
                found.append((router.name, f"{thing} is {holder}'s already"))
    return found


def to_message(router: Router) -> RouterSettings:
    return RouterSettings(
        name=router.name,
        interface=router.interface,
        vrid=router.vrid,
        priority=router.priority,
        addresses=tuple(str(address) for address in router.addresses),
        interval=router.interval,
        version=router.version,
        mac=router.mac,
        peers=tuple(str(address) for address in router.peers),
        checksum=router.checksum,
        accept=router.accept,
        preempt=router.preempt,
        preempt_delay=router.preempt_delay,
        hold=router.hold,
        group=router.group,
        refresh=router.refresh,
        trackers=tuple(TrackerSettings(*astuple(tracker)) for tracker in router.trackers),
        notify=NotifySettings(*astuple(router.notify)) if router.notify else None,
    )


def from_message(settings: RouterSettings) -> Router:
    """Raises InvalidConfig with every fault, each naming the router."""
    try:
        addresses = tuple(ip_address(text) for text in settings.addresses)
        if addresses and family_of(addresses[0]) is Family.IPV6:
            addresses = with_link_local(settings.vrid, addresses)
        router = _router(settings, addresses)
    except ValueError as error:
        raise InvalidConfig([f"{settings.name}: {error}"]) from None
    if found := faults(router):
        raise InvalidConfig([f"{settings.name}: {fault}" for fault in found])
    return router


def _router(settings: RouterSettings, addresses: tuple[Address, ...]) -> Router:
    return Router(
        name=settings.name,
        interface=settings.interface,
        vrid=settings.vrid,
        addresses=addresses,
        priority=settings.priority,
        interval=settings.interval,
        version=settings.version,
        mac=Mac(settings.mac),
        peers=tuple(ip_address(text) for text in settings.peers),
        checksum=ChecksumForm(settings.checksum),
        accept=settings.accept,
        preempt=Preempt(settings.preempt),
        preempt_delay=settings.preempt_delay,
        hold=settings.hold,
        group=settings.group,
        refresh=settings.refresh,
        trackers=tuple(_tracker(tracker) for tracker in settings.trackers),
        notify=Notify(*structs.astuple(settings.notify)) if settings.notify else None,
    )


def _tracker(settings: TrackerSettings) -> Tracker:
    kind, *rest = structs.astuple(settings)
    return Tracker(TrackerKind(kind), *rest)
