"""MaxMind-format databases, read whole. The only file that has seen maxminddb.

The search tree is walked here, in address order, and a record is decoded (by maxminddb)
once however many networks share it: 400,000 networks in under a second instead of six.

    node     two records of 24, 28 or 32 bits: for the next bit 0, and 1
    record   < node count: a node; = node count: nothing known; above: a pointer to data

IPv4 lies under ::/96; other branches that lead there are aliases (6to4, mapped) and are
skipped. Below a /64 only the first address speaks: no client network is that small.
https://maxmind.github.io/MaxMind-DB/ ("Binary Search Tree Section").
"""

import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NoReturn

import maxminddb

from lbctl.errors import LbctlError
from lbctl.gslb.layers import Layer
from lbctl.gslb.model import NOWHERE, Location, Place
from lbctl.gslb.networks import BITS, Building

# What a file raises that is well-formed and yet another thing than its kind promises.
MISSHAPEN = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


class Kind(StrEnum):
    COUNTRY = "country"
    CITY = "city"
    ASN = "asn"


class BadDatabase(LbctlError):
    """A database that is not taken; the one in use stays."""


@dataclass(frozen=True, slots=True)
class Database:
    """A database as read. epoch: Unix seconds of its build."""

    path: str
    kind: Kind
    epoch: int
    networks: int
    layer: Layer


def load(path: str, kind: Kind, not_before: int = 0) -> Database:
    """Read `path` whole. Raises BadDatabase: missing, corrupt, of another kind, or built
    before `not_before` (Unix seconds)."""
    try:
        with maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT) as reader:
            _check(path, kind, reader.metadata(), not_before)
            layer, networks = _layer(path, reader, kind)
            return Database(path, kind, reader.metadata().build_epoch, networks, layer)
    except (OSError, maxminddb.InvalidDatabaseError, *MISSHAPEN) as error:
        hint = "the database in use stays; fetch this one again"
        raise BadDatabase(f"{path}: cannot read the {kind} database: {error}", hint) from None


def _check(path: str, kind: Kind, metadata: maxminddb.reader.Metadata, not_before: int) -> None:
    if kind not in metadata.database_type.lower():
        raise BadDatabase(
            f"{path}: a '{metadata.database_type}' database cannot be used as '{kind}'",
            f"databases.{kind} wants a type with '{kind}' in its name",
        )
    if metadata.build_epoch < not_before:
        raise BadDatabase(
            f"{path}: built {not_before - metadata.build_epoch} s before the one in use",
            "the newer one stays; restart to go back",
        )


def _layer(path: str, reader: maxminddb.Reader, kind: Kind) -> tuple[Layer, int]:
    tree = _Tree(Path(path).read_bytes(), reader.metadata())
    places: dict[Place, int] = {NOWHERE: 0}
    numbers: dict[int, int] = {tree.nothing: 0}  # by pointer
    networks, sides = 0, []
    for version in (4, 6):
        made = Building(0)
        for start, pointer in tree.walk(version):
            number = numbers.get(pointer)
            if number is None:
                address = IPv4Address(start) if version == 4 else IPv6Address(start << 64)
                record = reader.get(address)
                place = _READERS[kind](_mapping("a record", record))
                number = numbers[pointer] = places.setdefault(place, len(places))
            networks += number > 0
            made.say(start, number)
        sides.append(made.spans())
    return Layer(sides[0], sides[1], list(places)), networks


class _Tree:
    """The search tree, walked without decoding records. zeros, ones: each node's records."""

    def __init__(self, data: bytes, metadata: maxminddb.reader.Metadata) -> None:
        self.nothing = metadata.node_count
        octets = metadata.record_size // 4  # of a node
        if octets not in (6, 7, 8) or self.nothing * octets > len(data):
            raise ValueError("the search tree is cut short")
        tree = data[: self.nothing * octets]
        self.zeros, self.ones = _records(tree, octets)
        self.version = metadata.ip_version
        self.v4_root = 0
        for _ in range(96 if self.version == 6 else 0):
            if self.v4_root < self.nothing:
                self.v4_root = self.zeros[self.v4_root]

    def walk(self, version: int) -> Iterator[tuple[int, int]]:
        """(first key, pointer) of each network, in order. Raises ValueError if the tree is
        no tree."""
        nothing, zeros, ones = self.nothing, self.zeros, self.ones
        bits = BITS[version]
        if version == 6 and self.version == 4:
            yield 0, nothing
            return
        root = self.v4_root if version == 4 else 0
        waiting = [(root, 0, bits)]  # (record, first key, bits left)
        leaves = 0
        while waiting:
            number, start, left = waiting.pop()
            while number < nothing:
                if version == 6 and number == self.v4_root:
                    number = nothing  # IPv4, and aliases of it
                    break
                if left > 0:
                    left -= 1
                    waiting.append((ones[number], start | 1 << left, left))
                elif (left := left - 1) < -64 or version == 4:
                    raise ValueError("the search tree is deeper than an address")
                number = zeros[number]
            leaves += 1
            if leaves > nothing + 1:
                raise ValueError("the search tree has a loop")
            yield start, number


def _records(tree: bytes, octets: int) -> "tuple[array[int], array[int]]":
    """All nodes' records for bit 0, and for bit 1: column by column, not node by node."""
    upper = [bytes(len(tree) // octets)] * 2  # bits 24 to 31 of each record
    first, second = (0, 1, 2), (3, 4, 5)
    if octets == 7:  # the middle octet holds four more bits of both
        middle = tree[3::7]
        upper = [middle.translate(_HIGH), middle.translate(_LOW)]
        second = (4, 5, 6)
    elif octets == 8:
        upper = [tree[0::8], tree[4::8]]
        first, second = (1, 2, 3), (5, 6, 7)
    zeros, ones = (
        _numbers([top, *(tree[at::octets] for at in columns)])
        for top, columns in zip(upper, (first, second), strict=True)
    )
    return zeros, ones


_HIGH = bytes(octet >> 4 for octet in range(256))
_LOW = bytes(octet & 0xF for octet in range(256))


def _numbers(columns: list[bytes]) -> "array[int]":
    """Four columns of octets, the highest first, as 32-bit numbers."""
    octets = bytearray(4 * len(columns[0]))
    for place, column in enumerate(columns):
        octets[place::4] = column
    numbers = array("I", bytes(octets))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _read_geo(record: Mapping[str, Any]) -> Place:
    country = _map(record, "country") or _map(record, "registered_country")
    place = _map(record, "location")
    latitude, longitude = _degrees(place, "latitude", 90), _degrees(place, "longitude", 180)
    location = None
    if latitude is not None and longitude is not None:
        location = Location(latitude, longitude)
    return Place(
        country=_text(country, "iso_code") or _text(record, "country_code"),
        continent=_text(_map(record, "continent"), "code"),
        city=_text(_map(_map(record, "city"), "names"), "en"),
        location=location,
    )


def _read_asn(record: Mapping[str, Any]) -> Place:
    number = record.get("autonomous_system_number", 0)
    if not isinstance(number, int) or not 0 <= number < 1 << 32:
        _odd("autonomous_system_number", number)
    return Place(asn=number)


def _map(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return {} if value is None else _mapping(key, value)


def _mapping(what: str, value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _odd(what, value)


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if value is None:
        return ""
    return value if isinstance(value, str) else _odd(key, value)


def _degrees(record: Mapping[str, Any], key: str, most: int) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or not -most <= value <= most:
        _odd(key, value)
    return float(value)


def _odd(what: str, value: object) -> NoReturn:
    """A record of another shape than MaxMind's."""
    raise ValueError(f"{what} is {value!r:.60}, which is not what MaxMind's format has there")


_READERS: Mapping[Kind, Callable[[Mapping[str, Any]], Place]] = {
    Kind.COUNTRY: _read_geo,
    Kind.CITY: _read_geo,
    Kind.ASN: _read_asn,
}


def stamp(path: str) -> tuple[int, int, int]:
    """What changes when the file is replaced. Raises OSError."""
    status = Path(path).stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
