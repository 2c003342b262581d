"""Zone files (RFC 1035 section 5), by dnspython's reader, into wire-form records.

Every fault names the file and the line. The only file that has seen dnspython's parser.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.zonefile

from lbctl.errors import InvalidConfig
from lbctl.gslb.model import Record
from lbctl.gslb.records import LARGEST, LONGEST_TTL
from lbctl.gslb.wire import Type, is_below, name_to_text

DNAME = 39
META = range(128, 256)  # types that are never data (RFC 6895 section 3.1)


class _Wrong(Exception):
    """A record that cannot be taken, and the line on which it starts."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


def read_zone(text: str, path: str, apex: bytes) -> tuple[Record, ...]:
    """The records of the zone `apex` in `text`. Raises InvalidConfig, with file and line."""
    origin = dns.name.from_wire(apex, 0)[0]
    tokens = dns.tokenizer.Tokenizer(text, filename=path)
    collector = _Collector(origin, apex)
    reader = _Reader(tokens, dns.rdataclass.IN, cast(Any, collector), allow_include=False)
    try:
        reader.read()
    except _Wrong as error:
        raise InvalidConfig([f"{path}:{error.line}: {error}"]) from None
    except (dns.exception.DNSException, ValueError) as error:
        place = "" if str(error).startswith(path) else f"{path}:{tokens.where()[1]}: "
        raise InvalidConfig([f"{place}{error}"]) from None
    if faults := collector.missing():
        raise InvalidConfig([f"{path}:1: {fault}" for fault in faults])
    return tuple(collector.records)


class _Reader(dns.zonefile.Reader):
    """dnspython's reader, which otherwise names the line after the faulty record."""

    def _rr_line(self) -> None:
        self._read(super()._rr_line)

    def _generate_line(self) -> None:
        self._read(super()._generate_line)

    def _read(self, read: Callable[[], None]) -> None:
        line = self.tok.where()[1]
        cast(_Collector, self.txn).line = line
        try:
            read()
        except (dns.exception.DNSException, ValueError, _Wrong) as error:
            raise _Wrong(str(error), line) from None


class _Collector:
    """Takes what the reader reads, record by record, so that a fault has its line."""

    def __init__(self, origin: dns.name.Name, apex: bytes) -> None:
        self.manager = self  # the reader asks its transaction's manager for the zone
        self.records: list[Record] = []
        self.line = 0  # where the record that comes next starts
        self._origin = origin
        self._apex = apex
        self._types: dict[bytes, set[int]] = {}
        self._ttls: dict[tuple[bytes, int], int] = {}
        self._sizes: Counter[tuple[bytes, int]] = Counter()
        self._seen: set[Record] = set()

    def origin_information(self) -> tuple[dns.name.Name, bool, dns.name.Name]:
        return self._origin, False, self._origin

    def get_class(self) -> dns.rdataclass.RdataClass:
        return dns.rdataclass.IN

    def check_put_rdataset(self, check: object) -> None:
        """dnspython's own check has no line; `_beside` has."""

    def _set_origin(self, origin: object) -> None:
        """$ORIGIN: the reader keeps it."""

    def add(self, name: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        wire, kind = name.canonicalize().to_wire(), int(rdata.rdtype)
        assert wire is not None
        if kind in META or kind == Type.OPT:
            raise _Wrong(f"type {rdata.rdtype.name} is not zone data")
        if kind == DNAME:
            raise _Wrong("a DNAME is not followed here (write the names, or a wildcard CNAME)")
        if not is_below(wire, self._apex):
            raise _Wrong(f"{name} is outside the zone")
        self._check_ttl(wire, kind, ttl)
        self._beside(wire, kind)
        body = rdata.to_wire()
        assert body is not None
        record = Record(wire, kind, ttl, body, self.line)
        if record not in self._seen:  # RFC 2181 section 5: a set has no duplicates
            self._fit(name, rdata.rdtype.name, record)
            self._seen.add(record)
            self.records.append(record)

    def _fit(self, name: dns.name.Name, kind: str, record: Record) -> None:
        self._sizes[record.name, record.type] += 12 + len(record.rdata)
        if self._sizes[record.name, record.type] > LARGEST:
            raise _Wrong(
                f"the {kind} records of {name} have more than {LARGEST} octets: no message holds "
                "them (RFC 1035 section 4.2.2)"
            )

    def _check_ttl(self, wire: bytes, kind: int, ttl: int) -> None:
        if not 1 <= ttl <= LONGEST_TTL:
            raise _Wrong(f"a TTL of {ttl} s (write 1 to {LONGEST_TTL}, that is 1 second to 7 days)")
        first = self._ttls.setdefault((wire, kind), ttl)
        if first != ttl:
            raise _Wrong(
                f"a TTL of {ttl} s in a set with {first} s (RFC 2181 section 5.2 wants one)"
            )

    def _beside(self, wire: bytes, kind: int) -> None:
        types = self._types.setdefault(wire, set())
        name = name_to_text(wire)
        if Type.CNAME in types | {kind} and types:
            raise _Wrong(f"{name} has a CNAME beside other data (RFC 1034 section 3.6.2: keep one)")
        if kind == Type.SOA and (Type.SOA in types or wire != self._apex):
            raise _Wrong(f"a second SOA at {name}")
        types.add(kind)

    def missing(self) -> list[str]:
        types = self._types.get(self._apex, set())
        zone = name_to_text(self._apex)
        faults = []
        if Type.SOA not in types:
            faults.append(f"zone {zone} has no SOA (write: @ SOA NAME MAIL SERIAL ... )")
        if Type.NS not in types:
            faults.append(f"zone {zone} has no NS (write: @ NS NAME)")
        return faults
