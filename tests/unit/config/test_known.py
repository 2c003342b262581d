"""A file read again under other overrides: the same as reading it anew, and cheaper."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.config import Patch, parse
from lbctl.config.known import again
from lbctl.errors import InvalidConfig

FILE = """\
apiVersion: lbctl/v1
gateways:
  gw1: {front: eth0}
  gw2: {front: eth1}
defaults: {scheduler: wrr, check: {interval: 3s}, drain: 60s}
services:
  web:
    listen: [192.0.2.10:80/tcp, 192.0.2.10:443/tcp]
    servers: {a: 198.51.100.1, b: {address: 198.51.100.2, weight: 3}}
  direct:
    listen: 192.0.2.11:80/tcp
    mode: dr
    servers: {a: 198.51.100.1, c: 198.51.100.3}
  slow:
    listen: 192.0.2.12:80/tcp
    check: {interval: 9s}
    servers: {a: 198.51.100.1:80}
  quick:
    listen: 192.0.2.13:80/tcp
    check: none
    agent: haproxy
    servers: {a: 198.51.100.1:80, d: {address: 198.51.100.4:80, max_connections: 9}}
virtual_routers:
  front: {vrid: 7, addresses: 192.0.2.10, track: [{service: slow}]}
""".replace("drain: 60s", "drain: {timeout: 60s}")
SERVICE = {"listen": "192.0.2.14:80/tcp", "servers": {"e": "198.51.100.5:80"}}

services = st.sampled_from(["web", "direct", "slow", "quick", "new", "nobody"])
servers = st.sampled_from(["a", "b", "c", "d", "f"])
values: dict[str, list[Any]] = {
    "weight": [0, 1, 1.0, True, "1", 7, 70_000],
    "max_connections": [0, 5],
    "min_connections": [0, 7],
    "address": ["198.51.100.1", "198.51.100.9:81", "192.0.2.10", "2001:db8::1"],
}
settings_: dict[str, list[Any]] = {
    "scheduler": ["rr", "mh", "nonsense", ["wrr"]],
    "listen": [["192.0.2.10:80/tcp"], "192.0.2.20:80/tcp", []],
    "mode": ["nat", "dr"],
    "check": ["none", "tcp", {"interval": "9s"}, 5],
    "slow_start": ["10s", "x"],
    "quorum": [1, 2],
    "vip": ["external", "managed"],
    "oneshot": [True, 1],
    "persistence": ["60s", "none"],
}
elsewhere = st.sampled_from(
    [
        Patch(("defaults", "scheduler"), "rr"),
        Patch(("defaults", "check", "interval"), "1s"),
        Patch(("gateways", "gw1", "front"), "eth7"),
        Patch(("gateway", "probe"), ["198.51.100.2/24"]),
        Patch(("virtual_routers", "front", "priority"), 200),
        Patch(("services",), 3),
    ]
)


@st.composite
def patches(draw) -> Patch:
    service, server = draw(services), draw(servers)
    kind = draw(st.integers(0, 9))
    if kind < 5:
        key = draw(st.sampled_from(sorted(values)))
        value = draw(st.sampled_from([None, *values[key]]))
        return Patch(("services", service, "servers", server, key), value)
    if kind < 7:
        value = draw(st.sampled_from([None, "198.51.100.9:80", {"address": "198.51.100.1"}, 4]))
        return Patch(("services", service, "servers", server), value)
    if kind < 8:
        key = draw(st.sampled_from(sorted(settings_)))
        return Patch(("services", service, key), draw(st.sampled_from([None, *settings_[key]])))
    if kind < 9:
        return Patch(("services", service), draw(st.sampled_from([None, SERVICE, "x"])))
    return draw(elsewhere)


def found(laid: list[Patch], known=None):
    """What reading gives, in all that can be seen of it; and what is known after it."""
    try:
        read = parse(FILE, node="gw1", patches=laid, known=known)
    except InvalidConfig as error:
        return tuple(error.faults), None
    # Equal configurations may still name things in another order.
    order = [(name, list(one.servers)) for name, one in read.config.services.items()]
    return (read.config, order, read.stale, read.warnings), read.known


@given(st.lists(st.tuples(patches(), st.booleans()), max_size=8))
@settings(max_examples=300, deadline=None)
def test_reading_again_is_reading_anew(history) -> None:
    laid: list[Patch] = []
    known = parse(FILE, node="gw1").known
    for patch, replaces in history:
        laid = [*laid[1:], patch] if replaces else [*laid, patch]
        anew, _ = found(laid)
        once_more, then = found(laid, known)
        assert once_more == anew
        known = then or known
        if then is None:
            laid.pop()  # as the daemon does: what is refused is not kept


WEIGHT = Patch(("services", "web", "servers", "b", "weight"), 5)
ADDED = Patch(("services", "web", "servers", "f"), "198.51.100.9")
NEW = Patch(("services", "new"), SERVICE)


@pytest.mark.parametrize(
    "laid",
    [
        [WEIGHT],
        [ADDED],
        [NEW],
        [Patch(("services", "web", "servers", "b"))],
        [Patch(("services", "web", "scheduler"), "rr")],
        [WEIGHT, ADDED, NEW],
        [Patch(("services", "nobody", "scheduler"), "rr")],
        [Patch(("services", "direct", "servers", "c", "weight"), 2)],  # which is warned of
    ],
    ids=str,
)
def test_what_touches_a_service_is_read_without_the_file(laid) -> None:
    known = parse(FILE, node="gw1").known
    assert known is not None
    read = again(known, laid)
    assert read is not None
    assert read[0].config == parse(FILE, node="gw1", patches=laid).config


@pytest.mark.parametrize(
    "laid",
    [
        [Patch(("services", "web", "servers", "b", "weight"), True)],  # a fault
        [Patch(("services", "slow"))],  # watched
        [Patch(("services", "web", "servers", "a"))],  # others share its check from now on
        [Patch(("services", "web", "check"), {"interval": "9s"})],  # at another pace than others
        [Patch(("services", "slow", "servers", "a", "weight"), 0)],  # a new warning
        [Patch(("services", "direct", "check"), "tcp")],  # a warning that names an override now
        [Patch(("defaults", "scheduler"), "rr")],
    ],
    ids=str,
)
def test_the_file_is_read_where_that_cannot_be_told_without_it(laid) -> None:
    known = parse(FILE, node="gw1").known
    assert known is not None
    assert again(known, laid) is None


def test_true_is_not_one_though_they_are_equal() -> None:
    path = ("services", "web", "servers", "b", "weight")
    known = parse(FILE, node="gw1", patches=[Patch(path, 1)]).known
    with pytest.raises(InvalidConfig, match="true is not"):
        parse(FILE, node="gw1", patches=[Patch(path, True)], known=known)


def test_what_is_known_of_another_text_says_nothing() -> None:
    known = parse(FILE.replace("weight: 3", "weight: 4"), node="gw1").known
    read = parse(FILE, node="gw1", patches=[NEW], known=known)
    assert read.config.services["web"].servers["b"].weight == 3
