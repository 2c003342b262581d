"""bpf/abi.h in Python: live views of the maps' values. A test compares the two.

Addresses and ports are bytes in network order, so these fields are read and written as
numbers of this machine's order without meaning; `word4()` and `port()` convert.
"""

from collections.abc import Sequence
from ctypes import Array, Structure, c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum
from ipaddress import IPv4Address
from socket import htons, ntohs
from typing import ClassVar

from lbctl.model import Address

ABI = 2
PORTS = 8
OWN = 16
LISTENS = 2048
SERVERS = 16384
SMALL_RINGS = 2048
SMALL_SLOTS = 8192
LARGE_RINGS = 32
LARGE_SLOTS = 65536
TURNS = 1024
LISTEN_BUCKETS = 2048
RETURN_BUCKETS = 8192
WAYS = 4
PROBES = 4
FLOW_WAYS = 8
SWEEP_SETS = 128

KEY_EMPTY = 0
KEY_GONE = 1
WAY_SHARED = 1
LISTEN_ONESHOT = 1
LISTEN_GONE = 2
RING_LARGE = 0x80000000
TURNS_HALF = 0x10000
SERVER_RECORD = 1

AGE_BITS = 9
STATE_SHIFT = 9
SERVER_SHIFT = 12
SERVER_MASK = 0x7FFF
TAG_SHIFT = 27

VERDICTS = (
    "forward",
    "return",
    "pass_other",
    "pass_foreign_mac",
    "pass_not_ip",
    "pass_vlan",
    "pass_own",
    "pass_direct",
    "pass_icmp",
    "pass_malformed",
    "drop_fragment",
    "drop_truncated",
    "drop_ttl",
    "drop_no_server",
    "drop_too_big",
    "drop_no_neighbour",
    "drop_no_route",
    "drop_return_full",
    "drop_broken",
)
VERDICT_ROOM = 64


class SchedulerCode(IntEnum):
    MH = 1
    SH = 2
    RR = 3
    WRR = 4
    LC = 5
    WLC = 6


class ModeCode(IntEnum):
    NAT = 1
    FULLNAT = 2
    DR = 3
    TUN = 4


class ServerState(IntEnum):
    FREE = 0
    ALIVE = 1
    DEAD = 2


class FlowState(IntEnum):
    EMPTY = 0
    EMBRYONIC = 1
    ESTABLISHED = 2
    FIN_CLIENT = 3
    FIN_SERVER = 4
    CLOSED = 5
    UDP = 6
    RETURN = 7


Field = tuple[str, type]


class Addr(Structure):
    w: Array[c_uint32]
    _fields_: ClassVar[Sequence[Field]] = [("w", c_uint32 * 4)]


class Port(Structure):
    vrids4: Array[c_uint8]
    vrids6: Array[c_uint8]
    _fields_: ClassVar[Sequence[Field]] = [
        ("vrids4", c_uint8 * 32),
        ("vrids6", c_uint8 * 32),
    ]


class Gateway(Structure):
    key: Array[c_uint64]
    ifindex: Array[c_uint32]
    mac: Array[c_uint64]
    flow_mask: int
    tick_shift: int
    timeout: Array[c_uint16]
    own4: Array[c_uint32]
    own6: Array[Addr]
    port: Array[Port]
    _fields_: ClassVar[Sequence[Field]] = [
        ("key", c_uint64 * 4),
        ("ifindex", c_uint32 * PORTS),
        ("mac", c_uint64 * PORTS),
        ("flow_mask", c_uint32),
        ("tick_shift", c_uint32),
        ("timeout", c_uint16 * 8),
        ("own4", c_uint32 * OWN),
        ("own6", Addr * OWN),
        ("port", Port * PORTS),
    ]


class Way(Structure):
    key: int
    value: int
    flags: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("key", c_uint64),
        ("value", c_uint32),
        ("flags", c_uint32),
    ]


class Bucket(Structure):
    way: Array[Way]
    _fields_: ClassVar[Sequence[Field]] = [("way", Way * WAYS)]


class Listen(Structure):
    addr: Addr
    port: int
    proto: int
    family: int
    scheduler: int
    flags: int
    pad0: int
    ring: int
    turns: int
    persistence: int
    prefix: int
    pad1: Array[c_uint8]
    _fields_: ClassVar[Sequence[Field]] = [
        ("addr", Addr),
        ("port", c_uint16),
        ("proto", c_uint8),
        ("family", c_uint8),
        ("scheduler", c_uint8),
        ("flags", c_uint8),
        ("pad0", c_uint16),
        ("ring", c_uint32),
        ("turns", c_uint32),
        ("persistence", c_uint32),
        ("prefix", c_uint8),
        ("pad1", c_uint8 * 27),
    ]


class Server(Structure):
    addr: Addr
    dmac: Array[c_uint8]
    smac: Array[c_uint8]
    port: int
    listen: int
    out: int
    mtu: int
    l3_delta: int
    l4_delta: int
    state: int
    mode: int
    flags: int
    max_connections: int
    weight: int
    pad: Array[c_uint8]
    _fields_: ClassVar[Sequence[Field]] = [
        ("addr", Addr),
        ("dmac", c_uint8 * 6),
        ("smac", c_uint8 * 6),
        ("port", c_uint16),
        ("listen", c_uint16),
        ("out", c_uint16),
        ("mtu", c_uint16),
        ("l3_delta", c_uint16),
        ("l4_delta", c_uint16),
        ("state", c_uint8),
        ("mode", c_uint8),
        ("flags", c_uint16),
        ("max_connections", c_uint32),
        ("weight", c_uint16),
        ("pad", c_uint8 * 14),
    ]


class SmallRing(Structure):
    slot: Array[c_uint16]
    _fields_: ClassVar[Sequence[Field]] = [("slot", c_uint16 * SMALL_SLOTS)]


class LargeRing(Structure):
    slot: Array[c_uint16]
    _fields_: ClassVar[Sequence[Field]] = [("slot", c_uint16 * LARGE_SLOTS)]


class Turns(Structure):
    server: Array[Array[c_uint16]]
    _fields_: ClassVar[Sequence[Field]] = [("server", (c_uint16 * TURNS) * 2)]


class Cursor(Structure):
    next: int
    pad: Array[c_uint64]
    _fields_: ClassVar[Sequence[Field]] = [("next", c_uint64), ("pad", c_uint64 * 7)]


class FlowSet(Structure):
    way: Array[c_uint64]
    _fields_: ClassVar[Sequence[Field]] = [("way", c_uint64 * FLOW_WAYS)]


class FlowCount(Structure):
    in_state: Array[c_uint32]
    _fields_: ClassVar[Sequence[Field]] = [("in_state", c_uint32 * 8)]


class ServerStats(Structure):
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int
    connections: int
    pad: Array[c_uint64]
    _fields_: ClassVar[Sequence[Field]] = [
        ("packets_in", c_uint64),
        ("bytes_in", c_uint64),
        ("packets_out", c_uint64),
        ("bytes_out", c_uint64),
        ("connections", c_uint64),
        ("pad", c_uint64 * 3),
    ]


class CpuBlock(Structure):
    verdict: Array[c_uint64]
    server: Array[ServerStats]
    _fields_: ClassVar[Sequence[Field]] = [
        ("verdict", c_uint64 * VERDICT_ROOM),
        ("server", ServerStats * SERVERS),
    ]


class Wanted(Structure):
    addr: Addr
    ifindex: int
    family: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("addr", Addr),
        ("ifindex", c_uint32),
        ("family", c_uint32),
    ]


class Meta(Structure):
    abi: int
    pad: int
    shape: Array[c_uint8]
    _fields_: ClassVar[Sequence[Field]] = [
        ("abi", c_uint32),
        ("pad", c_uint32),
        ("shape", c_uint8 * 32),
    ]


def word4(address: Address) -> int:
    """An IPv4 address as the program loads it. Raises ValueError for IPv6."""
    if address.version != 4:
        raise ValueError(f"{address} is not an IPv4 address")
    return int.from_bytes(address.packed, "little")


def address4(word: int) -> IPv4Address:
    return IPv4Address(word.to_bytes(4, "little"))


def port(number: int) -> int:
    """A port as the program loads it, and back."""
    return htons(number)


def mac(address: bytes) -> int:
    """A MAC address as the program compares it: gateway.mac."""
    return int.from_bytes(b"\0\0" + address, "little")


def host_port(word: int) -> int:
    return ntohs(word)


MASK64 = (1 << 64) - 1


def key4(address: Address, number: int, proto: int) -> int:
    """The index key of a triple (hash.h, lb_key4)."""
    return word4(address) << 32 | port(number) << 16 | proto


def index_hash(key: int, buckets: int) -> int:
    """hash.h, lb_index_hash."""
    return (key * 0x9E3779B97F4A7C15 & MASK64) >> 65 - buckets.bit_length()


def slot_hash(key: Sequence[int], client: int, ports: int) -> int:
    """hash.h, lb_slot_hash. key: four numbers."""
    return (key[0] + client) * (key[1] + ports) & MASK64


def flow_hash(key: Sequence[int], slot: int, address: int, proto: int) -> int:
    """hash.h, lb_flow_hash."""
    x = slot + (key[2] + address) * (key[3] + proto) & MASK64
    x = (x ^ x >> 32) * 0xBF58476D1CE4E5B9 & MASK64
    return x ^ x >> 29


def fold(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def delta(before: bytes, after: bytes) -> int:
    """~m + m' of RFC 1624, folded, over 16-bit words in memory order."""
    words = zip(before[::2], before[1::2], strict=True)
    minus = sum(~(low | high << 8) & 0xFFFF for low, high in words)
    plus = sum(low | high << 8 for low, high in zip(after[::2], after[1::2], strict=True))
    return fold(minus + plus)
