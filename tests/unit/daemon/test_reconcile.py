"""What passes do, told as stories on a virtual clock and a fake data path."""

import pytest

from lbctl import errors
from lbctl.daemon.reconcile import AT_ONCE, OBSERVE_EVERY
from lbctl.daemon.trial import refuse_if_emptied
from lbctl.dataplane.fake import FakePlane, FakeVips
from lbctl.dataplane.port import RemoveServer
from lbctl.desired import desired
from lbctl.health.judge import Health
from lbctl.model import Endpoint, LastResort, Listen, ServerName, VipOwner
from lbctl.world import Admin, Order, World

from .stand import Stand, config, service, stand

WEB = Listen.parse("192.0.2.10:80/tcp")


def test_the_first_pass_makes_the_vip_then_the_service_then_its_servers() -> None:
    a = stand(web=service(1, 2))
    assert a.turn() == [
        "192.0.2.10: add VIP",
        "192.0.2.10:80/tcp: add service (rr)",
        "192.0.2.10:80/tcp: add 198.51.100.1:8080 weight 1",
        "192.0.2.10:80/tcp: add 198.51.100.2:8080 weight 1",
    ]
    assert a.turn() == []
    assert a.plane.observe() == desired(a.world, a.now)


def test_a_new_process_adopts_what_is_there_and_does_nothing() -> None:
    first = stand(web=service(1, 2))
    first.turn()
    writes = len(first.plane.log)
    second = Stand(World(first.world.config), first.plane, first.vips)
    assert second.turn() == []
    assert len(first.plane.log) == writes
    assert second.told == []


def test_a_service_that_goes_takes_its_vip_along_last() -> None:
    a = stand(web=service(1), dns=service(2, listens="192.0.2.10:53/udp 192.0.2.11:53/udp"))
    a.turn()
    assert a.take(config(web=service(1))) == [
        "192.0.2.10:53/udp: remove service",
        "192.0.2.11:53/udp: remove service",
        "192.0.2.11: remove VIP",
    ]
    assert "dns" not in a.reconciler.decisions


def test_an_external_vip_is_not_ours_to_make() -> None:
    a = stand(web=service(1, vip=VipOwner.EXTERNAL))
    assert a.turn()[0] == "192.0.2.10:80/tcp: add service (rr)"
    assert a.vips.held() == set()


def test_a_listen_may_move_from_one_service_to_another() -> None:
    a = stand(web=service(1), new=service(2, listens="192.0.2.11:80/tcp"))
    a.turn()
    a.take(config(web=service(1, listens="192.0.2.12:80/tcp"), new=service(2)))
    assert a.plane.observe() == desired(a.world, a.now)
    assert a.turn() == []


def test_a_refusal_sticks_to_its_server_and_the_rest_is_applied() -> None:
    bad = Endpoint.parse("198.51.100.2:8080")
    a = Stand(
        World(config(web=service(1, 2, 3))),
        FakePlane(refuses=lambda op: getattr(op, "endpoint", None) == bad),
    )
    a.turn()
    assert list(a.plane.observe().services[WEB].destinations) == [
        Endpoint.parse("198.51.100.1:8080"),
        Endpoint.parse("198.51.100.3:8080"),
    ]
    [stuck] = a.reconciler.stuck.values()
    assert "198.51.100.2:8080" in stuck.error
    assert a.told == [f"refused: {stuck.error}"]


def test_what_was_refused_is_tried_again_with_growing_delay_and_told_once() -> None:
    a = Stand(
        World(config(web=service(1, 2))),
        FakePlane(refuses=lambda op: "198.51.100.2" in str(op)),
    )
    a.turn()
    tries = []
    for _ in range(5):
        before = a.now
        a.at(min(one.retry for one in a.reconciler.stuck.values()))
        tries.append(a.now - before)
    assert tries == [1, 2, 4, 8, 16]
    assert len(a.told) == 1
    a.plane.refuses = lambda op: False
    a.at(a.now + 60)
    assert not a.reconciler.stuck
    assert a.told[-1] == "192.0.2.10:80/tcp: add 198.51.100.2:8080 weight 1: done at try 7"


def test_news_from_the_kernel_bring_the_next_try_forward() -> None:
    a = Stand(
        World(config(web=service(1))), FakePlane(refuses=lambda op: "198.51.100.1" in str(op))
    )
    a.turn()
    a.plane.refuses = lambda op: False
    assert a.turn() == []
    a.reconciler.retry_now(a.now)
    assert a.turn() == ["192.0.2.10:80/tcp: add 198.51.100.1:8080 weight 1"]


def test_a_refused_listen_is_one_refusal_and_its_servers_wait_for_it() -> None:
    a = Stand(
        World(config(web=service(1, 2))), FakePlane(refuses=lambda op: "add service" in str(op))
    )
    a.turn()
    assert len([text for text in a.told if text.startswith("refused: ")]) == 1
    assert len(a.reconciler.stuck) == 1
    assert a.turn() == []
    a.plane.refuses = lambda op: False
    assert len(a.at(1.0)) == 3


def test_a_service_whose_servers_are_all_refused_does_not_serve() -> None:
    a = Stand(
        World(config(web=service(1, 2))), FakePlane(refuses=lambda op: "198.51.100.2" in str(op))
    )
    a.turn()
    assert a.reconciler.states["web"] == ("serving", "")
    a.see("web/app1", Health.DOWN, "no")
    assert a.reconciler.states["web"] == (
        "down",
        "no server takes new flows: app1 down: no; app2 is refused by the data path",
    )
    a.plane.refuses = lambda op: False
    a.at(1.0)
    assert a.reconciler.states["web"] == ("serving", "")


@pytest.mark.parametrize("refused", ["add service", "add 198.51.100"])
def test_a_refused_listen_serves_as_little_as_refused_servers(refused: str) -> None:
    a = Stand(World(config(web=service(1, 2))), FakePlane(refuses=lambda op: refused in str(op)))
    a.turn()
    assert a.reconciler.states["web"][0] == "down"
    assert "app1 is refused by the data path" in a.reconciler.states["web"][1]
    assert a.reconciler.deadline > a.now, "nothing is due before the next try"


def test_one_listen_of_two_that_takes_a_server_is_enough() -> None:
    both = service(1, listens="192.0.2.10:80/tcp 192.0.2.10:443/tcp")
    a = Stand(World(config(web=both)), FakePlane(refuses=lambda op: ":443/tcp: add 198" in str(op)))
    a.turn()
    assert a.reconciler.states["web"] == ("serving", "")


def test_the_last_server_that_the_data_path_takes_is_guarded() -> None:
    a = Stand(
        World(config(web=service(1, 2))), FakePlane(refuses=lambda op: "198.51.100.2" in str(op))
    )
    a.turn()
    trial = a.world.copy()
    trial.orders[ServerName("web", "app1")] = Order(Admin.DRAIN, a.now, a.now + 300)
    with pytest.raises(errors.Refused):
        refuse_if_emptied(a.world, trial, {"web"}, a.now)


def test_what_nobody_wants_any_more_is_not_stuck() -> None:
    a = Stand(
        World(config(web=service(1, 2))), FakePlane(refuses=lambda op: "198.51.100.2" in str(op))
    )
    a.turn()
    a.see("web/app2", Health.DOWN)
    assert not a.reconciler.stuck
    assert a.reconciler.deadline == OBSERVE_EVERY


def test_another_operation_on_a_stuck_server_does_not_wait() -> None:
    a = stand(web=service(1, 2))
    a.turn()
    a.plane.refuses = lambda op: "198.51.100.2" in str(op)
    a.take(config(web=service(1, 2, weight=5)))
    assert len(a.reconciler.stuck) == 1
    a.plane.refuses = lambda op: False
    assert a.take(config(web=service(1, 2, weight=7))) == [
        "192.0.2.10:80/tcp: set 198.51.100.1:8080 weight 7",
        "192.0.2.10:80/tcp: set 198.51.100.2:8080 weight 7",
    ]


def test_a_vip_of_somebody_else_is_refused_and_the_service_served_all_the_same() -> None:
    a = Stand(World(config(web=service(1))), vips=FakeVips([WEB.address]))
    a.turn()
    assert a.told == ["refused: 192.0.2.10: cannot add the VIP: File exists"]
    assert WEB in a.plane.observe().services


def test_drift_is_found_within_a_minute_mended_and_told() -> None:
    a = stand(web=service(1, 2))
    a.turn()
    a.plane.apply([RemoveServer(WEB, Endpoint.parse("198.51.100.1:8080"))])
    assert a.at(OBSERVE_EVERY - 1) == []
    assert a.at(OBSERVE_EVERY) == ["192.0.2.10:80/tcp: add 198.51.100.1:8080 weight 1"]
    assert a.told == [
        "data path: held something else; mending: 192.0.2.10:80/tcp: add 198.51.100.1:8080 weight 1"
    ]


def test_a_quiet_minute_says_nothing() -> None:
    a = stand(web=service(1))
    a.turn()
    assert a.at(OBSERVE_EVERY) == []
    assert a.at(2 * OBSERVE_EVERY) == []
    assert a.told == []


def test_after_an_error_the_kernel_is_asked_what_it_holds() -> None:
    a = stand(web=service(1, 2))
    a.turn()
    a.plane.apply([RemoveServer(WEB, Endpoint.parse("198.51.100.1:8080"))])
    a.reconciler.doubt()
    assert a.reconciler.deadline == AT_ONCE
    assert a.turn() == ["192.0.2.10:80/tcp: add 198.51.100.1:8080 weight 1"]


def test_only_the_marked_service_is_looked_at() -> None:
    a = stand(web=service(1, 2), dns=service(3, listens="192.0.2.11:53/udp"))
    a.turn()
    a.plane.apply(
        [RemoveServer(Listen.parse("192.0.2.11:53/udp"), Endpoint.parse("198.51.100.3:8080"))]
    )
    assert a.see("web/app1", Health.DOWN) == ["192.0.2.10:80/tcp: remove 198.51.100.1:8080"]


def test_a_service_tells_when_it_goes_down_and_comes_back() -> None:
    a = stand(web=service(1))
    a.turn()
    a.see("web/app1", Health.DOWN, "3 of 3 probes: connection refused")
    a.see("web/app1", Health.UP)
    down, up = a.told
    assert down.startswith("web: down (no server takes new flows: app1 down: 3 of 3 probes")
    assert up == "web: serving"


def test_a_service_tells_when_it_is_at_its_last_resort() -> None:
    a = stand(web=service(1, last_resort=LastResort.ALL))
    a.turn()
    a.see("web/app1", Health.DOWN, "timed out")
    assert a.told == ["web: last resort (last resort (all): nothing else is left; down: timed out)"]
    assert a.reconciler.states["web"][0] == "last resort"


def test_the_last_ten_transitions_of_a_server_are_kept_with_their_evidence() -> None:
    a = stand(web=service(1, 2))
    a.turn()
    for number in range(8):
        a.at(float(number))
        a.see("web/app1", Health.DOWN, f"evidence {number}")
        a.see("web/app1", Health.UP)
    past = list(a.reconciler.transitions[ServerName("web", "app1")])
    assert len(past) == 10
    assert [(one.weight, one.at) for one in past[-2:]] == [(None, 7.0), (1, 7.0)]
    assert past[-2].because == "down: evidence 7"


def test_a_drain_is_given_up_at_its_deadline_and_not_before() -> None:
    a = stand(web=service(1, 2))
    a.turn()
    assert a.order("web/app1", Admin.DRAIN, deadline=30) == [
        "192.0.2.10:80/tcp: set 198.51.100.1:8080 weight 0"
    ]
    assert a.at(29.0) == []
    assert a.at(30.0) == ["192.0.2.10:80/tcp: remove 198.51.100.1:8080"]
    assert a.told == ["web/app1: given up (drain: drain timeout passed)"]


def test_a_removed_server_finishes_and_then_goes() -> None:
    a = stand(web=service(1, 2))
    a.turn()
    assert a.take(config(web=service(1))) == ["192.0.2.10:80/tcp: set 198.51.100.2:8080 weight 0"]
    assert a.at(300.0) == ["192.0.2.10:80/tcp: remove 198.51.100.2:8080"]
    assert ServerName("web", "app2") not in a.reconciler.transitions
