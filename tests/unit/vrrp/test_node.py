"""Sync groups, trackers, orders and reloads of several virtual routers."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lbctl.messages import Role
from lbctl.model import ChecksumForm, Family, Router, Tracker, TrackerKind
from lbctl.vrrp import packet
from lbctl.vrrp.effects import Send, Take
from lbctl.vrrp.explain import explain
from lbctl.vrrp.node import Effects, Fact, Node, Place, effective_priority
from lbctl.vrrp.packet import GROUP4, Advert
from lbctl.vrrp.receive import Count, Dropped, Packet
from tests.unit.vrrp.clauses import covers

OWN, PEER = ip_address("192.0.2.1"), ip_address("192.0.2.2")
FRONT = Router("front", "front", 7, (ip_address("192.0.2.10"),), priority=128)
BACK = Router("back", "back", 8, (ip_address("198.51.100.10"),), priority=128)
PAIR = {"front": replace(FRONT, group="g"), "back": replace(BACK, group="g")}
SCRIPT = Tracker(TrackerKind.SCRIPT, "/bin/check", weight=-50)
UPLINK = Tracker(TrackerKind.INTERFACE, "uplink")
QUORUM = Tracker(TrackerKind.QUORUM, "web", weight=20)


def node(routers: dict[str, Router]) -> Node:
    one = Node()
    for interface in ("front", "back"):
        one.locate(interface, Family.IPV4, Place(OWN), 0.0)
    one.configure(routers, 0.0)
    return one


def advert(router: Router, priority: int) -> Packet:
    data = Advert(router.vrid, priority, 1.0, router.addresses)
    return Packet(PEER, GROUP4, 255, packet.encode(data, PEER, GROUP4, ChecksumForm.PSEUDO))


def roles(one: Node) -> dict[str, str]:
    return {name: str(router.role) for name, router in one.routers.items()}


def names(effects: Effects, kind: type) -> set[str]:
    return {name for name, effect in effects if isinstance(effect, kind)}


def hear(one: Node, priority: int, at: float, *which: str) -> None:
    for name in which:
        one.receive(name, advert(one.routers[name].settings, priority), at)


# --- sync groups ------------------------------------------------------------------------


def test_a_group_takes_over_when_every_member_is_unanswered() -> None:
    one = node(PAIR)
    hear(one, 200, 1.0, "back")
    one.tick(3.5)
    assert roles(one) == {"front": "backup", "back": "backup"}
    assert "waits for the other members" in " ".join(explain(one, "front", 4.0))
    taken = one.tick(4.5)
    assert names(taken, Take) == {"front", "back"}
    assert roles(one) == {"front": "active", "back": "active"}


def test_a_group_waits_for_the_member_whose_timer_still_runs() -> None:
    one = node(PAIR)
    hear(one, 200, 1.0, "back")
    hear(one, 0, 3.4, "back")  # its Active resigns; the other's was silent all along
    one.tick(3.5)
    assert roles(one) == {"front": "backup", "back": "backup"}
    one.tick(3.9)
    assert roles(one) == {"front": "active", "back": "active"}


@covers("9568 6.4.2-7")
def test_a_member_whose_group_waits_does_not_rise() -> None:
    one = node(PAIR)
    hear(one, 200, 1.0, "back")
    assert one.rising(3.5) == []
    one.tick(3.5)
    assert one.rising(4.0) == []
    assert set(one.rising(4.5)) == {"front", "back"}


def test_one_lost_segment_does_not_tear_the_group() -> None:
    one = node(PAIR)
    for at in range(1, 30):
        hear(one, 200, float(at), "back")
        one.tick(float(at))
    assert roles(one) == {"front": "backup", "back": "backup"}


def test_a_fault_of_one_is_a_fault_of_all() -> None:
    one = node(PAIR)
    one.tick(3.5)
    gone = one.locate("front", Family.IPV4, Place(None, "front: link down"), 4.0)
    assert roles(one) == {"front": "fault", "back": "active"}
    sends = [e.advert.priority for n, e in gone if n == "back" and isinstance(e, Send)]
    assert sends == [0], "the other hands over"
    hear(one, 100, 4.5, "back")
    assert roles(one) == {"front": "fault", "back": "fault"}
    assert one.routers["back"].reason == "sync group g: front: front: link down"
    one.locate("front", Family.IPV4, Place(OWN), 5.0)
    assert roles(one) == {"front": "backup", "back": "backup"}


def test_a_member_that_gives_way_takes_the_others_along() -> None:
    one = node(PAIR)
    one.tick(3.5)
    hear(one, 200, 4.0, "front")
    assert roles(one)["front"] == "backup"
    assert one.routers["back"].leaving is not None
    hear(one, 200, 4.1, "back")
    assert roles(one) == {"front": "backup", "back": "backup"}


def test_an_order_to_one_is_an_order_to_its_group() -> None:
    one = node(PAIR)
    one.tick(3.5)
    one.stand_by("front", "maintenance", 4.0)
    hear(one, 100, 4.5, "front", "back")
    assert roles(one) == {"front": "initialize", "back": "initialize"}


# --- trackers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "priority"),
    [
        ({}, 148),
        ({SCRIPT: True, QUORUM: True}, 148),
        ({SCRIPT: False, QUORUM: True}, 98),
        ({SCRIPT: False, QUORUM: False}, 78),
    ],
)
def test_weights_take_from_and_give_to_the_priority(facts, priority: int) -> None:
    settings = replace(FRONT, trackers=(SCRIPT, QUORUM))
    known = {t.key: Fact(holds) for t, holds in facts.items()}
    assert effective_priority(settings, known) == priority


@pytest.mark.parametrize(("weight", "priority"), [(-250, 1), (250, 254)])
def test_weights_stay_between_1_and_254(weight: int, priority: int) -> None:
    tracker = replace(SCRIPT, weight=weight)
    known = {tracker.key: Fact(weight > 0)}
    assert effective_priority(replace(FRONT, trackers=(tracker,)), known) == priority


def test_a_tracker_without_weight_is_a_fault_while_it_fails() -> None:
    one = node({"front": replace(FRONT, trackers=(UPLINK,))})
    one.learn(UPLINK.key, Fact(False, "link down"), 1.0)
    assert one.routers["front"].reason == "interface uplink: link down"
    assert roles(one) == {"front": "fault"}
    one.learn(UPLINK.key, Fact(True), 2.0)
    assert roles(one) == {"front": "backup"}


def test_the_priority_is_explained() -> None:
    one = node({"front": replace(FRONT, trackers=(SCRIPT,))})
    one.learn(SCRIPT.key, Fact(False, "exit 1"), 1.0)
    text = explain(one, "front", 1.0)
    assert "priority 78: configured 128, -50 as script /bin/check fails" in text
    assert "script /bin/check: fails (exit 1)" in text


def test_a_preemption_that_does_not_happen_is_explained() -> None:
    one = node({"front": replace(FRONT, preempt_delay=30.0)})
    hear(one, 100, 1.0, "front")
    text = " / ".join(explain(one, "front", 2.0))
    assert "192.0.2.2 has priority 100, ours is 128" in text
    assert "does not preempt 192.0.2.2: preempt_delay ends in 28 s" in text


# --- reloads ----------------------------------------------------------------------------


def test_a_reload_keeps_the_role() -> None:
    one = node({"front": FRONT})
    one.tick(3.5)
    one.configure({"front": replace(FRONT, priority=99)}, 4.0)
    router = one.routers["front"]
    assert (router.role, router.priority) == (Role.ACTIVE, 99)


def test_another_router_under_an_old_name_waits_for_the_old_one_to_leave() -> None:
    one = node({"front": FRONT})
    one.tick(3.5)
    one.configure({"front": replace(FRONT, vrid=9)}, 4.0)
    assert one.routers["front"].settings.vrid == 7
    hear(one, 100, 4.5, "front")
    assert one.routers["front"].settings.vrid == 9
    assert roles(one) == {"front": "backup"}


def test_what_keeps_a_router_out_keeps_out_the_one_that_waited_for_it() -> None:
    one = Node(real_time=False)
    one.locate("front", Family.IPV4, Place(OWN), 0.0)
    one.configure({"front": FRONT}, 0.0)
    one.tick(3.5)
    seen = one.changes
    one.configure({"front": replace(FRONT, vrid=9, interval=0.01)}, 4.0)
    hear(one, 100, 4.5, "front")
    assert one.routers["front"].settings.vrid == 9
    assert roles(one) == {"front": "fault"}
    assert "need SCHED_FIFO" in one.routers["front"].reason
    assert one.changes > seen + 1, "once configured, once when it began"


def test_one_that_is_to_stand_by_does_so_from_its_first_moment() -> None:
    one = node({"front": FRONT})
    one.stand_by("front", "disk", 1.0)
    one.configure({"front": replace(FRONT, vrid=9, priority=255)}, 4.0)
    one.tick(60.0)
    assert (one.routers["front"].settings.vrid, roles(one)) == (9, {"front": "initialize"})
    assert one.routers["front"].reason == "disk"
    one.resume("front", 61.0)
    assert (roles(one), one.standing_by) == ({"front": "active"}, {})


def test_one_that_leaves_and_is_wanted_again_comes_back() -> None:
    one = node({"front": FRONT})
    one.tick(3.5)
    one.configure({}, 4.0)
    one.configure({"front": FRONT}, 4.2)
    hear(one, 100, 4.5, "front")
    assert roles(one) == {"front": "backup"}


def test_a_router_that_is_not_named_any_more_leaves_gracefully() -> None:
    one = node({"front": FRONT, "back": BACK})
    one.tick(3.5)
    one.configure({"back": BACK}, 4.0)
    assert one.routers["front"].leaving is not None
    hear(one, 100, 4.5, "front")
    assert roles(one) == {"back": "active"}


def test_stop_is_done_when_every_router_is() -> None:
    one = node({"front": FRONT, "back": BACK})
    one.tick(3.5)
    one.stop("stopped", 4.0)
    hear(one, 100, 4.5, "front")
    assert not one.done
    hear(one, 100, 4.6, "back")
    assert one.done


def test_a_dropped_packet_is_counted_on_its_router() -> None:
    one = node({"front": FRONT})
    with pytest.raises(Dropped):
        one.receive("front", replace(advert(FRONT, 1), ttl=1), 1.0)
    counts = one.routers["front"].counts
    assert (counts[Count.TTL_ERRORS], counts[Count.RECEIVED]) == (1, 1)


def test_adverts_leave_while_others_are_still_being_worked_on() -> None:
    one = node({"front": FRONT, "back": BACK})
    one.tick(4.0)
    assert names(one.advertise(5.0, {"back"}), Send) == {"front"}
    assert names(one.advertise(5.0, ()), Send) == {"back"}
    assert one.advertise(5.0, ()) == []


def test_while_others_are_worked_on_no_backup_s_time_runs_out() -> None:
    one = node({"front": FRONT})
    assert one.advertise(60.0, ()) == []
    assert roles(one) == {"front": "backup"}
