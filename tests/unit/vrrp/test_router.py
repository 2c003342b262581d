"""The state machine, clause by clause, and what goes beyond the RFC."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from lbctl.messages import Role
from lbctl.model import Address, ChecksumForm, Mac, Preempt, Router
from lbctl.vrrp.effects import Change, Effect, Notice, Send, Tell
from lbctl.vrrp.packet import Advert
from lbctl.vrrp.receive import Count, Heard
from lbctl.vrrp.router import VirtualRouter
from tests.unit.vrrp.clauses import covers

LOW, OWN, HIGH = (ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
VIP = ip_address("192.0.2.10")
SETTINGS = Router("web", "front", 7, (VIP,), priority=128)
OWNER = replace(SETTINGS, priority=255)
DOWN = 3.5  # of priority 128 at 1 s


def router(settings: Router = SETTINGS) -> VirtualRouter:
    one = VirtualRouter(settings, OWN)
    one.start(0.0)
    return one


def active(settings: Router = SETTINGS) -> VirtualRouter:
    """Active since 0.0."""
    one = VirtualRouter(settings, OWN)
    one.start(-100.0)
    one.promote("test", 0.0)
    return one


def heard(
    priority: int,
    source: Address = HIGH,
    interval: float = 1.0,
    form: ChecksumForm = ChecksumForm.PSEUDO,
) -> Heard:
    return Heard(Advert(7, priority, interval, (VIP,)), source, form)


def kinds(effects: list[Effect]) -> list[str]:
    """`send 100`, `take`, ...: what is asked, without what is told."""
    words = []
    for effect in effects:
        match effect:
            case Send(advert=advert):
                words.append(f"send {advert.priority}")
            case Change(role=role):
                words.append(f"{role}")
            case Tell():
                pass
            case _:
                words.append(type(effect).__name__.lower())
    return words


def told(effects: list[Effect]) -> list[Notice]:
    return [effect.notice for effect in effects if isinstance(effect, Tell)]


# --- Initialize -------------------------------------------------------------------------


@covers("9568 6.4.1-1", "9568 5.2.4-1")
def test_the_owner_is_active_at_once() -> None:
    one = VirtualRouter(OWNER, OWN)
    assert kinds(one.start(0.0)) == ["take", "send 255", "announce", "active"]
    assert one.deadline == 1.0


@covers("9568 6.4.1-2", "9568 6.4.2-1")
def test_the_others_start_as_backup_and_answer_nothing() -> None:
    one = VirtualRouter(SETTINGS, OWN)
    assert kinds(one.start(0.0)) == ["backup"]
    assert one.deadline == DOWN


def test_hold_keeps_a_router_out_after_its_start() -> None:
    one = router(replace(OWNER, hold=10.0))
    assert (one.role, one.deadline) == (Role.INITIALIZE, 10.0)
    assert kinds(one.receive(heard(1), 5.0)) == []
    assert kinds(one.tick(10.0)) == ["take", "send 255", "announce", "active"]


def test_without_an_address_of_its_own_it_is_at_fault() -> None:
    one = VirtualRouter(SETTINGS, None)
    one.locate(None, "front has no IPv4 address", 0.0)
    one.start(0.0)
    assert (one.role, one.reason) == (Role.FAULT, "front has no IPv4 address")
    assert one.deadline is None


# --- timers -----------------------------------------------------------------------------


@covers("9568 6.1-1", "9568 6.1-2")
@pytest.mark.parametrize(
    ("priority", "interval", "skew", "down"),
    [
        (1, 0.01, 0.0099609375, 0.0399609375),
        (100, 1.0, 0.609375, 3.609375),
        (254, 0.1, 0.00078125, 0.30078125),
    ],
)
def test_timers_of_version_3_are_not_truncated(
    priority: int, interval: float, skew: float, down: float
) -> None:
    one = router(replace(SETTINGS, priority=priority, interval=interval))
    assert one.skew == pytest.approx(skew, abs=1e-12)
    assert one.deadline == pytest.approx(down, abs=1e-12)


@covers("3768 6.1-1", "3768 6.1-2")
def test_the_skew_of_version_2_does_not_follow_the_interval() -> None:
    one = router(replace(SETTINGS, version=2, interval=10.0))
    assert (one.skew, one.deadline) == (0.5, 30.5)


# --- Backup -----------------------------------------------------------------------------


@covers("9568 6.4.2-2")
def test_backup_shutdown() -> None:
    one = router()
    assert kinds(one.stop("stopped", 1.0)) == ["initialize"]
    assert (one.deadline, one.done) == (None, True)


@covers("9568 6.4.2-3")
def test_backup_takes_over_from_silence_and_can_answer_before_it_says_so() -> None:
    one = router()
    assert kinds(one.tick(3.4)) == []
    assert kinds(one.tick(DOWN)) == ["take", "send 128", "announce", "active"]
    assert one.counts[Count.ACTIVE_TRANSITIONS] == 1
    assert one.reason == "no advert was heard for 3.5 s"


@covers("9568 6.4.2-4", "9568 5.2.4-2")
def test_a_resigning_active_is_replaced_after_skew_alone() -> None:
    one = router()
    one.receive(heard(200), 1.0)
    one.receive(heard(0), 2.0)
    assert one.deadline == 2.5
    assert one.counts[Count.RECEIVED_ZERO] == 1


def test_a_resignation_that_is_repeated_does_not_delay_the_successor() -> None:
    one = router()
    one.receive(heard(0), 1.0)
    one.receive(heard(0), 1.4)
    assert one.deadline == 1.5


@covers("9568 6.4.2-5")
@pytest.mark.parametrize(
    ("priority", "preempt"), [(128, Preempt.ALWAYS), (129, Preempt.ALWAYS), (1, Preempt.NEVER)]
)
def test_backup_adopts_the_interval_of_the_active(priority: int, preempt: Preempt) -> None:
    one = router(replace(SETTINGS, preempt=preempt))
    assert one.receive(heard(priority, interval=4.0), 1.0) == []
    assert one.deadline == 1.0 + 3 * 4.0 + 0.5 * 4.0


@covers("9568 6.4.2-6")
def test_backup_discards_a_lower_priority_and_so_preempts() -> None:
    one = router()
    one.receive(heard(127), 3.0)
    assert one.deadline == DOWN
    one.tick(DOWN)
    assert one.reason == f"preempted {HIGH}: priority 128 to 127"


@covers("9568 6.1-3")
def test_the_owner_preempts_whatever_preempt_says() -> None:
    one = router(replace(OWNER, preempt=Preempt.NEVER))
    one.receive(heard(255), 0.0)  # a second owner, with the greater address
    assert one.role is Role.BACKUP
    before = one.deadline
    one.receive(heard(254), 1.0)
    assert one.deadline == before


def test_preempt_delay_still_covers_a_crash() -> None:
    one = router(replace(SETTINGS, preempt_delay=60.0))
    for at in range(1, 60):
        one.receive(heard(50), float(at))
    assert one.deadline == 59.0 + DOWN
    one.receive(heard(50), 60.0)
    assert one.deadline == 59.0 + DOWN, "the delay is over: discarded"


def test_when_synced_waits_for_the_copy() -> None:
    one = router(replace(SETTINGS, preempt=Preempt.WHEN_SYNCED))
    one.receive(heard(50), 1.0)
    assert one.deadline == 1.0 + DOWN
    one.sync(True)
    one.receive(heard(50), 2.0)
    assert one.deadline == 1.0 + DOWN


def test_an_active_that_falls_has_no_copy_until_it_hears_of_one() -> None:
    one = active(replace(SETTINGS, preempt=Preempt.WHEN_SYNCED))
    one.sync(True)
    one.receive(heard(200), 0.5)
    one.receive(heard(50), 1.0)  # of somebody else
    assert (one.role, one.deadline) == (Role.BACKUP, 1.0 + DOWN)
    one.sync(True)
    one.receive(heard(50), 2.0)
    assert one.deadline == 1.0 + DOWN, "discarded"


# --- Active -----------------------------------------------------------------------------


@covers("9568 6.4.3-2")
def test_active_advertises_on_a_grid() -> None:
    one = active()
    assert kinds(one.tick(1.1)) == ["send 128"]
    assert one.deadline == 2.0, "a late advert does not shift those after it"


@covers("9568 6.4.3-3")
def test_active_answers_a_resignation() -> None:
    one = active()
    assert kinds(one.receive(heard(0), 0.7)) == ["send 128", "announce"]
    assert one.deadline == 1.7


@covers("9568 6.4.3-4", "9568 6.4.2-1")
def test_active_gives_way_to_a_higher_priority() -> None:
    one = active()
    assert kinds(one.receive(heard(129, LOW, interval=2.0), 0.5)) == ["drop", "backup"]
    assert one.deadline == 0.5 + 6.0 + 1.0


def test_with_its_own_mac_it_says_so_before_it_gives_way() -> None:
    """Who goes on may not have heard it yet, and hosts may have learnt its MAC."""
    one = active(replace(SETTINGS, mac=Mac.OWN))
    assert kinds(one.receive(heard(129, LOW), 0.5)) == ["send 128", "drop", "backup"]


@covers("9568 6.4.3-5")
@pytest.mark.parametrize(("source", "gives_way"), [(HIGH, True), (LOW, False)])
def test_the_greater_address_wins_a_tie(source: Address, gives_way: bool) -> None:
    one = active()
    one.receive(heard(128, source), 0.9)
    assert (one.role is Role.BACKUP) is gives_way


@covers("9568 6.4.3-6")
def test_active_asserts_itself_against_a_lower_priority() -> None:
    one = active()
    one.tick(1.0)
    effects = one.receive(heard(100), 1.6)
    assert kinds(effects) == ["send 128", "announce"]
    assert told(effects) == [Notice.TWO_ACTIVES]
    assert one.counts[Count.TWO_ACTIVES] == 1
    assert one.deadline == 2.6


def test_a_flood_of_lower_adverts_is_not_answered_one_by_one() -> None:
    one = active()
    sent = [e for n in range(1000) for e in kinds(one.receive(heard(1), 1.0 + n / 1000))]
    assert sent.count("send 128") == 2
    assert one.counts[Count.TWO_ACTIVES] == 1000


def test_two_actives_are_healed_by_announcing_once_more_after_the_last() -> None:
    one = active()
    for tick in (1.0, 2.0):
        one.tick(tick)
    one.receive(heard(100), 2.1)
    assert kinds(one.tick(3.1)) == ["send 128", "announce"]
    one.tick(4.1)
    assert told(one.tick(5.1)) == [Notice.HEALED]


def test_who_was_preempted_has_an_interval_to_hear_of_it() -> None:
    one = active()
    assert told(one.receive(heard(100), 0.01)) == []
    assert one.counts[Count.TWO_ACTIVES] == 0


def test_the_last_advert_of_who_was_preempted_is_answered_at_once() -> None:
    """It left before ours came, and the bridges learnt the virtual MAC from it."""
    assert kinds(active().receive(heard(100), 0.001)) == ["send 128", "announce"]


def test_the_last_resignation_of_who_handed_over_is_answered_at_once() -> None:
    assert kinds(active().receive(heard(0), 0.001)) == ["send 128", "announce"]


@covers("9568 7.1-8")
def test_an_owner_tells_of_another_active_and_stays() -> None:
    one = active(OWNER)
    assert told(one.receive(heard(254), 2.0)) == [Notice.TWO_ACTIVES]
    assert one.role is Role.ACTIVE


@covers("9568 8.1.2-2")
def test_announcements_come_again_after_five_seconds_and_then_at_the_refresh() -> None:
    one = active(replace(SETTINGS, interval=40.0, refresh=10.0))
    assert [at for at in range(1, 30) if "announce" in kinds(one.tick(float(at)))] == [5, 15, 25]


# --- leaving ----------------------------------------------------------------------------


@covers("9568 6.4.3-1")
def test_a_stopped_active_answers_until_its_successor_is_heard() -> None:
    one = active()
    assert kinds(one.stop("stopped", 0.2)) == ["send 0"]
    assert (one.role, one.done) == (Role.ACTIVE, False)
    assert kinds(one.receive(heard(50, LOW), 0.8)) == ["drop", "initialize"]
    assert one.done
    assert one.counts[Count.SENT_ZERO] == 1


def test_a_resignation_is_no_successor() -> None:
    one = active()
    one.stop("stopped", 0.2)
    assert kinds(one.receive(heard(0, LOW), 0.4)) == []
    assert one.role is Role.ACTIVE


def test_a_stopped_active_that_nobody_succeeds_goes_after_the_longest_wait() -> None:
    one = active()
    one.stop("stopped", 0.0)
    words = [word for at in (1.0, 2.0, 3.0, 4.0) for word in kinds(one.tick(at))]
    assert words == ["send 0", "send 0", "send 0", "drop", "initialize"]


def test_with_fast_adverts_a_slow_successor_is_still_waited_for() -> None:
    one = active(replace(SETTINGS, interval=0.01))
    one.stop("stopped", 0.0)
    assert one.leaving is not None
    assert one.leaving.by == 3.0


def test_a_second_stop_does_not_wait_for_a_successor() -> None:
    one = active()
    one.stop("stopped", 0.2)
    assert kinds(one.stop("stopped", 0.3, at_once=True)) == ["drop", "initialize"]
    assert one.done


def test_failover_leaves_it_to_the_peer_while_the_peer_lives() -> None:
    one = active()
    assert kinds(one.fail_over("ordered", 0.2)) == ["send 0"]
    assert kinds(one.receive(heard(50, LOW), 0.5)) == ["drop", "backup"]
    one.receive(heard(50, LOW), 3.9)
    assert one.deadline == 3.9 + DOWN, "the lower priority is obeyed"
    one.tick(3.9 + DOWN)
    assert (one.role, one.yielded) == (Role.ACTIVE, False)


def test_failover_without_a_successor_goes_on() -> None:
    one = active()
    one.fail_over("ordered", 0.0)
    for at in (1.0, 2.0, 3.0):
        one.tick(at)
    effects = one.tick(4.0)
    assert kinds(effects) == ["send 128"]
    assert (one.role, one.yielded) == (Role.ACTIVE, False)


def test_standby_takes_no_part_until_resumed() -> None:
    one = active()
    assert kinds(one.stand_by("maintenance", 0.2)) == ["send 0"]
    one.receive(heard(50, LOW), 0.5)
    assert (one.role, one.deadline) == (Role.INITIALIZE, None)
    one.resume(100.0)
    assert one.role is Role.BACKUP


def test_a_fault_that_is_mended_in_time_ends_the_leaving() -> None:
    one = active()
    one.hinder("script", "chk: exit 1", 0.2)
    assert one.leaving is not None
    assert kinds(one.hinder("script", None, 0.9)) == ["send 128"]
    assert (one.role, one.leaving) == (Role.ACTIVE, None)


def test_an_interface_that_is_gone_is_not_waited_for() -> None:
    one = active()
    assert kinds(one.locate(None, "front: link down", 0.5)) == ["drop", "fault"]
    assert kinds(one.locate(OWN, "", 9.0)) == ["backup"]


def test_a_mended_owner_is_active_again() -> None:
    one = active(OWNER)
    one.locate(None, "front: link down", 0.5)
    assert kinds(one.locate(OWN, "", 9.0)) == ["take", "send 255", "announce", "active"]


# --- lateness ---------------------------------------------------------------------------


def test_a_late_sender_steps_down() -> None:
    one = active()
    effects = one.tick(3.01)
    assert kinds(effects) == ["drop", "backup"]
    assert told(effects) == [Notice.LATE]
    assert one.counts[Count.LATE] == 1
    assert one.deadline == pytest.approx(3.01 + DOWN)


def test_a_sender_that_is_late_by_less_than_its_peers_wait_goes_on() -> None:
    assert kinds(active().tick(2.9)) == ["send 128"]


def test_what_could_not_be_sent_counts_as_late() -> None:
    one = active()
    for at in (1.0, 2.0, 3.0):
        one.tick(at)
        one.sent(None)
    assert kinds(one.tick(3.1)) == ["drop", "backup"]
    assert one.counts[Count.SEND_ERRORS] == 3


def test_a_slow_promotion_is_not_lateness() -> None:
    one = active()
    one.sent(4.0)  # taking the addresses took that long
    assert kinds(one.tick(4.0)) == ["send 128"]


# --- what a peer's adverts tell ---------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "sent"),
    [("auto", "rfc9568"), ("pseudo", "pseudo"), ("rfc9568", "rfc9568")],
)
def test_auto_sends_the_checksum_form_that_the_peer_sends(chosen: str, sent: str) -> None:
    one = router(replace(SETTINGS, checksum=ChecksumForm(chosen)))
    one.receive(heard(100, form=ChecksumForm.RFC9568), 0.1)
    (send,) = [effect for effect in one.tick(DOWN) if isinstance(effect, Send)]
    assert send.form == sent


def test_another_checksum_form_is_told_once() -> None:
    one = router(replace(SETTINGS, checksum=ChecksumForm.RFC9568))
    assert told(one.receive(heard(200), 0.1)) == [Notice.CHECKSUM]
    assert told(one.receive(heard(200), 0.2)) == []


@covers("9568 7.1-7")
def test_other_addresses_are_told_once_and_counted_each_time() -> None:
    one = router()
    odd = replace(heard(200), listed=False)
    assert told(one.receive(odd, 0.1)) == [Notice.ADDRESSES]
    assert told(one.receive(odd, 0.2)) == []
    assert one.counts[Count.ADDRESS_ERRORS] == 2
    assert one.deadline == 0.2 + DOWN, "but obeyed"


# --- other settings ---------------------------------------------------------------------


def test_new_settings_keep_the_role() -> None:
    one = active()
    other = replace(SETTINGS, priority=90, addresses=(VIP, ip_address("192.0.2.11")))
    assert kinds(one.adjust(other, 0.4)) == ["take", "announce", "send 90"]
    assert one.role is Role.ACTIVE


def test_the_advert_carries_the_configuration_and_a_lease() -> None:
    (send,) = [e for e in active().tick(1.0) if isinstance(e, Send)]
    assert send == Send(Advert(7, 128, 1.0, (VIP,)), ChecksumForm.PSEUDO, 3.0)
