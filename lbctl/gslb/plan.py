"""From zones to *slots*: every question that has an answer, and what kind of answer.

A slot's key is name, type and class as they stand in a question, lower case. Four types
that no question has say the rest of a name:

    OTHER      the name exists, nothing of the type asked: NODATA (or a CNAME)
    BELOW      a zone cut: all that lies below is a referral
    NXDOMAIN   of a zone, at its apex

A *pool* is what slots with the same policy and the same members share; a *table* is what
pools with the same ordering steps at the same sites share: one network -> region map.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lbctl.gslb import records
from lbctl.gslb.model import Gslb, Member, Name, Policy, Record, Step, Zone
from lbctl.gslb.policy import static_steps
from lbctl.gslb.records import Answer
from lbctl.gslb.wire import Rcode, Type, is_below, name_to_text, parent

OTHER = b"\x00\x00\x00\x01"
BELOW = b"\xff\xff\x00\x01"
NXDOMAIN = b"\xff\xfd\x00\x01"
A = b"\x00\x01\x00\x01"
AAAA = b"\x00\x1c\x00\x01"
DS = 43
STAR = b"\x01*"


@dataclass(frozen=True, slots=True)
class TableKey:
    """What a network -> region map depends on, beside the databases."""

    steps: tuple[Step, ...]
    sites: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Members under a policy."""

    policy_name: str
    policy: Policy
    members: tuple[Member, ...]
    table: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One question. Static, with its `answer`; or balanced over `pool`, with `nobody` as
    the answer when no member serves."""

    label: str  # the name as text, for metrics
    answer: Answer
    pool: int | None = None
    type: int = 0
    ttl: int = 0


@dataclass(slots=True)
class Plan:
    """All slots, pools and tables, in the order in which the blobs number them."""

    slots: dict[bytes, Slot] = field(default_factory=dict)
    pools: dict[Pool, int] = field(default_factory=dict)
    tables: dict[TableKey, int] = field(default_factory=dict)

    def pool(self, name: str, policy: Policy, members: tuple[Member, ...]) -> int:
        steps = static_steps(policy)
        sites = tuple(member.site for member in members) if steps else ()
        table = self.tables.setdefault(TableKey(steps, sites), len(self.tables))
        return self.pools.setdefault(Pool(name, policy, members, table), len(self.pools))


def plan(gslb: Gslb) -> Plan:
    """The slots of all zones. The zones have been checked (`check.faults`)."""
    made = Plan()
    inner = inner_apexes(gslb)
    for zone in gslb.zones:
        _Zone(zone, made, inner[zone.apex]).fill(gslb.policies)
    return made


def inner_apexes(gslb: Gslb) -> dict[bytes, list[bytes]]:
    """For each zone's apex those of our zones within it: what lies there is theirs to answer."""
    inner: dict[bytes, list[bytes]] = {zone.apex: [] for zone in gslb.zones}
    for apex in inner:
        for above in _ancestors(apex, b"\0"):
            if above in inner:
                inner[above].append(apex)
    return inner


class _Zone:
    """One zone on its way into the plan. inner: the apexes of those within it."""

    def __init__(self, zone: Zone, made: Plan, inner: Sequence[bytes]) -> None:
        self.zone = zone
        self.made = made
        self.inner = frozenset(inner)
        self.sets: dict[bytes, dict[int, list[Record]]] = {}
        for record in zone.records:
            self.sets.setdefault(record.name, {}).setdefault(record.type, []).append(record)
        self.soa = self.sets[zone.apex][Type.SOA][0]
        self.nodata = self.negative(Rcode.NOERROR)
        cuts = (name for name, sets in self.sets.items() if Type.NS in sets and name != zone.apex)
        self.cuts = {name for name in cuts if not self.foreign(name)}

    def foreign(self, name: bytes) -> bool:
        """Whether a zone within this one answers for `name`."""
        while len(name) > len(self.zone.apex):
            if name in self.inner:
                return True
            name = parent(name)
        return False

    def negative(self, rcode: Rcode, ttl: int = 2**31) -> Answer:
        return records.negative(rcode, self.zone.apex, self.soa.rdata, min(ttl, self.soa.ttl))

    def fill(self, policies: Mapping[str, Policy]) -> None:
        self.put(self.zone.apex, NXDOMAIN, self.negative(Rcode.NXDOMAIN))
        for name, sets in self.sets.items():
            if self.foreign(name) or any(is_below(name, cut) and name != cut for cut in self.cuts):
                continue  # glue: not our data (RFC 1034 section 4.2.1)
            self.static(name, sets)
        for balanced in self.zone.names:
            self.balanced(balanced, policies)
        for apex in self.inner:
            if not self.foreign(parent(apex)):
                self.delegation(apex)
        self.empty_non_terminals()

    def delegation(self, apex: bytes) -> None:
        """DS alone of a zone that we have, too, is the parent's (RFC 4035 section 3.1.4.1)."""
        found = self.sets.get(apex, {}).get(DS, [])
        signed = found and records.rrset(DS, found[0].ttl, [one.rdata for one in found])
        self.put(apex, tail_of(DS), signed or self.nodata)

    def put(self, name: bytes, tail: bytes, answer: Answer, **how: int) -> None:
        self.made.slots[name + tail] = Slot(name_to_text(name), answer, **how)

    def static(self, name: bytes, sets: Mapping[int, list[Record]]) -> None:
        if name in self.cuts:
            self.put(name, OTHER, self.referral(name))
            self.put(name, BELOW, self.referral(name))
            self.put(name, tail_of(DS), self.nodata)
        elif Type.CNAME in sets:
            only = sets[Type.CNAME][0]
            self.put(name, OTHER, records.alias(only.ttl, only.rdata))
            return
        else:
            self.put(name, OTHER, self.nodata)
        for kind, found in sets.items():
            if name not in self.cuts or kind == DS:
                rdatas = [one.rdata for one in found]
                self.put(name, tail_of(kind), records.rrset(kind, found[0].ttl, rdatas))

    def balanced(self, name: Name, policies: Mapping[str, Policy]) -> None:
        policy = policies[name.policy]
        nodata = self.negative(Rcode.NOERROR, name.ttl)
        if any(member.cname for member in name.members):
            pool = self.made.pool(name.policy, policy, name.members)
            for kind in (Type.A, Type.AAAA):
                self.put(name.wire, tail_of(kind), nodata, pool=pool, type=kind, ttl=name.ttl)
            self.put(name.wire, OTHER, nodata, pool=pool, ttl=name.ttl)
            return
        self.made.slots.setdefault(name.wire + OTHER, Slot(name_to_text(name.wire), self.nodata))
        for kind, version in ((Type.A, 4), (Type.AAAA, 6)):
            able = tuple(m for m in name.members if any(a.version == version for a in m.addresses))
            if able:
                pool = self.made.pool(name.policy, policy, able)
                self.put(name.wire, tail_of(kind), nodata, pool=pool, type=kind, ttl=name.ttl)

    def referral(self, cut: bytes) -> Answer:
        found = self.sets[cut][Type.NS]
        glue = [
            (server.rdata.lower(), kind, one.ttl, one.rdata)
            for server in found
            for kind in (Type.A, Type.AAAA)
            for one in self.sets.get(server.rdata.lower(), {}).get(kind, [])
        ]
        return records.referral(cut, found[0].ttl, (one.rdata for one in found), glue)

    def empty_non_terminals(self) -> None:
        """A name that has something below it exists (RFC 8020), itself empty or not."""
        for name in [*self.sets, *(one.wire for one in self.zone.names), *self.inner]:
            for above in _ancestors(name, self.zone.apex):
                if self.foreign(above):
                    continue
                slot = Slot(name_to_text(above), self.nodata)
                self.made.slots.setdefault(above + OTHER, slot)


def _ancestors(name: bytes, apex: bytes) -> Iterator[bytes]:
    while name != apex:
        name = parent(name)
        yield name


def tail_of(kind: int) -> bytes:
    """Type and class as they end a question."""
    return kind.to_bytes(2, "big") + b"\x00\x01"
