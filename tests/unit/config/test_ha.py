"""The section `virtual_routers`: what it may say, by gateway, and the faults it names."""

from ipaddress import ip_address

import pytest

from lbctl.config import dump, parse
from lbctl.errors import InvalidConfig
from lbctl.model import Router, Tracker, TrackerKind
from lbctl.vrrp.settings import too_short

FILE = """\
apiVersion: lbctl/v1
gateway: {front: eth0}
gateways: {gw1: {}, gw2: {}}
services:
  web: {listen: 192.0.2.10:80/tcp, servers: {a: 198.51.100.11}}
virtual_routers:
  edge:
    vrid: 7
    addresses: 192.0.2.10
    priority: {gw1: 200, gw2: 100}
    interval: 100ms
    peers: {gw1: 192.0.2.3, gw2: [192.0.2.2]}
    track:
      - interface: eth1
        weight: -50
      - {service: web, servers: 2}
    notify: {command: /bin/true x, keepalived: true, timeout: 5s}
"""


def edge(node: str) -> Router:
    return parse(FILE, node=node).config.routers["edge"]


def test_each_gateway_reads_its_own_values() -> None:
    one, two = edge("gw1"), edge("gw2")
    assert (one.priority, two.priority) == (200, 100)
    assert (one.peers, two.peers) == ((ip_address("192.0.2.3"),), (ip_address("192.0.2.2"),))
    assert (one.interface, one.interval) == ("eth0", 0.1)
    assert one.trackers == (
        Tracker(TrackerKind.INTERFACE, "eth1", -50),
        Tracker(TrackerKind.QUORUM, "web", needs=2),
    )


def test_a_router_without_a_priority_for_this_gateway_does_not_run_here() -> None:
    text = FILE.replace("{gw1: 200, gw2: 100}", "{gw1: 200}")
    assert parse(text, node="gw2").config.routers == {}


def test_adverts_too_fast_for_the_fence_are_a_fault_where_jiffies_are_long() -> None:
    fast = FILE.replace("interval: 100ms", "interval: 10ms")
    assert parse(fast, node="gw1", tick=0.004).config.routers["edge"].interval == 0.01
    with pytest.raises(InvalidConfig) as caught:
        parse(fast, node="gw1", tick=0.01)  # HZ=100
    (fault,) = caught.value.faults
    assert fault.startswith("lbctl.yaml:11:15: virtual_routers.edge.interval: a lease of 30 ms is")
    assert "under 5 jiffies of this kernel (10 ms each): use a longer interval" in fault


@pytest.mark.parametrize(("lease", "tick", "fits"), [(0.03, 0.004, True), (0.03, 0.01, False)])
def test_a_lease_of_less_than_five_jiffies_is_too_short(
    lease: float, tick: float, fits: bool
) -> None:
    assert (too_short(lease, tick) == "") == fits


def test_what_is_dumped_reads_back_equal() -> None:
    config = parse(FILE, node="gw1").config
    assert parse(dump(config)).config == config


@pytest.mark.parametrize(
    ("change", "to", "fault"),
    [
        ("vrid: 7", "vrid: 700", "8:11: virtual_routers.edge.vrid: 700 is too large"),
        ("gw2: 100", "gw3: 100", "priority.gw3: no such gateway (did you mean 'gw2'?)"),
        ("gw1: 200", "gw1: 300", "300 is not a priority (1 to 254, or 255 for the owner)"),
        ("service: web", "service: wep", "track[1].service: no such service (did you mean 'web'?)"),
        ("interval: 100ms", "interval: 5ms", "5ms is too short"),
        ("interval: 100ms", "interval: 105ms", "interval 0.105 s: 0.01 to 40.95 in steps of"),
        ("interface: eth1", "{}", "watches one thing"),
        ("vrid: 7", "vrid: 7\n    preempt: when-synced", "needs `replication` of the gateway"),
        ("vrid: 7", "vrid: 7\n    prioritty: 8", "unknown key (did you mean 'priority'?)"),
        ("peers:", "version: 2\n    peers:", "whole seconds, 1 to 255, in version 2"),
    ],
)
def test_faults_are_named_where_they_are(change: str, to: str, fault: str) -> None:
    text = FILE.replace("- interface: eth1\n        weight: -50", "- interface: eth1")
    with pytest.raises(InvalidConfig) as caught:
        parse(text.replace(change, to), node="gw1")
    assert len(caught.value.faults) == 1
    assert fault in caught.value.faults[0]
