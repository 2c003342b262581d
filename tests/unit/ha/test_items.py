"""A gateway's state as keys and values: what is written is read, and nonsense is a fault."""

import math
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.dataplane.port import Flow, Kept, Near, RingCopy
from lbctl.ha import items
from lbctl.ha.words import Fault
from lbctl.model import Destination, Endpoint, Scheduler, VirtualService, parse_frontend
from lbctl.world import Admin, Order

WEB = parse_frontend("192.0.2.10:80/tcp")
APP1, APP2 = Endpoint.parse("198.51.100.1:80"), Endpoint.parse("[2001:db8::2]:80")
RING = RingCopy((APP1, APP2), (1, 2, 0, 2), (0, 1, 0, 2), {1: 128.0, 3: 0.0})


def read(*written: tuple[bytes, bytes | None], now: float = 6400.0) -> items.News:
    return items.read(dict(written), now)


def test_a_listen_is_its_servers_and_weights() -> None:
    service = VirtualService(Scheduler("mh"), {APP1: Destination(1), APP2: Destination(0)})
    assert read(items.listen_item(WEB, service)).weights == {WEB: {APP1: 1, APP2: 0}}


def test_a_ring_is_read_as_it_was_written() -> None:
    (ring,) = read(items.ring_item(WEB, RING, now=6400.0)).rings.values()
    assert ring == RING


@given(idle=st.floats(0, 1000), later=st.floats(0, 1000))
def test_nothing_is_older_than_it_is(idle: float, later: float) -> None:
    flow = Flow(WEB, bytes(16), APP1, True, idle, Kept.CLIENT)
    (found,) = read(items.flow_item(flow, 6400.0), now=6400.0 + later).flows
    assert max(0.0, idle + later - items.GRAIN) - 1e-6 <= found.idle <= idle + later + 1e-6
    assert (found.key, found.server, found.confirmed) == (flow.key, APP1, True)
    assert found.kept is Kept.CLIENT


def test_what_only_gets_older_is_not_said_all_the_time() -> None:
    flows = [Flow(WEB, bytes(16), APP1, True, idle=0.0)] * 60
    said = {items.flow_item(flow, 6400.5 + second) for second, flow in enumerate(flows)}
    assert len(said) == 1


def test_orders_verdicts_key_and_ownership_go_over() -> None:
    order = Order(Admin.DRAIN, 1.0, 301.0, None, "kernel", "ann")
    news = read(
        items.order_item("web/app1", order),
        items.health_item("web/app1", "up"),
        (items.KEY, b"key"),
        items.own_item({WEB}),
    )
    assert (news.orders, news.verdicts) == ({"web/app1": order}, {"web/app1": "up"})
    assert (news.key, news.own) == (b"key", {WEB})


def test_a_live_change_goes_over() -> None:
    assert read(CHANGE).changes == {PATH: items.Change(3, PATH, 7, "bigger", "ann", 1.0, None)}
    assert read((CHANGE[0], None)).changes == {PATH: None}


NEAR = [Near(0, ip_address("192.0.2.77")), Near(2, ip_address("2001:db8::77"))]


@pytest.mark.parametrize("near", NEAR)
def test_a_machine_nearby_goes_over(near: Near) -> None:
    item = items.near_item(near)
    assert read(item).near == {near: True}
    assert read((item[0], None)).near == {near: False}


def test_what_is_gone_is_none() -> None:
    news = read((b"l192.0.2.10:80/tcp", None), (b"f" + bytes(12), None), (b"aweb/app1", None))
    assert (news.weights, news.gone, news.orders) == ({WEB: None}, [bytes(12)], {"web/app1": None})


PACK = msgspec.msgpack.encode
PATH = ("services", "web", "servers", "app1", "weight")
CHANGE = items.change_item(items.Change(3, PATH, 7, "bigger", "ann", 1.0, None))
NO_MOMENTS = [(math.inf, 1.0), (1.0, -math.inf), (1.0, 2.0, math.inf)]
LIES = [
    (b"x", b""),
    (b"lnowhere", PACK([])),
    (b"l192.0.2.10:80/tcp", PACK([("198.51.100.1:80", 70000)])),
    (b"r192.0.2.10:80/tcp", PACK((["198.51.100.1:80"], b"not zlib"))),
    (b"fshort", PACK((b"", True, 0, "192.0.2.10:80/tcp", "198.51.100.1:80"))),
    (b"aweb/app1", PACK("drain")),
    (b"l\xff", PACK([])),
    (b"hweb/app1", PACK("splendid")),
    (b"hweb", PACK("up")),
    (b"vnot a path", PACK([])),
    (b"anonsense", PACK(Order(Admin.DRAIN, 1.0, 2.0))),
    (b"aweb/app1", PACK([0.0])),
    *(items.order_item("web/app1", Order(Admin.DRAIN, *one)) for one in NO_MOMENTS),
    items.change_item(items.Change(1, PATH, 7, "", "", math.inf, None)),
    (b"f" + bytes(12), PACK((b"abc", True, 0, "192.0.2.10:80/tcp", "198.51.100.1:80", 0))),
    (b"n", b""),
    (b"n\0\xc0\0\2", b""),
    items.change_item(items.Change(1, ("gateway", "front"), "eth9", "", "", 0.0, None)),
    (items.change_key(("services", "web")), CHANGE[1]),
    items.ring_item(WEB, RingCopy((APP1,), (1, 2), (0, 0)), 0.0),
    items.ring_item(WEB, RingCopy((APP1,), (1, 1, 1), (0, 0, 0)), 0.0),
]


@pytest.mark.parametrize(("key", "value"), LIES)
def test_nonsense_is_a_fault_with_its_key(key: bytes, value: bytes) -> None:
    with pytest.raises(Fault, match="means nothing"):
        read((key, value))


@given(st.binary(max_size=8), st.binary(max_size=40))
def test_garbage_is_a_fault_and_nothing_else(key: bytes, value: bytes) -> None:
    try:
        read((key, value))
    except Fault:
        return
