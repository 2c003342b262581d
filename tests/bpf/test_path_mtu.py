"""Path MTU discovery through the balancer: a router between client and VIP has a smaller MTU,
and the server hears of it."""

import subprocess

import pytest

from lbctl.model import Gateway
from tests.bpf.live import SERVER, VIP, balancing, download, honest
from tests.vm.namespaces import Host, cable

pytestmark = pytest.mark.kernel

CLIENT = "203.0.113.2"


def test_the_server_learns_of_the_router() -> None:
    with Host("client") as client, Host("router") as router, Host("gw") as gw, Host("server") as s:
        cable(client, router)
        cable(router, gw)
        cable(gw, s)
        # The client's own MTU is the usual one, so that its MSS gives nothing away.
        client.ip(f"addr add {CLIENT}/24 dev router", "route add default via 203.0.113.1")
        router.ip(
            "addr add 203.0.113.1/24 dev client",
            "addr add 192.0.2.254/24 dev gw",
            "link set client mtu 1300",
        )
        gw.ip(
            "addr add 192.0.2.1/24 dev router",
            f"addr add {VIP}/32 dev router",
            "addr add 198.51.100.1/24 dev server",
            "route add default via 192.0.2.254",
        )
        s.ip(f"addr add {SERVER}/24 dev gw", "route add default via 198.51.100.1")
        for host in (router, gw):
            host.sysctl(net__ipv4__ip_forward=1)
        honest(client, "router")
        honest(router, "client", "gw")
        honest(s, "gw")
        with balancing(gw, Gateway("router", ("server",))) as plane:
            assert download(client, s, plane, 300_000) == 300_000
            assert plane.stats().verdicts["drop_too_big"] == 0
        with s.inside():
            command = ["ip", "route", "get", CLIENT]
            known = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "mtu 1300" in known
