"""bpf/abi.h in Python: live views of the maps' values. A test compares the two.

Addresses and ports are bytes in network order, so these fields are read and written as
numbers of this machine's order without meaning; `word4()` and `port()` convert.
"""

import struct
from collections.abc import Sequence
from ctypes import Array, Structure, c_int64, c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from socket import htons, ntohs
from typing import ClassVar

from lbctl.model import Address

ABI = 8
PORTS = 8
PORT_PLACES = 64
LISTENS = 2048
SERVERS = 16384
PAGES = 16384
PAGE_BITS = 9
PAGE_SLOTS = 1 << PAGE_BITS
TURNS = 1024
LISTEN_BUCKETS = 4096
RETURN_BUCKETS = 32768
WAYS = 4
PROBES = 4
FLOW_WAYS = 5
SWEEP_SETS = 32
SWEEP_SLOTS_AT_ONCE = 256
BUSY_TICKS = 2
STATES = 12

KEY_EMPTY = 0
KEY_GONE = 1
WAY_RING_SHIFT = 32
WAY_FLAGS_SHIFT = 56
WAY_SHARED = 1
PROTO_OWN = 255
OWN = 0xFFFFFFFF
LISTEN_ONESHOT = 1
LISTEN_GONE = 2
LISTEN_MEMORY = 4
LISTEN_SOURCE = 8
LISTEN_HELD = 16
LISTEN_IN_WAY = LISTEN_MEMORY | LISTEN_SOURCE
RING_SHIFT = 16
RING_PAGE = 0xFFFF
SLOT_CHANGING = 0x8000
OLD_KEPT = 0x8000
TURNS_HALF = 0x10000
SERVER_RECORD = 1

AGE_BITS = 11
STATE_SHIFT = 11
STATE_MASK = 15
SERVER_SHIFT = 15
SERVER_MASK = 0x7FFF
TAG_SHIFT = 30

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
    "drop_frag_no_first",
    "drop_truncated",
    "drop_ttl",
    "drop_no_server",
    "drop_too_big",
    "drop_no_neighbour",
    "drop_no_route",
    "drop_return_full",
    "drop_broken",
    "drop_unknown",
    "drop_fenced",
    "drop_all_full",
    "drop_martian",
)
VERDICT_ROOM = 64
SPARES = 2
ROUTERS = 64  # virtual routers; number 0 is nobody
FENCE_KEYS = 4096


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
    FRAGMENT = 8
    CLIENT = 9
    RETURN_NEW = 10


Field = tuple[str, type]


class Addr(Structure):
    w: Array[c_uint32]
    _fields_: ClassVar[Sequence[Field]] = [("w", c_uint32 * 4)]


class Gateway(Structure):
    key: Array[c_uint64]
    ifindex: Array[c_uint32]
    mac: Array[c_uint64]
    flow_mask: int
    tick_shift: int
    tick_ahead: int
    udp_records: int
    timeout: Array[c_uint16]
    port_at: Array[c_uint8]
    port_multiplier: int
    naught: int
    device: Array[c_uint32]
    _fields_: ClassVar[Sequence[Field]] = [
        ("key", c_uint64 * 4),
        ("ifindex", c_uint32 * PORTS),
        ("mac", c_uint64 * PORTS),
        ("flow_mask", c_uint32),
        ("tick_shift", c_uint32),
        ("tick_ahead", c_uint32),
        ("udp_records", c_uint32),
        ("timeout", c_uint16 * STATES),
        ("port_at", c_uint8 * PORT_PLACES),
        ("port_multiplier", c_uint32),
        ("naught", c_uint32),
        ("device", c_uint32 * PORTS),
    ]


class Way(Structure):
    key: int
    found: int
    _fields_: ClassVar[Sequence[Field]] = [("key", c_uint64), ("found", c_uint64)]

    @property
    def number(self) -> int:
        return self.found & 0xFFFFFFFF

    @property
    def flags(self) -> int:
        return self.found >> WAY_FLAGS_SHIFT


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
    seconds: int
    mask: Addr
    spare: Array[c_uint16]
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
        ("persistence", c_uint16),
        ("seconds", c_uint16),
        ("mask", Addr),
        ("spare", c_uint16 * SPARES),
        ("pad1", c_uint8 * 8),
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
    family: int
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
        ("family", c_uint8),
        ("pad", c_uint8 * 13),
    ]


class RingPage(Structure):
    slot: Array[c_uint16]
    _fields_: ClassVar[Sequence[Field]] = [("slot", c_uint16 * PAGE_SLOTS)]


class OldSlot(Structure):
    server: int
    used: int
    _fields_: ClassVar[Sequence[Field]] = [("server", c_uint16), ("used", c_uint16)]


class OldPage(Structure):
    slot: Array[OldSlot]
    _fields_: ClassVar[Sequence[Field]] = [("slot", OldSlot * PAGE_SLOTS)]


class Turns(Structure):
    server: Array[Array[c_uint16]]
    _fields_: ClassVar[Sequence[Field]] = [("server", (c_uint16 * TURNS) * 2)]


class Cursor(Structure):
    next: int
    udp_records: int
    pad: Array[c_uint64]
    _fields_: ClassVar[Sequence[Field]] = [
        ("next", c_uint64),
        ("udp_records", c_uint64),
        ("pad", c_uint64 * 6),
    ]


class FlowSet(Structure):
    way: Array[c_uint64]
    isn: Array[c_uint32]
    pad: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("way", c_uint64 * FLOW_WAYS),
        ("isn", c_uint32 * FLOW_WAYS),
        ("pad", c_uint32),
    ]


class SweepKind(IntEnum):
    FLOWS = 0
    DROP = 1
    SLOTS = 2
    TICK = 3


class SweepJob(Structure):
    kind: int
    first: int
    idle: int
    pad: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("kind", c_uint32),
        ("first", c_uint32),
        ("idle", c_uint32),
        ("pad", c_uint32),
    ]


class FlowCount(Structure):
    in_state: Array[c_uint32]
    old_slots: int
    busy_slots: int
    last_old: int
    pad: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("in_state", c_uint32 * STATES),
        ("old_slots", c_uint32),
        ("busy_slots", c_uint32),
        ("last_old", c_uint32),
        ("pad", c_uint32),
    ]


class Load(Structure):
    open: int
    _fields_: ClassVar[Sequence[Field]] = [("open", c_int64)]


class ServerStats(Structure):
    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int
    connections: int
    refused: int
    hinted: int
    pad: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("packets_in", c_uint64),
        ("bytes_in", c_uint64),
        ("packets_out", c_uint64),
        ("bytes_out", c_uint64),
        ("connections", c_uint64),
        ("refused", c_uint64),
        ("hinted", c_uint64),
        ("pad", c_uint64),
    ]


class CpuBlock(Structure):
    verdict: Array[c_uint64]
    server: Array[ServerStats]
    _fields_: ClassVar[Sequence[Field]] = [
        ("verdict", c_uint64 * VERDICT_ROOM),
        ("server", ServerStats * SERVERS),
    ]


WANTED_CHECK = 0  # a family that is none: a server is meant, and `ifindex` is its number


class Wanted(Structure):
    addr: Addr
    ifindex: int
    family: int
    _fields_: ClassVar[Sequence[Field]] = [
        ("addr", Addr),
        ("ifindex", c_uint32),
        ("family", c_uint32),
    ]


class FencePort(Structure):
    ifindex: int
    pad: int
    router4: Array[c_uint8]
    router6: Array[c_uint8]
    _fields_: ClassVar[Sequence[Field]] = [
        ("ifindex", c_uint32),
        ("pad", c_uint32),
        ("router4", c_uint8 * 256),
        ("router6", c_uint8 * 256),
    ]


class Fence(Structure):
    now: int
    clear_until: int
    until: Array[c_uint64]
    port: Array[FencePort]
    _fields_: ClassVar[Sequence[Field]] = [
        ("now", c_uint64),
        ("clear_until", c_uint64),
        ("until", c_uint64 * ROUTERS),
        ("port", FencePort * PORTS),
    ]


class FenceKey(Structure):
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
    unsettled: int
    shape: Array[c_uint8]
    _fields_: ClassVar[Sequence[Field]] = [
        ("abi", c_uint32),
        ("unsettled", c_uint32),
        ("shape", c_uint8 * 32),
    ]


def word4(address: Address) -> int:
    """An IPv4 address as the program loads it. Raises ValueError for IPv6."""
    if address.version != 4:
        raise ValueError(f"{address} is not an IPv4 address")
    return int.from_bytes(address.packed, "little")


def words(address: Address) -> tuple[int, int, int, int]:
    """An address of either family as the program loads it: an IPv4 one is the first word."""
    first, second, third, fourth = struct.unpack("<4I", address.packed.ljust(16, b"\0"))
    return first, second, third, fourth


def address(words: Array[c_uint32], version: int) -> Address:
    raw = struct.pack("<4I", *words)
    return IPv4Address(raw[:4]) if version == 4 else IPv6Address(raw)


def port(number: int) -> int:
    """A port as the program loads it, and back."""
    return htons(number)


def mac(address: bytes, vlan: int = 0) -> int:
    """A MAC address, in a VLAN, as the program compares it: gateway.mac."""
    return int.from_bytes(vlan.to_bytes(2, "little") + address, "little")


def host_port(word: int) -> int:
    return ntohs(word)


MASK64 = (1 << 64) - 1


ODD_A, ODD_B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9


def key(address: Address, number: int, proto: int) -> int:
    """The index key of a triple (hash.h: lb_key4, lb_key6)."""
    if address.version == 4:
        return word4(address) << 32 | port(number) << 16 | proto
    w = words(address)
    x = (w[1] << 32 | w[0]) * ODD_A & MASK64
    x = (x ^ x >> 32 ^ (w[3] << 32 | w[2])) * ODD_B & MASK64
    x = (x ^ x >> 32 ^ (port(number) << 16 | proto)) * ODD_A & MASK64
    return x | 0xFF00


def port_place(ifindex: int, vlan: int, multiplier: int) -> int:
    """hash.h, lb_port_place."""
    return ((ifindex ^ vlan << 16) * multiplier & 0xFFFFFFFF) >> 26


def index_hash(key: int, buckets: int) -> int:
    """hash.h, lb_index_hash."""
    return (key * ODD_A & MASK64) >> 65 - buckets.bit_length()


def flow_hash(key: Sequence[int], addresses: int, ports: int, proto: int) -> int:
    """hash.h, lb_flow_hash. key: four numbers."""
    first = (key[0] + (addresses >> 32)) * (key[1] + (addresses & 0xFFFFFFFF))
    return first + (key[2] + ports) * (key[3] + proto) & MASK64


def fold_address(key: Sequence[int], address: Address) -> int:
    """An address as the flow hash takes it (hash.h, lb_fold6)."""
    w = words(address)
    if address.version == 4:
        return w[0]
    total = (key[0] + w[0]) * (key[1] + w[1]) + (key[2] + w[2]) * (key[3] + w[3])
    return (total & MASK64) >> 32


def mix(x: int) -> int:
    """hash.h, lb_mix."""
    return x ^ ((x ^ x >> 32) * ODD_B & MASK64) >> 32


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
