"""Of two gateways that both see a server down, only the one whose virtual router is Active for
the service runs its hooks, whoever that is."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lbctl.lab import Lab, eventually, standard
from tests.lab.failover.pair import BACK, PORT, TALK, Gateway, Pair
from tests.lab.signalling import signal_all

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]
SICK = "app1"
HOOK = f"""#!/bin/sh
echo $LBCTL_EVENT $LBCTL_SERVER \\
    $(ip -o -4 address show dev back | grep -o '{BACK.replace(".", "[.]")}[23]/') >> {{runs}}
"""


class Healed(Pair):
    """A pair with hooks that note where they run, one second after the other."""

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    def service(
        self, name: str, listen: str, port: int | None, weights: Mapping[str, int]
    ) -> list[str]:
        hook = self.home / "hook.sh"
        hook.write_text(HOOK.format(runs=self.runs))
        hook.chmod(0o755)
        bounds = "cooldown: 500ms, per_hour: 1000"
        hooks = [f"    {one}: {{run: {hook}, {bounds}}}" for one in ("on_down", "on_up")]
        head, *rest = super().service(name, listen, port, weights)
        return [head, *hooks, *rest]

    def count(self, gateway: Gateway, event: str = "on_down") -> int:
        """Runs of a gateway's hook."""
        text = self.runs.read_text() if self.runs.exists() else ""
        place = {self.one: f"{BACK}2/", self.two: f"{BACK}3/"}[gateway]
        return Counter(text.splitlines())[f"{event} {SICK} {place}"]

    def only(self, active: Gateway, other: Gateway) -> None:
        """Until the Active ran its hook three times more; the other did not meanwhile."""
        theirs, ours = self.count(other), self.count(active)
        eventually(lambda: self.count(active) >= ours + 3, 30)
        assert self.sees(other, "down")()
        assert self.count(other) == theirs

    def sees(self, gateway: Gateway, health: str) -> Callable[[], bool]:
        """Whether a gateway's own check says so."""

        def so() -> bool:
            rows = json.loads(gateway.host.lbctl("check", f"web/{SICK}", "-j", check=False).stdout)
            assert [row["health"] for row in rows] == [health], rows
            return True

        return so

    def end_server(self) -> None:
        host = self.lab.host(SICK)
        signal_all(one.pid for one in host.processes() if TALK.name in one.command)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Healed]:
    with Lab(standard(servers=2, gateways=2)) as lab:
        made = Healed(lab, "mh", tmp_path)
        try:
            made.start()
            yield made
        finally:
            made.close()


def test_hooks_run_where_the_services_virtual_router_is_active(pair: Healed) -> None:
    one, two = pair.one, pair.two
    pair.end_server()
    for gateway in (one, two):
        eventually(pair.sees(gateway, "down"), 30)
    pair.only(one, two)
    assert pair.count(two) == 0

    one.stop_vrrp()
    pair.taken_over()
    pair.only(two, one)

    one.start_vrrp()
    pair.taken_back()
    pair.only(one, two)

    pair.lab.host(SICK).start([sys.executable, TALK, "serve", SICK, str(PORT)], log="again.log")
    eventually(lambda: pair.count(one, "on_up") == 1, 30)
    eventually(pair.sees(two, "up"), 30)
    assert pair.count(two, "on_up") == 0
