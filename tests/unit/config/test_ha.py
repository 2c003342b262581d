"""The section `virtual_routers`: what it may say, by gateway, and the faults it names."""

from ipaddress import ip_address

import pytest

from lbctl.config import dump, parse
from lbctl.dataplane.xdp import abi
from lbctl.errors import InvalidConfig
from lbctl.ha import room
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


# --- what the fence holds ---------------------------------------------------------------


def crowd(routers: int, addresses: int, interfaces: int = 1) -> str:
    """A file of so many virtual routers, each with so many addresses."""
    text = FILE[: FILE.index("virtual_routers")] + "virtual_routers:\n"
    for number in range(routers):
        many = ", ".join(f"10.0.{number}.{host}" for host in range(1, addresses + 1))
        link = f"eth{number % interfaces}"
        text += f"  r{number}: {{vrid: {number + 1}, interface: {link}, addresses: [{many}]}}\n"
    return text


@pytest.mark.parametrize(
    ("most", "more", "said"),
    [
        ((63, 1), (64, 1), "r63: the fence has room for 63 virtual routers (use fewer, "),
        ((16, 254), (17, 254), "r16: the fence has room for 4096 virtual addresses (use fewer, "),
        ((8, 1, 8), (9, 1, 9), "r8: the fence has room for 8 interfaces (use fewer, "),
    ],
)
def test_more_than_the_fence_holds_is_a_fault(
    most: tuple[int, ...], more: tuple[int, ...], said: str
) -> None:
    assert parse(crowd(*most), node="gw1", tick=0.004)
    with pytest.raises(InvalidConfig) as caught:
        parse(crowd(*more), node="gw1", tick=0.004)
    (fault,) = caught.value.faults
    assert f"virtual_routers.{said}" in fault


def test_a_link_local_address_takes_room_on_each_interface() -> None:
    local = [Router(f"r{n}", f"eth{n}", 7, (ip_address("fe80::1"),)) for n in range(2)]
    assert len({one for router in local for one in room.claim(router).addresses}) == 2
    plain = [Router(f"r{n}", f"eth{n}", 7, (ip_address("192.0.2.1"),)) for n in range(2)]
    assert len({one for router in plain for one in room.claim(router).addresses}) == 1


def test_its_room_is_that_of_its_maps() -> None:
    assert (room.ROUTERS + 1, room.ADDRESSES, room.INTERFACES) == (
        abi.ROUTERS,
        abi.FENCE_KEYS,
        abi.PORTS,
    )


# --- the way back -----------------------------------------------------------------------

PAIR = """\
apiVersion: lbctl/v1
gateway: {front: eth0, back: eth1}
services:
  web: {listen: 192.0.2.10:80/tcp, servers: {a: 198.51.100.11}}
  mail: {listen: 192.0.2.10:25/tcp, mode: dr, check: none, servers: {a: 192.0.2.25}}
virtual_routers:
  edge: {vrid: 7, addresses: 192.0.2.10, group: pair}
  inside: {vrid: 8, addresses: 198.51.100.1, interface: eth1, group: pair}
"""
SAID = "lbctl.yaml:7:3: virtual_routers.edge: answers of servers of web (mode nat) have no way back"
GONE = "once this gateway is gone (let an address of a virtual router on {} be their gateway, and "
APART = "that moves with it: inside may be active on the other gateway (write group: {} in both)"
ALONE = ("  inside: {vrid: 8, addresses: 198.51.100.1, interface: eth1, group: pair}\n", "")
BEHIND_FRONT = (", back: eth1", "")


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ([], None),
        ([ALONE], GONE.format("eth1")),
        ([("interface: eth1", "interface: eth2")], GONE.format("eth1")),
        ([("198.51.100.1,", "2001:db8::1,")], GONE.format("eth1")),
        ([("192.0.2.10, group: pair", "192.0.2.10")], APART.format("pair")),
        ([("192.0.2.10, group: pair", "192.0.2.10, group: one")], APART.format("one")),
        ([("servers: {a: 198", "mode: fullnat, servers: {a: 198"), ALONE], None),
        ([BEHIND_FRONT, ALONE], GONE.format("their network")),
        ([BEHIND_FRONT, ALONE, ("{a: 198.51.100.11}", "{a: 192.0.2.11}")], None),
        ([BEHIND_FRONT], None),
        ([ALONE, ("192.0.2.10, group: pair", "192.0.2.9, group: pair")], None),
    ],
)
def test_servers_whose_answers_have_no_way_back_are_warned_of(
    changes: list[tuple[str, str]], mend: str | None
) -> None:
    text = PAIR
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    found = parse(text).warnings
    if mend is None:
        assert found == ()
    else:
        (said,) = found
        assert said.startswith(f"{SAID} {mend}")
