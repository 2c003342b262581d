"""Which of two gateways acts for a service: the one whose virtual router has its address."""

from ipaddress import ip_address

import pytest

from lbctl.daemon.routers import acts_for
from lbctl.messages import Role
from lbctl.model import Config, Gateway, Router

from .stand import service

FRONT = Router("front", "lan0", 7, (ip_address("192.0.2.10"),))
FRONT6 = Router("front6", "lan0", 7, (ip_address("2001:db8::10"),))
BACK = Router("back", "lan1", 8, (ip_address("198.51.100.1"),))
DUAL = "192.0.2.10:80/tcp [2001:db8::10]:80/tcp"


@pytest.mark.parametrize(
    ("routers", "listens", "roles", "acts"),
    [
        ((), "192.0.2.10:80/tcp", {}, True),
        ((BACK,), "192.0.2.10:80/tcp", {}, True),
        ((FRONT,), "192.0.2.10:80/tcp", {"front": Role.ACTIVE}, True),
        ((FRONT,), "192.0.2.10:80/tcp", {"front": Role.BACKUP}, False),
        ((FRONT,), "192.0.2.10:80/tcp", {"front": Role.FAULT}, False),
        ((FRONT,), "192.0.2.10:80/tcp", {}, False),
        ((FRONT,), "192.0.2.11:80/tcp", {"front": Role.BACKUP}, True),
        ((FRONT, FRONT6), DUAL, {"front": Role.ACTIVE, "front6": Role.ACTIVE}, True),
        ((FRONT, FRONT6), DUAL, {"front": Role.ACTIVE, "front6": Role.BACKUP}, False),
    ],
    ids=[
        *("alone", "another's address", "active", "backup", "fault", "unheard of"),
        *("not its address", "active for both", "active for one"),
    ],
)
def test_who_acts_for_a_service(routers, listens, roles, acts) -> None:
    config = Config(
        Gateway("lan0"),
        {"web": service(1, listens=listens)},
        {router.name: router for router in routers},
    )
    assert acts_for(config, roles, "web") is acts
