"""lbctl beside keepalived and FRR's vrrpd: who is active, both ways, and every frame of
ours judged by tshark.

The cells here are a pairwise cover; `make test-long` runs them all. The table is printed at
the end of the run (`-rP` shows it for single tests).
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest

from lbctl.lab import Lab, eventually, standard
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from lbctl.vrrp.netlink import Netlink, set_up
from tests.lab.signalling import signal_all
from tests.lab.vrrp.ear import Ear
from tests.lab.vrrp.spaces import inside
from tests.lab.vrrp.speakers import Frr, Keepalived, Lbctl, Spec, make

pytestmark = pytest.mark.lab
VIP = {4: "192.0.2.10", 6: "2001:db8:1::10"}


@dataclass(frozen=True)
class Cell:
    """One way to speak VRRP with one other product."""

    other: str
    version: int
    family: int
    unicast: bool = False
    own_mac: bool = False

    def __str__(self) -> str:
        how = "unicast" if self.unicast else "multicast"
        mac = "own-mac" if self.own_mac else "virtual-mac"
        return f"{self.other}-v{self.version}-ipv{self.family}-{how}-{mac}"

    @property
    def interval(self) -> float:
        return 1.0 if self.version == 2 else 0.1


def cells() -> list[Cell]:
    found = [
        Cell("keepalived", version, family, unicast, own_mac)
        for version, family in ((3, 4), (3, 6), (2, 4))
        for unicast, own_mac in product((False, True), repeat=2)
    ]
    return [*found, Cell("frr", 3, 4), Cell("frr", 3, 6), Cell("frr", 2, 4)]


PAIRWISE = {
    "keepalived-v3-ipv4-multicast-virtual-mac",
    "keepalived-v3-ipv4-unicast-own-mac",
    "keepalived-v3-ipv6-multicast-own-mac",
    "keepalived-v3-ipv6-unicast-virtual-mac",
    "keepalived-v2-ipv4-multicast-own-mac",
    "keepalived-v2-ipv4-unicast-virtual-mac",
    "frr-v3-ipv4-multicast-virtual-mac",
    "frr-v3-ipv6-multicast-virtual-mac",
}
PARAMETERS = [
    pytest.param(cell, id=str(cell), marks=() if str(cell) in PAIRWISE else pytest.mark.long)
    for cell in cells()
]


class Bout:
    """Ours on lb1 and the other on lb2, with an ear on the switch between."""

    def __init__(self, lab: Lab, cell: Cell, ear: Ear) -> None:
        self.lab, self.cell, self.ear = lab, cell, ear
        self.ours = Lbctl(lab.gateways[0])
        self.theirs = make(cell.other, lab.gateways[1])
        self.addresses = [_source(gateway, cell.family) for gateway in lab.gateways]
        if (cell.other, cell.family) == ("frr", 6):
            self.addresses[1] = Frr.SOURCE6
        self._switch = inside(NETNS / namespace(lab.name, SWITCH), Netlink)

    def close(self) -> None:
        self.divide(False)
        for port in ("lb1-front", "lb2-front"):
            self.plug(port, True)
        self.ours.leave()
        self.theirs.stop()
        if isinstance(self.theirs, Frr):
            self.theirs.remove_device()
        self._switch.close()

    def spec(self, number: int, priority: int) -> Spec:
        cell = self.cell
        return Spec(
            VIP[cell.family],
            priority=priority,
            interval=cell.interval,
            version=cell.version,
            own_mac=cell.own_mac,
            peer=self.addresses[1 - number] if cell.unicast else "",
            source=self.addresses[number],
        )

    def start_ours(self, priority: int) -> None:
        self.ours.start(self.spec(0, priority))

    def start_theirs(self, priority: int) -> None:
        self.theirs.start(self.spec(1, priority))

    def expect(self, number: int, within: float | None = None) -> float:
        """Wait until only gateway `number` is active; how long that took (seconds)."""
        start = time.monotonic()
        span = max(1.5 * self.cell.interval, self.cell.interval + 0.15)
        wanted = {self.addresses[number]}

        def settled() -> bool:
            active = self.ear.active(span)
            assert active == wanted, f"active: {active or 'nobody'}, expected {wanted}"
            return True

        eventually(settled, within or 8 * self.cell.interval + 60)
        return time.monotonic() - start

    def crash(self, one: Lbctl | Keepalived | Frr, port: str) -> None:
        pids = one.kill()
        self.plug(port, False)
        signal_all(pids)

    def divide(self, apart: bool) -> None:
        """Keep lb2's frames from lb1 and back, while both have carrier (bridge(8), `state`)."""
        space = str(NETNS / namespace(self.lab.name, SWITCH))
        state = "0" if apart else "3"
        argv = ["nsenter", f"--net={space}", "bridge", "link", "set", "dev", "lb2-front", "state"]
        subprocess.run([*argv, state], check=True)

    def plug(self, port: str, up: bool) -> None:
        link = self._switch.link(port)
        assert link is not None
        self._switch.do(set_up(link.index, up))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(standard(servers=0, gateways=2, ipv6=True)) as made:
        yield made


@pytest.fixture
def bout(lab: Lab, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bout]:
    cell: Cell = request.param
    tools = {"frr": "/usr/lib/frr/vrrpd", "keepalived": "keepalived"}
    for tool in (tools[cell.other], "tshark"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: `make test` installs what is missing")
    with Ear(lab, tmp_path / "front.pcap") as ear:
        made = Bout(lab, cell, ear)
        yield made
        made.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("bout", PARAMETERS, indirect=True)
def test_interoperation(bout: Bout, record_property: pytest.FixtureRequest) -> None:
    ours_first = _ours_first(bout)
    theirs_first = _theirs_first(bout)
    tie = _tie(bout)
    adverts, announcements = judge(bout)
    judged = f"tshark: {adverts} adverts, {announcements} announcements right"
    row = f"{bout.cell!s:42} {ours_first} | {theirs_first} | {tie} | {judged}"
    print(row)
    record_property("Interoperation (seconds until the other one alone is active)", row)


def _ours_first(bout: Bout) -> str:
    """Ours has the higher priority: it wins, resigns, comes back, dies."""
    bout.start_ours(200)
    bout.expect(0)
    bout.start_theirs(100)
    _stays(bout, 0)
    bout.ours.stop()
    graceful = bout.expect(1)
    bout.start_ours(200)
    bout.expect(0)
    bout.crash(bout.ours, "lb1-front")
    crash = bout.expect(1)
    bout.start_ours(200)
    bout.plug("lb1-front", True)
    bout.expect(0)
    return f"ours graceful {graceful:4.1f} crash {crash:4.1f}"


def _theirs_first(bout: Bout) -> str:
    bout.ours.stop()
    bout.theirs.stop()
    bout.start_theirs(200)
    bout.start_ours(100)
    bout.expect(1)
    bout.theirs.stop()
    graceful = bout.expect(0)
    bout.start_theirs(200)
    bout.expect(1)
    bout.crash(bout.theirs, "lb2-front")
    crash = bout.expect(0)
    bout.ours.leave()
    bout.plug("lb2-front", True)
    return f"theirs graceful {graceful:4.1f} crash {crash:4.1f}"


def _tie(bout: Bout) -> str:
    """Both at the same priority and active, for they do not hear each other; once they do,
    the greater address stays (RFC 9568, 6.4.3)."""
    for started_first in (bout.start_ours, bout.start_theirs):
        bout.ours.stop()
        bout.theirs.stop()
        started_first(150)
        bout.expect(1 if started_first == bout.start_theirs else 0)
        bout.divide(True)
        (bout.start_theirs if started_first == bout.start_ours else bout.start_ours)(150)
        eventually(lambda: _both(bout), 8 * bout.cell.interval + 8)
        bout.divide(False)
        took = bout.expect(_greater(bout))
    return f"tie: the greater address, {took:4.1f}"


def _both(bout: Bout) -> bool:
    """Are both active? A unicast advert to a peer that cannot be found is not heard: then by
    the address, and long enough after the start, as it may be there from before."""
    if not bout.cell.unicast:
        active = bout.ear.active(2.5 * bout.cell.interval)
        assert active == set(bout.addresses), f"active: {active}"
        return True
    assert min(map(_running_since, (bout.ours, bout.theirs))) > 5 * bout.cell.interval
    for gateway in bout.lab.gateways:
        found = gateway.run(["ip", "address"]).stdout
        assert f" {VIP[bout.cell.family]}/" in found, f"{gateway.name}: {found}"
    return True


def _greater(bout: Bout) -> int:
    return max((0, 1), key=lambda number: ip_address(bout.addresses[number]))


def _stays(bout: Bout, number: int) -> None:
    """The other one has had time to act, and did not."""
    eventually(lambda: _running_since(bout.theirs) > 5 * bout.cell.interval, 30)
    assert bout.ear.active(4 * bout.cell.interval) == {bout.addresses[number]}


def _running_since(one: Lbctl | Keepalived | Frr) -> float:
    stat = Path(f"/proc/{one.processes[-1].pid}/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / os.sysconf("SC_CLK_TCK")


def judge(bout: Bout) -> tuple[int, int]:
    """Source MAC, TTL and checksum of each advert and announcement of ours; how many."""
    cell = bout.cell
    virtual = f"00:00:5e:00:0{1 if cell.family == 4 else 2}:07"
    own = bout.lab.gateways[0].spec.nics[0].mac
    # Unicast goes where the route leads, from the interface's own MAC.
    mac = own if cell.own_mac or cell.unicast else virtual
    frames = [one for one in bout.ear.judge() if one.source == bout.addresses[0]]
    assert frames
    wrong = [
        one
        for one in frames
        if (one.mac, one.ttl, one.version, one.checksum) != (mac, 255, cell.version, "good")
    ]
    assert wrong == []
    answers = own if cell.own_mac else virtual
    announced = bout.ear.announced()
    assert {one.address for one in announced} == set(bout.spec(0, 200).addresses)
    assert {(one.mac, one.inner, one.ttl, one.checksum) for one in announced} == {
        (answers, answers, 255, "good")
    }
    return len(frames), len(announced)


@pytest.mark.parametrize("bout", [Cell("keepalived", 3, 4)], indirect=True, ids=str)
def test_a_wrong_checksum_form_is_told_and_not_silently_two_actives(bout: Bout) -> None:
    bout.ours.start(replace(bout.spec(0, 200), checksum="rfc9568"))
    bout.expect(0)
    bout.start_theirs(100)  # does not understand ours, and takes over too
    eventually(lambda: "checksum: auto" in bout.ours.log(), 10)
    bout.ours.stop()
    bout.ours.start(bout.spec(0, 200))  # auto: as the peer does
    bout.expect(0)


def _source(gateway, family: int) -> str:
    """The address that a gateway's adverts come from."""
    if family == 4:
        return str(gateway.address)
    words = gateway.run(["ip", "-6", "-br", "addr", "show", "front", "scope", "link"]).stdout
    return next(w.partition("/")[0] for w in words.split() if w.startswith("fe80:"))
