"""What virtual routers may say, and how they travel in a message."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from lbctl.errors import InvalidConfig
from lbctl.messages import Routers, RouterSettings, decode, encode
from lbctl.model import Mac, Notify, Preempt, Router, Tracker, TrackerKind
from lbctl.vrrp.run import validated
from lbctl.vrrp.settings import clashes, faults, from_message, to_message, virtual_mac
from tests.unit.vrrp.clauses import covers

VIP = ip_address("192.0.2.10")
LOCAL, VIP6 = ip_address("fe80::10"), ip_address("2001:db8::10")
ROUTER = Router("web", "front", 7, (VIP,))
SETTINGS = RouterSettings("web", "front", 7, 100, ("192.0.2.10",))


@covers("9568 5.2.4-1", "9568 5.2.7")
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"vrid": 0}, "vrid 0: 1 to 255"),
        ({"vrid": 256}, "vrid 256: 1 to 255"),
        ({"priority": 0}, "priority 0: 1 to 254, or 255 for the owner"),
        ({"addresses": ()}, "addresses: at least one, at most 255"),
        ({"interval": 0.005}, "interval 0.005 s: 0.01 to 40.95 in steps of 0.01"),
        ({"interval": 0.015}, "interval 0.015 s: 0.01 to 40.95 in steps of 0.01"),
        ({"interval": 41.0}, "interval 41 s: 0.01 to 40.95 in steps of 0.01"),
        ({"interval": 0.5, "version": 2}, "interval 0.5 s: whole seconds, 1 to 255, in version 2"),
        ({"version": 4}, "version 4: 2 or 3"),
        ({"hold": -1.0}, "preempt_delay, hold and refresh are not negative"),
        ({"notify": Notify("/bin/hook 'x")}, 'notify "/bin/hook \'x": No closing quotation'),
        ({"notify": Notify(" ")}, "notify ' ': no command"),
        (
            {"trackers": (Tracker(TrackerKind.SCRIPT, "check 'x"),)},
            'script "check \'x": No closing quotation',
        ),
        (
            {"trackers": (Tracker(TrackerKind.ROUTE, "192.0.2.1/24"),)},
            "route 192.0.2.1/24: 192.0.2.1/24 has host bits set",
        ),
        (
            {"addresses": (LOCAL, VIP6), "peers": (ip_address("2001:db8::3"),)},
            "peer 2001:db8::3: write the peer's link-local address (fe80::...): "
            "IPv6 adverts leave from it",
        ),
        (
            {"priority": 255, "trackers": (Tracker(TrackerKind.SCRIPT, "x", -1),)},
            "the owner's priority is always 255: its trackers have no weight",
        ),
    ],
)
def test_what_cannot_be_is_named(change: dict[str, object], fault: str) -> None:
    assert faults(replace(ROUTER, **change)) == [fault]


def test_what_can_be_has_no_fault() -> None:
    assert faults(ROUTER) == []


@covers("9568 5.2.9-2")
def test_one_virtual_router_has_one_family() -> None:
    mixed = replace(ROUTER, addresses=(VIP, ip_address("2001:db8::1")))
    assert "all IPv4 or all IPv6" in faults(mixed)[0]


@covers("9568 5.2.9-1")
@pytest.mark.parametrize(
    ("given", "used"),
    [
        (("2001:db8::10",), ("fe80::200:5eff:fe00:207", "2001:db8::10")),
        (("2001:db8::10", "fe80::1"), ("fe80::1", "2001:db8::10")),
    ],
)
def test_ipv6_advertises_a_link_local_address_first(given, used) -> None:
    router = from_message(RouterSettings("six", "front", 7, 100, given))
    assert tuple(map(str, router.addresses)) == used


@covers("9568 7.3")
def test_the_virtual_mac() -> None:
    assert virtual_mac(ROUTER).hex("-") == "00-00-5e-00-01-07"
    six = replace(ROUTER, addresses=(ip_address("fe80::1"),))
    assert virtual_mac(six).hex("-") == "00-00-5e-00-02-07"


@pytest.mark.parametrize(
    "change",
    [{"mac": "mine"}, {"addresses": ("192.0.2",)}, {"preempt": "maybe"}, {"peers": ("x",)}],
)
def test_a_message_that_makes_no_sense_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig, match=r"^web: "):
        from_message(structs.replace(SETTINGS, **change))


def test_routers_that_clash_are_named() -> None:
    other = replace(ROUTER, name="mail", addresses=(ip_address("192.0.2.11"),))
    assert clashes([ROUTER, other]) == [("mail", "vrid 7 on front is web's already")]
    assert clashes([ROUTER, replace(ROUTER, name="mail", vrid=8)]) == [
        ("mail", "192.0.2.10 is web's already")
    ]
    assert clashes([ROUTER, replace(other, vrid=8)]) == []


words = st.text("abc-/ ", min_size=1, max_size=5).filter(str.strip)
trackers = st.builds(
    Tracker,
    kind=st.sampled_from([kind for kind in TrackerKind if kind is not TrackerKind.ROUTE]),
    subject=words,
    weight=st.none() | st.integers(-254, 254),
)
routers = st.builds(
    Router,
    name=st.text(max_size=5),
    interface=st.text(max_size=5),
    vrid=st.integers(1, 255),
    addresses=st.lists(st.ip_addresses(v=4), min_size=1, max_size=4).map(tuple),
    priority=st.integers(1, 254),
    interval=st.integers(1, 4095).map(lambda n: n / 100),
    mac=st.sampled_from(Mac),
    preempt=st.sampled_from(Preempt),
    peers=st.lists(st.ip_addresses(v=4), max_size=2).map(tuple),
    trackers=st.lists(trackers, max_size=3).map(tuple),
    notify=st.none() | st.builds(Notify, command=words, keepalived=st.booleans()),
)


@given(routers)
def test_a_router_survives_the_message(router: Router) -> None:
    message = decode(encode(Routers((to_message(router),))))
    assert isinstance(message, Routers)
    assert [from_message(one) for one in message.routers] == [router]


def test_more_addresses_than_the_fence_has_room_for_are_refused() -> None:
    many = tuple(
        RouterSettings(f"r{n}", "front", n, 100, tuple(f"198.18.{n}.{i}" for i in range(1, 255)))
        for n in range(1, 18)
    )
    with pytest.raises(InvalidConfig, match="r17: the fence has room for 4096 virtual addresses"):
        validated(Routers(many), fenced=True)
    assert len(validated(Routers(many))) == 17
