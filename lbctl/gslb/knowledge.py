"""Databases and plan, made into tables: everything that a change of health does not touch.

Slow (seconds for a large database), so it is made in a thread, whole, and then taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lbctl.gslb import regions
from lbctl.gslb.answers import write_names
from lbctl.gslb.compiler import Compiler
from lbctl.gslb.geo import Database, Kind, load
from lbctl.gslb.layers import Layers, Table, merge, table
from lbctl.gslb.model import NOWHERE, Gslb, Place
from lbctl.gslb.networks import key_of_host
from lbctl.gslb.plan import Plan, plan
from lbctl.model import Address, Network


@dataclass(frozen=True)
class Knowledge:
    """One configuration over one set of databases."""

    gslb: Gslb
    databases: Mapping[Kind, Database]
    measured: frozenset[Network]
    plan: Plan
    tables: Sequence[Table]
    names: bytes = field(repr=False)
    networks: bytes = field(repr=False)

    def compiler(self) -> Compiler:
        return Compiler(self.plan, [one.regions for one in self.tables])

    def place(self, address: Address) -> Place:
        """What the databases say of `address`; CIDR maps are a policy's own."""
        key = key_of_host(address)
        found = NOWHERE
        for database in self.databases.values():
            layer = database.layer
            spans = layer.v4 if address.version == 4 else layer.v6
            found = merge(found, layer.places[spans.find(key)])
        return found


def read_databases(
    gslb: Gslb, before: Mapping[Kind, Database], *, again: bool = False
) -> dict[Kind, Database]:
    """The databases that `gslb` names; those in `before` are not read again unless `again`.

    Raises geo.BadDatabase; what was there stays.
    """
    found = {}
    for kind in Kind:
        path = getattr(gslb.databases, kind)
        if not path:
            continue
        known = before.get(kind)
        if known is not None and known.path == path and not again:
            found[kind] = known
        else:
            not_before = known.epoch if known is not None and known.path == path else 0
            found[kind] = load(path, kind, not_before)
    return found


def learn(
    gslb: Gslb, databases: Mapping[Kind, Database], measured: frozenset[Network] = frozenset()
) -> Knowledge:
    """All tables of `gslb`."""
    made = plan(gslb)
    geo = databases.get(Kind.CITY) or databases.get(Kind.COUNTRY)
    asn = databases.get(Kind.ASN)
    layers = Layers(geo.layer if geo else None, asn.layer if asn else None)
    ordered = sorted(measured, key=str)
    tables = [table(key, gslb.sites, layers, ordered) for key in made.tables]
    networks = regions.write([(one.v4, one.v6) for one in tables])
    names = write_names(list(made.slots))
    return Knowledge(gslb, databases, measured, made, tables, names, networks)
