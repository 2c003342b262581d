"""IPVS's messages <-> the model: pure (linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c).

Each oddity of the protocol has its line here and nowhere else. What is read back is what
the kernel sent: no default of ours stands in for an attribute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import NamedTuple

from lbctl.dataplane.ipvs.genl import (
    NESTED,
    Attributes,
    Garbled,
    attribute,
    attributes,
    big_endian,
    nested,
    number,
    text,
)
from lbctl.dataplane.port import Counters
from lbctl.model import (
    Address,
    Destination,
    Encapsulation,
    Endpoint,
    Family,
    FirewallMark,
    Forwarding,
    Frontend,
    Listen,
    Mode,
    Persistence,
    Proto,
    Scheduler,
    Tunnel,
    VirtualService,
    family_of,
)


class Command(IntEnum):
    NEW_SERVICE = 1
    SET_SERVICE = 2
    DEL_SERVICE = 3
    GET_SERVICE = 4
    NEW_DEST = 5
    SET_DEST = 6
    DEL_DEST = 7
    GET_DEST = 8
    NEW_DAEMON = 9
    DEL_DAEMON = 10
    GET_DAEMON = 11
    SET_CONFIG = 12
    GET_CONFIG = 13
    SET_INFO = 14
    GET_INFO = 15
    ZERO = 16


SERVICE, DEST, DAEMON, TIMEOUT_TCP, TIMEOUT_FIN, TIMEOUT_UDP = range(1, 7)


class Svc(IntEnum):
    AF = 1
    PROTOCOL = 2
    ADDR = 3
    PORT = 4
    FWMARK = 5
    SCHED_NAME = 6
    FLAGS = 7
    TIMEOUT = 8
    NETMASK = 9
    STATS = 10
    PE_NAME = 11
    STATS64 = 12


class Dest(IntEnum):
    ADDR = 1
    PORT = 2
    FWD_METHOD = 3
    WEIGHT = 4
    U_THRESH = 5
    L_THRESH = 6
    ACTIVE_CONNS = 7
    INACT_CONNS = 8
    PERSIST_CONNS = 9
    STATS = 10
    ADDR_FAMILY = 11
    STATS64 = 12
    TUN_TYPE = 13
    TUN_PORT = 14
    TUN_FLAGS = 15


AF_INET, AF_INET6 = 2, 10  # Linux's numbers
_U32, _U16, _FLAGS = Struct("=I"), Struct("=H"), Struct("=II")
_BE16 = Struct(">H")
_FAMILIES = {Family.IPV4: AF_INET, Family.IPV6: AF_INET6}
_PROTOCOLS = {Proto.TCP: 6, Proto.UDP: 17, Proto.SCTP: 132}
_PROTOS = {number: proto for proto, number in _PROTOCOLS.items()}
ALL_BITS = 0xFFFFFFFF

# --- flags of a service -----------------------------------------------------------------

PERSISTENT, ONE_PACKET = 0x1, 0x4
_SCHEDULER_BITS = (0x08, 0x10, 0x20)
# `sh` and `mh` give the first two bits names (IP_VS_SVC_F_SCHED_SH_FALLBACK, ..._PORT).
_FLAG_NAMES: Mapping[str, tuple[str, str, str]] = {
    "sh": ("sh-fallback", "sh-port", "flag-3"),
    "mh": ("mh-fallback", "mh-port", "flag-3"),
}
_PLAIN_FLAGS = ("flag-1", "flag-2", "flag-3")


def flag_names(scheduler: str) -> tuple[str, str, str]:
    """What the kernel's three scheduler flags are called, lowest bit first."""
    return _FLAG_NAMES.get(scheduler, _PLAIN_FLAGS)


def _flags(service: VirtualService) -> int:
    bits = PERSISTENT if service.persistence else 0
    bits |= ONE_PACKET if service.oneshot else 0
    known = dict(zip(flag_names(service.scheduler.name), _SCHEDULER_BITS, strict=True))
    for name in service.scheduler.flags:
        if name not in known:
            raise ValueError(f"scheduler {service.scheduler.name} has no flag '{name}'")
        bits |= known[name]
    return bits


# --- requests ---------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def service_key(frontend: Frontend) -> bytes:
    """The nested attribute that names a service, for requests about it or its servers."""
    return nested(SERVICE, _identity(frontend))


def service_request(frontend: Frontend, service: VirtualService) -> bytes:
    """NEW_SERVICE and SET_SERVICE: the kernel wants every field, also when it changes one.
    Raises ValueError for a flag that the scheduler does not have."""
    family = frontend.family
    persistence = service.persistence
    prefix = persistence.prefix if persistence else _WIDTH[family]
    parts = [
        _identity(frontend),
        attribute(Svc.SCHED_NAME, service.scheduler.name.encode() + b"\0"),
        # The mask says which bits are meant: all, so that one left out is cleared.
        attribute(Svc.FLAGS, _FLAGS.pack(_flags(service), ALL_BITS)),
        attribute(Svc.TIMEOUT, _U32.pack(persistence.timeout if persistence else 0)),
        attribute(Svc.NETMASK, _netmask(family, prefix)),
    ]
    if persistence and persistence.engine:
        parts.append(attribute(Svc.PE_NAME, persistence.engine.encode() + b"\0"))
    return nested(SERVICE, *parts)


def destination_key(frontend: Frontend, endpoint: Endpoint) -> bytes:
    family = _FAMILIES[family_of(endpoint.address)]
    return service_key(frontend) + nested(
        DEST,
        attribute(Dest.ADDR_FAMILY, _U16.pack(family)),
        attribute(Dest.ADDR, _padded(endpoint.address)),
        attribute(Dest.PORT, _BE16.pack(endpoint.port)),
    )


def _heads(*pairs: tuple[int, int]) -> tuple[int, ...]:
    """Headers of attributes: (length, type) each, as one number."""
    return tuple(_U32.unpack(_ATTRIBUTE.pack(length, kind))[0] for length, kind in pairs)


_ATTRIBUTE = Struct("=HH")

# A destination in one piece, since a table has thousands: each attribute's header, then its
# value. From ADDR on the order is the kernel's own (see `as_told`).
_DESTINATION = Struct(
    "=I IH2x"  # the nested attribute's header; ADDR_FAMILY
    "I16s I2s2x"  # ADDR, padded to an IPv6 address; PORT, network order
    "II II"  # FWD_METHOD, WEIGHT
    "IB3x I2s2x IH2x"  # TUN_TYPE, TUN_PORT (network order), TUN_FLAGS
    "II II"  # U_THRESH, L_THRESH
)
_TOLD = _DESTINATION.size - 12  # bytes from ADDR to L_THRESH
(_H_DEST, _H_FAMILY, _H_ADDR, _H_PORT, _H_METHOD, _H_WEIGHT) = _heads(
    *((_DESTINATION.size, DEST | NESTED), (6, Dest.ADDR_FAMILY), (20, Dest.ADDR)),
    *((6, Dest.PORT), (8, Dest.FWD_METHOD), (8, Dest.WEIGHT)),
)
(_H_TUN_TYPE, _H_TUN_PORT, _H_TUN_FLAGS, _H_UPPER, _H_LOWER) = _heads(
    *((5, Dest.TUN_TYPE), (6, Dest.TUN_PORT), (6, Dest.TUN_FLAGS)),
    *((8, Dest.U_THRESH), (8, Dest.L_THRESH)),
)


def destination_request(frontend: Frontend, endpoint: Endpoint, destination: Destination) -> bytes:
    """NEW_DEST and SET_DEST: always every field, or a change of weight would change the
    forwarding method."""
    address, forwarding = endpoint.address, destination.forwarding
    kind, port, flags = _tunnel_fields(forwarding.tunnel) if forwarding.tunnel else _NO_TUNNEL
    body = _DESTINATION.pack(
        _H_DEST,
        *(_H_FAMILY, AF_INET if address.version == 4 else AF_INET6),
        *(_H_ADDR, address.packed),  # pack() pads
        *(_H_PORT, endpoint.port.to_bytes(2, "big")),
        *(_H_METHOD, _METHODS[forwarding.mode]),
        *(_H_WEIGHT, destination.weight),
        *(_H_TUN_TYPE, kind, _H_TUN_PORT, port, _H_TUN_FLAGS, flags),
        *(_H_UPPER, destination.max_connections, _H_LOWER, destination.min_connections),
    )
    return service_key(frontend) + body


def _tunnel_fields(tunnel: Tunnel) -> tuple[int, bytes, int]:
    bits = sum(_TUNNEL_FLAGS[name] for name in tunnel.flags)
    return _TUNNEL_TYPES[tunnel.encapsulation], _BE16.pack(tunnel.port), bits


def told(request: bytes) -> bytes:
    """All that a `destination_request` says of a server, to compare with `as_told`."""
    return request[-_TOLD:]


def as_told(body: memoryview) -> bytes:
    """The same of a GET_DEST reply. Kernels since 5.3 send a server back in the very bytes
    it was told in, so one that is as it should be need not be decoded; from others, and of
    one that is not, this gives something else."""
    return bytes(body[4 : 4 + _TOLD])


def _identity(frontend: Frontend) -> bytes:
    family = attribute(Svc.AF, _U16.pack(_FAMILIES[frontend.family]))
    if isinstance(frontend, FirewallMark):
        return family + attribute(Svc.FWMARK, _U32.pack(frontend.mark))
    return (
        family
        + attribute(Svc.PROTOCOL, _U16.pack(_PROTOCOLS[frontend.proto]))
        + attribute(Svc.ADDR, _padded(frontend.address))
        + attribute(Svc.PORT, _BE16.pack(frontend.port))
    )


def _padded(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


_WIDTH = {Family.IPV4: 32, Family.IPV6: 128}


def _netmask(family: Family, prefix: int) -> bytes:
    """IPv4: a mask in network order. IPv6: the prefix length in host order."""
    if family is Family.IPV6:
        return _U32.pack(prefix)
    return ((ALL_BITS << (32 - prefix)) & ALL_BITS).to_bytes(4, "big")


# --- forwarding -------------------------------------------------------------------------

METHOD_MASK = 0x7
# Full NAT is masquerading to IPVS; its source translation is nftables' (see `snat`).
_METHODS = {Mode.NAT: 0, Mode.FULLNAT: 0, Mode.TUN: 2, Mode.DR: 3}
LOCAL_NODE = 1  # what old kernels make of a server on this machine: delivered like DR
_MODES = {0: Mode.NAT, LOCAL_NODE: Mode.DR, 2: Mode.TUN, 3: Mode.DR}
_TUNNEL_TYPES = {Encapsulation.IPIP: 0, Encapsulation.GUE: 1, Encapsulation.GRE: 2}
_ENCAPSULATIONS = {number: name for name, number in _TUNNEL_TYPES.items()}
_TUNNEL_FLAGS = {"csum": 1, "remcsum": 2}
_NO_TUNNEL = (0, b"\0\0", 0)


@lru_cache(maxsize=1024)
def _forwarding(method: int, tunnel_type: int, port: bytes, bits: int) -> Forwarding:
    mode = _MODES.get(method & METHOD_MASK)
    if mode is None:
        raise Garbled(f"forwarding method {method}")
    if mode is not Mode.TUN:
        return Forwarding(mode)
    if tunnel_type not in _ENCAPSULATIONS:
        raise Garbled(f"tunnel type {tunnel_type}")
    flags = frozenset(name for name, bit in _TUNNEL_FLAGS.items() if bits & bit)
    tunnel = Tunnel(_ENCAPSULATIONS[tunnel_type], _BE16.unpack(port)[0], flags)
    return Forwarding(mode, tunnel)


# --- what the kernel says ---------------------------------------------------------------


class Rates(NamedTuple):
    """Per second, as the kernel estimates them."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class ServiceEntry(NamedTuple):
    """One service of a dump, without its servers. statistics: attributes among which they
    are, read when somebody asks: who compares tables never does."""

    frontend: Frontend
    service: VirtualService
    statistics: memoryview

    @property
    def counters(self) -> Counters:
        return _counters(self.statistics)

    @property
    def rates(self) -> Rates:
        return _rates(self.statistics)


class ServerEntry(NamedTuple):
    """One server of a dump."""

    endpoint: Endpoint
    destination: Destination
    active: int
    inactive: int
    persistent: int
    statistics: memoryview

    @property
    def counters(self) -> Counters:
        return _counters(self.statistics)

    @property
    def rates(self) -> Rates:
        return _rates(self.statistics)


def service_entry(body: memoryview) -> ServiceEntry:
    """A service from the attributes of a GET_SERVICE reply. Raises Garbled."""
    try:
        inside = attributes(body)[SERVICE]
        found = attributes(inside)
        return ServiceEntry(_frontend(found), _service(found), inside)
    except (KeyError, ValueError) as error:
        raise Garbled(f"a service: {error!r}") from None


def server_entry(body: memoryview, family: Family) -> ServerEntry:
    """A server from the attributes of a GET_DEST reply. family: of its service, which is
    the server's own before Linux 3.18. Raises Garbled."""
    try:
        if (quick := _usual_server(body)) is not None:
            return quick
        inside = attributes(body)[DEST]
        found = attributes(inside)
        own = found.get(Dest.ADDR_FAMILY)
        number_of_family = number(own) if own is not None else _FAMILIES[family]
        address = _address(number_of_family, found[Dest.ADDR])
        return ServerEntry(
            Endpoint(address, big_endian(found[Dest.PORT])),
            Destination(
                number(found[Dest.WEIGHT]),
                _forwarding(number(found[Dest.FWD_METHOD]), *_tunnel(found)),
                number(found[Dest.U_THRESH]),
                number(found[Dest.L_THRESH]),
            ),
            number(found[Dest.ACTIVE_CONNS]),
            number(found[Dest.INACT_CONNS]),
            number(found[Dest.PERSIST_CONNS]),
            inside,
        )
    except (KeyError, ValueError) as error:
        raise Garbled(f"a server: {error!r}") from None


# A server as kernels since 5.3 send it (ip_vs_genl_fill_dest()), in one piece: a table has
# thousands, and attribute by attribute each costs five times as much. What looks otherwise
# is read the long way.
_USUAL = Struct(
    "=I"  # the nested attribute's header
    "I16s I2s2x"  # ADDR, PORT
    "II II"  # FWD_METHOD, WEIGHT
    "IB3x I2s2x IH2x"  # TUN_TYPE, TUN_PORT, TUN_FLAGS
    "II II II II II"  # U_THRESH, L_THRESH, ACTIVE_CONNS, INACT_CONNS, PERSIST_CONNS
    "IH2x"  # ADDR_FAMILY
)


_USUAL_HEADS = _heads(
    *((20, Dest.ADDR), (6, Dest.PORT), (8, Dest.FWD_METHOD), (8, Dest.WEIGHT)),
    *((5, Dest.TUN_TYPE), (6, Dest.TUN_PORT), (6, Dest.TUN_FLAGS)),
    *((8, Dest.U_THRESH), (8, Dest.L_THRESH), (8, Dest.ACTIVE_CONNS), (8, Dest.INACT_CONNS)),
    *((8, Dest.PERSIST_CONNS), (6, Dest.ADDR_FAMILY)),
)


def _usual_server(body: memoryview) -> ServerEntry | None:
    if len(body) < _USUAL.size:
        return None
    fields = _USUAL.unpack_from(body)
    if fields[1::2] != _USUAL_HEADS:
        return None
    _, address, port, method, weight, *tunnel, upper, lower, active, idle, lasting, family = fields[
        ::2
    ]
    return ServerEntry(
        Endpoint(_address(family, address), _BE16.unpack(port)[0]),
        Destination(weight, _forwarding(method, *tunnel), upper, lower),
        active,
        idle,
        lasting,
        body[_USUAL.size :],
    )


def _frontend(found: Attributes) -> Frontend:
    family = number(found[Svc.AF])
    if Svc.FWMARK in found:
        name = Family.IPV4 if family == AF_INET else Family.IPV6
        return FirewallMark(number(found[Svc.FWMARK]), name)
    proto = _PROTOS[number(found[Svc.PROTOCOL])]
    return Listen(_address(family, found[Svc.ADDR]), big_endian(found[Svc.PORT]), proto)


def _service(found: Attributes) -> VirtualService:
    bits = number(found[Svc.FLAGS][:4])
    name = text(found[Svc.SCHED_NAME])
    pairs = zip(flag_names(name), _SCHEDULER_BITS, strict=True)
    flags = frozenset(flag for flag, bit in pairs if bits & bit)
    persistence = _persistence(found) if bits & PERSISTENT else None
    return VirtualService(Scheduler(name, flags), {}, persistence, bool(bits & ONE_PACKET))


def _tunnel(found: Attributes) -> tuple[int, bytes, int]:
    """Type, port and flags; a kernel before 5.3 has IPIP only, and does not say so."""
    if Dest.TUN_TYPE not in found:
        return _NO_TUNNEL
    port = bytes(found[Dest.TUN_PORT])
    return number(found[Dest.TUN_TYPE]), port, number(found[Dest.TUN_FLAGS])


def _persistence(found: Attributes) -> Persistence:
    mask = found[Svc.NETMASK]
    ipv6 = number(found[Svc.AF]) == AF_INET6
    prefix = number(mask) if ipv6 else big_endian(mask).bit_count()
    engine = text(found[Svc.PE_NAME]) if Svc.PE_NAME in found else ""
    return Persistence(number(found[Svc.TIMEOUT]), prefix, engine)


def _address(family: int, packed: memoryview | bytes) -> Address:
    if family == AF_INET:
        return IPv4Address(bytes(packed[:4]))
    return IPv6Address(bytes(packed[:16]))


def _statistics(among: memoryview) -> Attributes:
    """The 64-bit ones; before Linux 4.1 there are only 32-bit ones. Services and servers
    have both under the same numbers."""
    found = attributes(among)
    return attributes(found[Svc.STATS64] if Svc.STATS64 in found else found[Svc.STATS])


def _counters(among: memoryview) -> Counters:
    found = _statistics(among)
    return Counters(*(number(found[kind]) for kind in range(1, 6)))


def _rates(among: memoryview) -> Rates:
    found = _statistics(among)
    return Rates(*(number(found[kind]) for kind in range(6, 11)))


# --- timeouts, sync daemon, info --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that an idle connection is remembered."""

    tcp: int = 900
    fin: int = 120
    udp: int = 300


def timeouts_request(timeouts: Timeouts) -> bytes:
    """A zero leaves that one as it is."""
    return (
        attribute(TIMEOUT_TCP, _U32.pack(timeouts.tcp))
        + attribute(TIMEOUT_FIN, _U32.pack(timeouts.fin))
        + attribute(TIMEOUT_UDP, _U32.pack(timeouts.udp))
    )


def timeouts_of(body: memoryview) -> Timeouts:
    found = attributes(body)
    return Timeouts(*(number(found[kind]) for kind in (TIMEOUT_TCP, TIMEOUT_FIN, TIMEOUT_UDP)))


class SyncRole(StrEnum):
    """`master` sends this gateway's connections, `backup` takes a peer's; one gateway can
    do both."""

    MASTER = "master"
    BACKUP = "backup"


class _Sync(IntEnum):
    STATE = 1
    INTERFACE = 2
    ID = 3
    MAXLEN = 4
    GROUP = 5
    GROUP6 = 6
    PORT = 7
    TTL = 8


_ROLE_NUMBERS = {SyncRole.MASTER: 1, SyncRole.BACKUP: 2}


@dataclass(frozen=True, slots=True)
class SyncDaemon:
    """The kernel's thread that exchanges connections with a peer.

    interface: where it multicasts. id: messages of another are ignored (0: backup takes
    all). maxlen: bytes of a datagram; 0, None: the kernel's choice.
    """

    role: SyncRole
    interface: str
    id: int = 0
    maxlen: int = 0
    group: Address | None = None
    port: int = 0
    ttl: int = 0


def sync_request(daemon: SyncDaemon) -> bytes:
    parts = [
        attribute(_Sync.STATE, _U32.pack(_ROLE_NUMBERS[daemon.role])),
        attribute(_Sync.INTERFACE, daemon.interface.encode() + b"\0"),
        attribute(_Sync.ID, _U32.pack(daemon.id)),
    ]
    if daemon.maxlen:
        parts.append(attribute(_Sync.MAXLEN, _U16.pack(daemon.maxlen)))
    if daemon.group is not None:
        kind = _Sync.GROUP if daemon.group.version == 4 else _Sync.GROUP6
        parts.append(attribute(kind, daemon.group.packed))
    if daemon.port:
        parts.append(attribute(_Sync.PORT, _U16.pack(daemon.port)))  # host order, unlike others
    if daemon.ttl:
        parts.append(attribute(_Sync.TTL, bytes([daemon.ttl])))
    return nested(DAEMON, *parts)


def sync_daemon(body: memoryview) -> SyncDaemon:
    found = attributes(attributes(body)[DAEMON])
    group: Address | None = None
    if _Sync.GROUP in found:
        group = IPv4Address(bytes(found[_Sync.GROUP]))
    elif _Sync.GROUP6 in found:
        group = IPv6Address(bytes(found[_Sync.GROUP6]))
    role = SyncRole.MASTER if number(found[_Sync.STATE]) == 1 else SyncRole.BACKUP
    numbers = (_Sync.MAXLEN, _Sync.PORT, _Sync.TTL)
    maxlen, port, ttl = (number(found[kind]) if kind in found else 0 for kind in numbers)
    name = text(found[_Sync.INTERFACE])
    return SyncDaemon(role, name, number(found[_Sync.ID]), maxlen, group, port, ttl)


@dataclass(frozen=True, slots=True)
class Info:
    """version: of IPVS, as `1.2.1`. size: rows of the connection table."""

    version: str
    size: int


def info_of(body: memoryview) -> Info:
    found = attributes(body)
    version = number(found[1])
    dotted = f"{version >> 16 & 255}.{version >> 8 & 255}.{version & 255}"
    return Info(dotted, number(found[2]))
