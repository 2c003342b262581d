"""What one section alone cannot show: names against sites, policies and zone data.

Faults are (path in the `gslb` section, what is wrong and how to mend it).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from lbctl.gslb.model import (
    AllDown,
    Attribute,
    First,
    Gslb,
    Healthy,
    Match,
    Member,
    Name,
    Observers,
    Policy,
    Record,
    RoundRobin,
    Sticky,
    Weighted,
    Zone,
)
from lbctl.gslb.networks import key_of
from lbctl.gslb.plan import inner_apexes
from lbctl.gslb.records import LARGEST
from lbctl.gslb.wire import Type, is_below, name_to_text
from lbctl.model import Network

Path = tuple[str | int, ...]
Fault = tuple[Path, str]
BALANCES = (Weighted, RoundRobin, Sticky)


def faults(gslb: Gslb) -> Iterator[Fault]:
    """All that is wrong with `gslb` as a whole."""
    for name, policy in gslb.policies.items():
        yield from _policy(gslb, ("policies", name), policy)
    inner = inner_apexes(gslb)
    for zone in gslb.zones:
        yield from _zone(gslb, zone, inner[zone.apex])
        yield from _referrals(zone)
    for number, endpoint in enumerate(gslb.listens):
        if endpoint.address.is_unspecified:
            text = "replies would leave from another address than was asked (name each address)"
            yield ("listen", number), f"{endpoint}: {text}"
    yield from _loops(gslb)
    yield from _observers(gslb, gslb.observers)
    yield from _keys(("measure",), gslb.measure)


def warnings(gslb: Gslb) -> Iterator[Fault]:
    """What is valid and probably not meant."""
    for name, policy in gslb.policies.items():
        if not any(isinstance(step, Healthy) for step in policy.steps):
            text = "answers sites that are down as well (add the step healthy)"
            yield ("policies", name, "steps"), text


def _policy(gslb: Gslb, at: Path, policy: Policy) -> Iterator[Fault]:
    for number, step in enumerate(policy.steps):
        here = (*at, "steps", number)
        if isinstance(step, Match):
            for key, sites in step.sites.items():
                for site in sites:
                    if site not in gslb.sites:
                        yield here, f"{step.by} {key}: no site '{site}' ({_known(gslb)})"
            if step.by is Attribute.CIDR:
                yield from _keys(here, step.networks())
        if isinstance(step, First) and step.count < 1:
            yield here, "first takes at least 1"
    balances = [step for step in policy.steps if isinstance(step, BALANCES)]
    if len(balances) > 1:
        yield (*at, "steps"), "weighted, round-robin and sticky exclude each other (keep one)"
    cidrs = [one for one in policy.steps if isinstance(one, Match) and one.by is Attribute.CIDR]
    if len(cidrs) > 1:
        # An address is in one network, the longest of all: a second map would hide the first.
        yield (*at, "steps"), "two cidr steps (write all networks in one)"
    if policy.all_down is AllDown.STATIC and not policy.static:
        yield (*at, "all_down"), "static needs addresses (write static: [ADDRESS])"


def _keys(at: Path, networks: Iterable[Network]) -> Iterator[Fault]:
    for network in networks:
        try:
            key_of(network)
        except ValueError as error:
            yield at, f"{error}: no resolver sends so much (write a /64 or shorter)"


def _zone(gslb: Gslb, zone: Zone, inner: Sequence[bytes]) -> Iterator[Fault]:
    at: Path = _zone_path(zone)
    static: dict[bytes, set[int]] = {}
    for record in zone.records:
        static.setdefault(record.name, set()).add(record.type)
    cuts = [n for n, types in static.items() if Type.NS in types and n != zone.apex]
    for name in zone.names:
        here = (*at, "names", _relative(name, zone))
        if not is_below(name.wire, zone.apex):
            yield here, f"is outside the zone {name_to_text(zone.apex)}"
        if theirs := [apex for apex in inner if is_below(name.wire, apex)]:
            closest = name_to_text(max(theirs, key=len))
            yield here, f"lies in the zone {closest}, which answers (write it there)"
        elif any(is_below(name.wire, cut) for cut in cuts):
            yield here, "lies under a delegation of the zone file: its servers answer"
        yield from _name(gslb, here, name, static.get(name.wire, set()), zone)


def _referrals(zone: Zone) -> Iterator[Fault]:
    """Delegations whose servers and glue no message holds."""
    servers: dict[bytes, list[Record]] = {}
    glue: Counter[bytes] = Counter()  # octets
    for record in zone.records:
        if record.type == Type.NS and record.name != zone.apex:
            servers.setdefault(record.name, []).append(record)
        if record.type in {Type.A, Type.AAAA}:
            glue[record.name] += 10 + len(record.name) + len(record.rdata)
    for cut, found in servers.items():
        size = sum(10 + len(cut) + len(one.rdata) + glue[one.rdata.lower()] for one in found)
        if size > LARGEST:
            text = f"the delegation of {name_to_text(cut)} has {size} octets with its glue"
            yield (*_zone_path(zone), "file"), f"line {found[0].line}: {text} (at most {LARGEST})"


def _name(gslb: Gslb, at: Path, name: Name, static: set[int], zone: Zone) -> Iterator[Fault]:
    if name.policy not in gslb.policies:
        known = ", ".join(gslb.policies)
        yield (*at, "policy"), f"no policy '{name.policy}' (known: {known})"
    for member in name.members:
        yield from _member(gslb, (*at, "members", member.site), member)
    if (size := sum(28 * len(member.addresses) for member in name.members)) > LARGEST:
        yield at, f"has addresses of {size} octets: no message holds them (at most {LARGEST})"
    if any(member.cname for member in name.members):
        if static or name.wire == zone.apex:
            yield at, "answers a CNAME beside other data (RFC 1034 section 3.6.2: keep one)"
    elif clash := static & {Type.A, Type.AAAA, Type.CNAME}:
        kinds = ", ".join(Type(kind).name for kind in sorted(clash))
        yield at, f"is balanced here and has {kinds} in the zone file (keep one)"


def _member(gslb: Gslb, at: Path, member: Member) -> Iterator[Fault]:
    if member.site not in gslb.sites:
        yield at, f"no site '{member.site}' ({_known(gslb)})"
    if not member.addresses and not member.cname:
        yield at, "has no addresses (write addresses: [ADDRESS], or cname: NAME)"
    if member.addresses and member.cname:
        yield at, "has addresses and a CNAME (RFC 1034 section 3.6.2: keep one)"


def _zone_path(zone: Zone) -> Path:
    return ("zones", name_to_text(zone.apex).removesuffix("."))


def _relative(name: Name, zone: Zone) -> str:
    """The name as the section writes it."""
    labels = len(name.wire) - len(zone.apex)
    return name_to_text(name.wire[:labels] + b"\0").removesuffix(".") if labels else "@"


def _known(gslb: Gslb) -> str:
    return "known: " + ", ".join(gslb.sites)


def _loops(gslb: Gslb) -> Iterator[Fault]:
    """CNAMEs within our zones that lead back to themselves."""
    leads: dict[bytes, set[bytes]] = {}
    places: dict[bytes, Path] = {}
    lines: dict[bytes, int] = {}  # of zone files
    for zone in gslb.zones:
        at = _zone_path(zone)
        for record in zone.records:
            if record.type == Type.CNAME:
                leads.setdefault(record.name, set()).add(record.rdata.lower())
                places[record.name] = (*at, "file")
                lines[record.name] = record.line
        for name in zone.names:
            targets = {member.cname for member in name.members if member.cname}
            if targets:
                leads.setdefault(name.wire, set()).update(targets)
                places[name.wire] = (*at, "names", _relative(name, zone))
    for start in leads:
        if start in _reachable(leads, start):
            line = f"line {lines[start]}: " if start in lines else ""
            yield places[start], f"{line}{name_to_text(start)} is a CNAME that leads back to itself"


def _reachable(leads: dict[bytes, set[bytes]], start: bytes) -> set[bytes]:
    found: set[bytes] = set()
    waiting = list(leads[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += leads.get(name, ())
    return found


def _observers(gslb: Gslb, observers: Observers) -> Iterator[Fault]:
    """Whether every site can be found dead at all, and only by more than one voice."""
    if not gslb.sites:
        return
    for site in gslb.sites:
        outside = observers.outside(site)
        if observers.quorum > len(outside):
            text = f"quorum {observers.quorum}, but {len(outside)} observers outside '{site}'"
            yield ("observers", "quorum"), f"{text} (lower it, or add a witness)"
            return
        if len(outside) < 2 and observers.quorum != 1:
            text = f"site '{site}' has one observer outside it, whose error would be its end"
            yield ("observers",), f"{text} (add a witness, or write quorum: 1)"
            return
