"""A gateway whose processes died or stand still falls silent by itself."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lbctl.errors import InvalidConfig
from lbctl.lab import eventually
from lbctl.messages import Routers, RouterSettings
from lbctl.vrrp import run
from tests.lab.signalling import signal_all
from tests.lab.vrrp.speakers import Lbctl, Spec
from tests.lab.vrrp.stand import Stand
from tests.lab.vrrp.tap import Tap

pytestmark = pytest.mark.lab
VIP = "192.0.2.10"
HIGH = Spec(VIP, priority=200, interval=0.1)
LOW = replace(HIGH, priority=100)
ONE, TWO = "192.0.2.2", "192.0.2.3"
UNICAST = replace(HIGH, source=ONE, peer=TWO), replace(LOW, source=TWO, peer=ONE)
DOWN = 0.3 + 0.1 * 156 / 256  # seconds: the successor's Active_Down_Interval

Blow = Callable[[Lbctl], None]


def kill_process(speaker: Lbctl) -> None:
    (process,) = speaker.processes
    process.kill(signal.SIGKILL)
    speaker.kill()


def kill_all(speaker: Lbctl) -> None:
    signal_all(speaker.kill())


def stop_all(speaker: Lbctl) -> None:
    signal_all(speaker.kill(), signal.SIGSTOP)


def cells() -> list[object]:
    """Half of them are for those who have the time."""
    found: list[object] = []
    for mac in ("virtual", "own"):
        for peers in ("multicast", "unicast"):
            usual = (mac == "virtual") == (peers == "multicast")
            marks = [] if usual else [pytest.mark.long]
            for blow in (kill_process, kill_all, stop_all):
                name = f"{mac}-{peers}-{blow.__name__}"
                found.append(pytest.param(mac, peers, blow, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("mac", "peers", "blow"), cells())
def test_it_sends_and_answers_nothing_once_its_successor_serves(
    stand: Stand, mac: str, peers: str, blow: Blow
) -> None:
    specs = (HIGH, LOW) if peers == "multicast" else UNICAST
    stand.start(*(replace(spec, own_mac=mac == "own") for spec in specs))
    with Tap(stand.lab, "lb1-front", VIP, HIGH.vrid) as tap:
        begun = time.monotonic()
        stand.listen(0.2, lambda: tap.ask(VIP))
        assert tap.heard(begun)  # while it lives it answers
        pids = [one.pid for one in stand.one.host.processes()]
        blow(stand.one)
        dead = time.monotonic()
        stand.expect(stand.two, "active", within=5)
        stand.listen(1.0, lambda: tap.ask(VIP))
        assert tap.heard(dead + DOWN) == []
    adverts = [s.at for s in stand.ear.listen()]
    took_over = min(s.at for s in stand.ear.said if s.source == TWO and s.at > dead)
    last = max(s.at for s in stand.ear.said if s.source == ONE)
    assert took_over - last < DOWN + 0.1, adverts
    if blow is stop_all:
        signal_all(pids)


def test_one_that_starts_again_is_backup_and_without_addresses(stand: Stand) -> None:
    stand.start(HIGH, LOW)
    kill_all(stand.one)
    stand.expect(stand.two, "active")
    stand.one.start(replace(HIGH, preempt=False))
    stand.expect(stand.one, "backup")
    assert not stand.holds(stand.lab.gateways[0], VIP)


def test_one_that_stood_still_steps_down_when_it_goes_on(stand: Stand) -> None:
    stand.start(HIGH, replace(LOW, preempt=False))
    stopped = [one.pid for one in stand.one.host.processes()]
    signal_all(stopped, signal.SIGSTOP)
    stand.expect(stand.two, "active")
    signal_all(stopped, signal.SIGCONT)
    standing = stand.expect(stand.one, "active", within=20)  # it preempts, in its own time
    assert standing.counts["active_transitions"] == 2
    stand.expect(stand.two, "backup")


def test_what_it_left_in_the_kernel_goes_with_a_stop_in_peace(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]

    def filters() -> int:
        found = gateway.run(["tc", "filter", "show", "dev", "front", "egress"]).stdout
        return found.count("handle 0x76")

    stand.start(HIGH)
    assert filters() == 1
    stand.one.stop()
    eventually(lambda: filters() == 0)


def test_what_comes_while_the_helper_is_away_is_fenced_all_the_same(stand: Stand) -> None:
    gateway = stand.lab.gateways[0]
    stand.start(HIGH)
    (helper,) = [p for p in gateway.processes() if "vrrp.watch" in p.command]
    os.kill(helper.pid, signal.SIGKILL)
    other = replace(HIGH, vip="203.0.113.10", vrid=9, extra={"interface": "back"})
    stand.one.write(HIGH, other)
    stand.one.processes[0].kill(signal.SIGHUP)
    stand.expect(stand.one, "active", "web2")
    found = gateway.run(["tc", "filter", "show", "dev", "back", "egress"]).stdout
    assert found.count("handle 0x76") == 1


def test_without_a_compiler_it_runs_unfenced_and_says_so(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand.one.start(HIGH)
    stand.expect(stand.one, "active")
    stand.one.stop()
    for pin in stand.one.pins.glob("fence_*"):
        pin.unlink()
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/nonexistent")
    monkeypatch.setenv("LBCTL_PROGRAMS", str(tmp_path))  # nothing was compiled before
    stand.one.start(HIGH)
    standing = stand.expect(stand.one, "active", within=20)
    assert any("not fenced" in line and "no kernel headers" in line for line in standing.why)


def test_a_lease_that_jiffies_cannot_hold_is_refused() -> None:
    settings = RouterSettings("web", "front", 7, 100, (VIP,), interval=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "jiffy", lambda: 0.01)
        with pytest.raises(InvalidConfig, match="under 5 jiffies"):
            run.validated(Routers((settings,)), fenced=True)
        assert run.validated(Routers((settings,)))
