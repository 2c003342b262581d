"""What a gateway's state is as keys and values, and back.

    k                hash key
    o                the listens that this gateway is author of
    l FRONTEND       its servers with their weights
    r FRONTEND       its ring
    f PLACE          a remembered flow
    a SERVICE/SERVER an order of a person
    h SERVICE/SERVER what checks say of a server
    n PORT ADDRESS   a machine whose MAC is known, by the interface that it is on
    v PATH           a live change of the file, by the place that it changes

Moments are stamped with the author's own clock, rounded so that what only gets older is not
said all the time, and never rounded to older than it is.
"""

import math
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import msgspec

from lbctl.dataplane.port import PLACE, Flow, Kept, Near, RingCopy
from lbctl.ha.words import Fault
from lbctl.health.judge import Health
from lbctl.model import Endpoint, Frontend, ServerName, VirtualService, parse_frontend
from lbctl.world import Order

GRAIN = 64.0  # seconds
MOST_SLOTS = 1 << 16
REST = 4  # bytes of a flow's key after its place
KEY, OWN = b"k", b"o"

_MANY = 16384  # names that are read again and again
_frontend = lru_cache(_MANY)(parse_frontend)
_endpoint = lru_cache(_MANY)(Endpoint.parse)
_name = lru_cache(_MANY)(str)
_pack = msgspec.msgpack.Encoder().encode
_Ring = tuple[list[str], bytes]
_Flow = tuple[bytes, bool, int, str, str, Kept]


def listen_item(frontend: Frontend, service: VirtualService) -> tuple[bytes, bytes]:
    weights = sorted((str(e), one.weight) for e, one in service.destinations.items())
    return b"l" + str(frontend).encode(), _pack(weights)


def ring_item(frontend: Frontend, ring: RingCopy, now: float) -> tuple[bytes, bytes]:
    used = array("I", bytes(4 * len(ring.slots)))
    for at, idle in ring.idle.items():
        used[at] = _stamp(now - idle)
    slots, old = array("H", ring.slots), array("H", ring.old)
    data = zlib.compress(slots.tobytes() + old.tobytes() + used.tobytes(), 1)
    return b"r" + str(frontend).encode(), _pack(([str(one) for one in ring.servers], data))


def flow_item(flow: Flow, now: float) -> tuple[bytes, bytes]:
    stamp = _stamp(now - flow.idle)
    value = (
        flow.key[PLACE:],
        flow.confirmed,
        stamp,
        str(flow.frontend),
        str(flow.server),
        flow.kept,
    )
    return b"f" + flow.place, _pack(value)


def own_item(frontends: set[Frontend]) -> tuple[bytes, bytes]:
    return OWN, _pack(sorted(map(str, frontends)))


def order_item(server: str, order: Order) -> tuple[bytes, bytes]:
    return order_key(server), _pack(order)


def order_key(server: str) -> bytes:
    return b"a" + server.encode()


def health_item(server: str, health: str) -> tuple[bytes, bytes]:
    return b"h" + server.encode(), _pack(health)


def near_item(near: Near) -> tuple[bytes, bytes]:
    return bytes([ord("n"), near.at]) + near.address.packed, b""


def change_item(change: "Change") -> tuple[bytes, bytes]:
    return change_key(change.path), _pack(change)


def change_key(path: tuple[str, ...]) -> bytes:
    return b"v" + _pack(path)


def _stamp(moment: float) -> int:
    return max(0, math.ceil(moment / GRAIN))


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A live change of a service. number: of two, the later one has the higher. since, until:
    on the author's clock."""

    number: int
    path: tuple[str, ...]
    value: Any
    reason: str
    by: str
    since: float
    until: float | None


@dataclass
class News:
    """What changed at the peer, in our words. weights, rings, orders, verdicts, changes: None:
    gone; near: False."""

    key: bytes | None = None
    own: set[Frontend] | None = None
    weights: dict[Frontend, dict[Endpoint, int] | None] = field(default_factory=dict)
    rings: dict[Frontend, RingCopy | None] = field(default_factory=dict)
    flows: list[Flow] = field(default_factory=list)
    gone: list[bytes] = field(default_factory=list)
    orders: dict[str, Order | None] = field(default_factory=dict)
    verdicts: dict[str, str | None] = field(default_factory=dict)
    changes: dict[tuple[str, ...], Change | None] = field(default_factory=dict)
    near: dict[Near, bool] = field(default_factory=dict)


def read(changed: Mapping[bytes, bytes | None], now: float) -> News:
    """now: on the peer's clock. Raises Fault where the peer wrote what means nothing."""
    news = News()
    for key, value in changed.items():
        try:
            _read(news, key, value, now)
        except (ValueError, IndexError, TypeError, zlib.error, msgspec.MsgspecError) as error:
            raise Fault(f"{key[:40]!r} means nothing: {error}") from None
    return news


def _read(news: News, key: bytes, value: bytes | None, now: float) -> None:
    kind, rest = key[:1], key[1:]
    match kind:
        case b"k":
            news.key = value
        case b"o":
            names = _decode(value, list[str]) if value is not None else []
            news.own = {parse_frontend(name) for name in names}
        case b"l":
            frontend = parse_frontend(rest.decode())
            news.weights[frontend] = None if value is None else dict(_weights(value))
        case b"r":
            frontend = parse_frontend(rest.decode())
            news.rings[frontend] = None if value is None else _ring(value, now)
        case b"f":
            if value is None:
                news.gone.append(rest)
            else:
                news.flows.append(_flow(rest, value, now))
        case b"a":
            ServerName.parse(rest.decode())
            news.orders[rest.decode()] = None if value is None else _order(value)
        case b"h":
            _health(news.verdicts, rest.decode(), value)
        case b"n":
            news.near[Near(rest[0], ip_address(rest[1:]))] = value is not None
        case b"v":
            path = _decode(rest, tuple[str, ...])
            news.changes[path] = None if value is None else _change(path, value)
        case _:
            raise ValueError("of a kind that is not known here")


def _health(verdicts: dict[str, str | None], server: str, value: bytes | None) -> None:
    ServerName.parse(server)
    verdicts[server] = None if value is None else str(_decode(value, Health))


def _order(value: bytes) -> Order:
    order: Order = _decode(value, Order)
    _moments(order.since, order.deadline, order.until)
    return order


def _moments(*seconds: float | None) -> None:
    """What is kept over a restart has to be a time."""
    if not all(one is None or math.isfinite(one) for one in seconds):
        raise ValueError("a moment that is no number")


def _change(path: tuple[str, ...], value: bytes) -> Change:
    change: Change = _decode(value, Change)
    if path != change.path or len(path) < 2 or path[0] != "services":
        raise ValueError("a change of something else than a service")
    _moments(change.since, change.until)
    return change


def _weights(value: bytes) -> Iterator[tuple[Endpoint, int]]:
    for text, weight in _decode(value, list[tuple[str, int]]):
        if not 0 <= weight <= 65535:
            raise ValueError(f"a weight of {weight}")
        yield Endpoint.parse(text), weight


def _ring(value: bytes, now: float) -> RingCopy:
    names, data = _decode(value, _Ring)
    inflater = zlib.decompressobj()
    raw = inflater.decompress(data, 8 * MOST_SLOTS)
    count = len(raw) // 8
    if inflater.unconsumed_tail or len(raw) % 8 or not _power_of_two(count):
        raise ValueError(f"a ring of {len(raw)} bytes")
    slots, old, used = array("H"), array("H"), array("I")
    slots.frombytes(raw[: 2 * count])
    old.frombytes(raw[2 * count : 4 * count])
    used.frombytes(raw[4 * count :])
    if max(*slots, *old) > len(names):
        raise ValueError("a slot of a server that it does not name")
    servers = tuple(Endpoint.parse(name) for name in names)
    idle = {at: _idle(used[at], now) for at, one in enumerate(old) if one}
    return RingCopy(servers, tuple(slots), tuple(old), idle)


def _flow(place: bytes, value: bytes, now: float) -> Flow:
    rest, confirmed, stamp, frontend, server, kept = _decode(value, _Flow)
    if len(place) != PLACE or len(rest) != REST:
        raise ValueError(f"a place of {len(place)} bytes, and {len(rest)} more")
    where, idle = _frontend(frontend), _idle(stamp, now)
    return Flow(where, place + rest, _endpoint(server), confirmed, idle, kept)


def _idle(stamp: int, now: float) -> float:
    return max(0.0, now - stamp * GRAIN)


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _decode(value: bytes, kind: Any) -> Any:
    return msgspec.msgpack.decode(value, type=kind)
