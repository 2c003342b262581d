"""Where a pair's gateways tell each other of connections."""

from ipaddress import ip_address

from lbctl.dataplane.ipvs.plane import SyncPlace
from lbctl.dataplane.select import sync_place
from lbctl.model import Config, Gateway, Router

FRONT = Router("edge", "eth0", 7, (ip_address("192.0.2.10"),))
BACK = Router("inside", "eth1", 8, (ip_address("198.51.100.1"),))


def place(*routers: Router) -> SyncPlace | None:
    return sync_place(Config(Gateway("eth0", ("eth1",)), {}, {one.name: one for one in routers}))


def test_behind_if_a_virtual_router_is_there() -> None:
    assert place(FRONT, BACK) == SyncPlace("eth1", 8)
    assert place(FRONT) == SyncPlace("eth0", 7)
    assert place() is None
