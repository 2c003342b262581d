"""Bad adverts by the ten thousand, and peers that misbehave: counted, told seldom, and never
a takeover, a crash or a late advert."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from itertools import cycle

import pytest

from lbctl.lab import eventually
from lbctl.model import ChecksumForm
from lbctl.vrrp import frames, packet
from lbctl.vrrp.packet import GROUP4, Advert
from tests.lab.vrrp.ear import FORGER
from tests.lab.vrrp.flood import RATE, flood
from tests.lab.vrrp.speakers import Spec
from tests.lab.vrrp.stand import Stand

pytestmark = pytest.mark.lab
VIP = "192.0.2.10"
INTERVAL = 0.1
ENOUGH = 0.25 * RATE  # on a machine with much other work; alone it is 20,000
HIGH = Spec(VIP, priority=200, interval=INTERVAL)
LOW = replace(HIGH, priority=100)
ACTIVE = "192.0.2.2"


def forged(
    source: str = "192.0.2.66", ttl: int = 255, vrid: int = 7, priority: int = 255, **more: float
) -> bytes:
    """An advert from the client's port that looks like a gateway's."""
    own = ip_address(source)
    advert = Advert(vrid, priority, more.get("interval", INTERVAL), (ip_address(VIP),))
    payload = packet.encode(advert, own, GROUP4, ChecksumForm.PSEUDO)
    return with_ttl(frames.advert(payload, FORGER, own), ttl)


def with_ttl(frame: bytes, ttl: int) -> bytes:
    head = bytearray(frame[14:34])
    head[8], head[10:12] = ttl, b"\0\0"
    head[10:12] = packet.checksum(bytes(head)).to_bytes(2, "big")
    return frame[:14] + bytes(head) + frame[34:]


def zero_interval() -> bytes:
    frame = bytearray(forged())
    body = bytearray(frame[34:])
    body[4:8] = bytes(4)
    pseudo = packet.pseudo_header(ip_address("192.0.2.66"), GROUP4, len(body))
    body[6:8] = packet.checksum(pseudo + bytes(body)).to_bytes(2, "big")
    return bytes(frame[:34] + body)


def noise() -> Iterator[bytes]:
    """Valid frames with bytes flipped behind the IP header, and right lengths."""
    dice = random.Random(1)
    while True:
        frame = bytearray(forged(priority=dice.randrange(256)))
        for _ in range(dice.randrange(1, 6)):
            frame[dice.randrange(34, len(frame))] = dice.randrange(256)
        # One that is right by chance would be an advert like any other.
        if packet.checksum_form(bytes(frame[34:]), ip_address("192.0.2.66"), GROUP4) is None:
            yield bytes(frame)


@pytest.mark.parametrize(
    ("make", "counter"),
    [
        (lambda: forged(ttl=254), "ip_ttl_errors"),
        (lambda: forged(vrid=8), "vrid_errors"),
        (zero_interval, "advertisement_interval_errors"),
    ],
    ids=["ttl-254", "other-vrid", "interval-0"],
)
def test_a_flood_of_bad_adverts_is_counted_and_delays_nothing(
    stand: Stand, make: Callable[[], bytes], counter: str
) -> None:
    stand.start(HIGH, LOW)
    since, before = time.monotonic(), stand.standing(stand.one).counts.get(counter, 0)
    rate = flood(stand.lab, cycle([make()]), 2.0, stand.ear.listen)
    counted = stand.standing(stand.one).counts[counter] - before
    print(f"{counter}: {rate:.0f} a second sent, {counted} counted")
    assert rate > ENOUGH
    assert counted > 0.9 * 2 * rate
    assert max(stand.gaps(ACTIVE, since)) < 1.5 * INTERVAL
    assert stand.standing(stand.one).role == "active"
    assert stand.standing(stand.two).role == "backup"
    # Told seldom: the flood is one line, or two.
    assert stand.one.log().count("packet dropped") <= 3


def test_our_own_address_as_a_source_changes_nothing(stand: Stand) -> None:
    """The kernel of the active gateway drops these as martian, before anybody sees them."""
    stand.start(HIGH, LOW)
    since = time.monotonic()
    flood(stand.lab, cycle([forged(source=ACTIVE, priority=1)]), 1.0, stand.ear.listen)
    assert max(stand.gaps(ACTIVE, since)) < 1.5 * INTERVAL
    assert stand.standing(stand.one).role == "active"


def test_noise_is_survived(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    since = time.monotonic()
    flood(stand.lab, noise(), 2.0, stand.ear.listen)
    assert max(stand.gaps(ACTIVE, since)) < 1.5 * INTERVAL
    assert stand.standing(stand.one).role == "active"
    assert stand.standing(stand.two).role == "backup"


def test_a_flood_of_lower_adverts_is_not_answered_by_a_flood(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    since = time.monotonic()
    flood(stand.lab, cycle([forged(priority=1)]), 2.0, stand.ear.listen)
    sent = len(stand.gaps(ACTIVE, since))
    assert max(stand.gaps(ACTIVE, since)) < 1.5 * INTERVAL
    assert sent < 2.5 * 2.0 / INTERVAL
    assert stand.standing(stand.one).role == "active"


def test_only_the_peers_that_are_configured_are_heard(stand: Stand) -> None:
    stand.start(
        replace(HIGH, peer="192.0.2.3", source=ACTIVE),
        replace(LOW, peer=ACTIVE, source="192.0.2.3"),
    )
    before = stand.standing(stand.one).counts
    rate = flood(stand.lab, cycle([forged(priority=255)]), 0.5, stand.ear.listen)
    after = stand.standing(stand.one)
    assert after.role == "active"
    assert after.counts["unknown_peer"] - before["unknown_peer"] > 0.9 * 0.5 * rate
    assert after.counts["vrid_errors"] == before["vrid_errors"]


def test_a_peer_that_restarts_in_a_loop_takes_nothing(stand: Stand) -> None:
    stand.start(replace(HIGH, preempt=False), LOW)
    since = time.monotonic()
    for _ in range(5):
        stand.crash(stand.two)
        stand.two.start(LOW)
        stand.expect(stand.two, "backup")
    stand.listen(0.2)
    assert {s.source for s in stand.ear.listen() if s.at > since} == {ACTIVE}


def test_a_stopped_process_steps_down_when_it_goes_on(stand: Stand) -> None:
    """SIGSTOP, as a machine that stalls: it must not go on as if nothing had been."""
    stand.start(HIGH, LOW)
    gateway = stand.lab.gateways[0]
    stand.one.processes[0].kill(signal.SIGSTOP)
    stand.expect(stand.two, "active")
    since = time.monotonic()
    stand.one.processes[0].kill(signal.SIGCONT)
    eventually(lambda: "backup (our advert is" in stand.one.log())
    stand.expect(stand.one, "active")  # it preempts, by the rules
    stand.expect(stand.two, "backup")
    first = next(s for s in stand.ear.listen() if s.source == ACTIVE and s.at > since)
    assert first.at - since > 2 * INTERVAL, "it heard first who was active"
    assert stand.holds(gateway, VIP)


def test_a_backup_that_stalled_hears_first_what_it_missed(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    since = time.monotonic()
    stand.two.processes[0].kill(signal.SIGSTOP)
    stand.listen(1.0)
    stand.two.processes[0].kill(signal.SIGCONT)
    stand.listen(1.0)
    assert {s.source for s in stand.ear.listen() if s.at > since} == {ACTIVE}
