"""Both gateways are at work: each is Active for addresses of its own on either side, and goes on
for the other. `both` has a listen on an address of each.

A server's answers must come back through the gateway that its question came through. Here a
server knows by its own port which that is: each listen has one of its own.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lbctl.lab import Host, Lab, eventually, standard
from tests.lab.failover.pair import BACK, CROSSED, PORT, VIP, Caller, Gateway, Pair

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
SHOP, BOTH, BOTH_CROSSED = PORT + 1, PORT + 2, PORT + 3
OURS = (f"{VIP}:{PORT}/tcp", f"{VIP}:{BOTH}/tcp")
THEIRS = (f"{CROSSED}:{SHOP}/tcp", f"{CROSSED}:{BOTH_CROSSED}/tcp")
BACK_CROSSED = f"{BACK}4"
TABLE = "104"  # of routes, for what came through the second gateway


class Crossed(Pair):
    """The first gateway is Active for VIP and BACK1, the second for CROSSED and BACK4."""

    def routers(self) -> list[str]:
        return [
            *super().routers(),
            self.router("cross", 9, CROSSED, "front", "other", first=100),
            self.router("cross_back", 10, BACK_CROSSED, "back", "other", first=100),
        ]

    def services(self) -> list[str]:
        lines = [*super().services()]
        lines += self.service("shop", f"{CROSSED}:{SHOP}/tcp", SHOP, self.weights)
        listens = f"[{VIP}:{BOTH}/tcp, {CROSSED}:{BOTH_CROSSED}/tcp]"
        return [*lines, *self.service("both", listens, None, self.weights)]

    def start(self) -> None:
        for port in (PORT, SHOP, BOTH, BOTH_CROSSED):
            self.serve(port)
        for host in self.lab.servers:
            answer_the_second(host)
        self.one.start()
        self.one.expect("active")
        self.two.start()
        self.at_home()

    def at_home(self) -> None:
        """Until each is Active for its own, and holds what the other one remembers."""
        self.two.expect("active", "cross", "cross_back")
        self.one.expect("active", "front", "back")
        self.one.author(*OURS)
        self.two.author(*THEIRS)
        self.one.synced(*THEIRS)
        self.two.synced(*OURS)


def answer_the_second(server: Host) -> None:
    server.run(["ip", "route", "add", f"{BACK}0/24", "dev", "back", "table", TABLE])
    server.run(["ip", "route", "add", "default", "via", BACK_CROSSED, "table", TABLE])
    for port in (SHOP, BOTH_CROSSED):
        words = ["ipproto", "tcp", "sport", str(port), "lookup", TABLE]
        server.run(["ip", "rule", "add", *words])


@pytest.fixture
def crossed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crossed]:
    with Lab(standard(servers=3, gateways=2)) as lab:
        made = Crossed(lab, request.param, tmp_path, mac="virtual")
        try:
            made.start()
            yield made
        finally:
            made.close()


@pytest.mark.parametrize(
    ("crossed", "count"),
    [("mh", 20), pytest.param("mh", 150, marks=pytest.mark.long),
     pytest.param("rr", 150, marks=pytest.mark.long)],
    indirect=["crossed"],
)  # fmt: skip
def test_either_goes_on_for_the_other(crossed: Crossed, count: int) -> None:
    one, two = crossed.one, crossed.two
    with ExitStack() as stack:
        mine, other = (
            [
                stack.enter_context(crossed.traffic(count // 2, count // 2, 5.0, vip, port))
                for port in ports
            ]
            for vip, ports in ((VIP, (PORT, BOTH)), (CROSSED, (SHOP, BOTH_CROSSED)))
        )
        unhurt([*mine, *other], "traffic through both")
        for gateway in (one, two):
            eventually(lambda gateway=gateway: forwarded(gateway) > count, 20)

        two.told()
        two.kill()  # its links stay up: only its fence keeps it quiet
        unhurt(mine, "the death of the second, at the first, whose own these are")
        one.expect("active")
        one.author(*OURS, *THEIRS)
        unhurt(other, "the death of the second, whose own these were")
        two.start()
        crossed.at_home()
        unhurt([*mine, *other], "the return of the second")

        one.host.lbctl("drain", "both/app1", "--reason", "lab")
        eventually(lambda: "drain" in state(two, "both/app1"), 20)
        one.told()
        one.crash()
        unhurt(other, "a crash of the first, at the second, whose own these are")
        two.expect("active")
        two.author(*OURS, *THEIRS)
        unhurt(mine, "a crash of the first, whose own these were")
        assert "drain" in state(two, "both/app1")
        counted = [caller.end() for caller in (*mine, *other)]
    assert [caller.lost() for caller in (*mine, *other)] == [[]] * 4
    assert [one["open"] for one in counted] == [count] * 4


def unhurt(callers: list[Caller], after: str) -> None:
    for caller in callers:
        caller.round()
        assert caller.lost() == [], after


def state(gateway: Gateway, server: str) -> str:
    rows = json.loads(gateway.host.lbctl("get", "servers", "-j").stdout)
    return next(str(row["state"]) for row in rows if row["name"] == server)


def forwarded(gateway: Gateway) -> int:
    """Packets that its program gave to a server."""
    found = json.loads(gateway.host.lbctl("stats", "-j").stdout)["verdicts"]
    return int(found.get("forward", 0))
