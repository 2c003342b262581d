"""Two lbctl VRRP processes, what they say, and what can be done to them."""

import time
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import Self

from lbctl.errors import Unreachable
from lbctl.lab import Host, Lab, eventually
from lbctl.lab.kernel import NETNS, SWITCH, namespace
from lbctl.messages import AnyMessage, Ask, Standing
from lbctl.vrrp.control import Client
from lbctl.vrrp.netlink import Netlink, set_up
from tests.lab.signalling import signal_all
from tests.lab.vrrp.ear import Ear
from tests.lab.vrrp.spaces import inside
from tests.lab.vrrp.speakers import Lbctl, Spec


class Stand:
    """one, two: the processes of the first and the second gateway."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.one, self.two = (Lbctl(gateway) for gateway in lab.gateways)
        self.ear = Ear(lab)
        self._switch = inside(NETNS / namespace(lab.name, SWITCH), Netlink)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for port in ("lb1-front", "lb2-front"):
            self.plug(port, True)
        for speaker in (self.one, self.two):
            speaker.leave()
        self._switch.close()
        self.ear.__exit__(kind, error, trace)

    def start(self, one: Spec, two: Spec | None = None) -> None:
        """Start the first, wait until it is active, and then the second, if there is one."""
        self.one.start(one)
        self.expect(self.one, "active")
        if two is not None:
            self.two.start(two)
            self.expect(self.two, "backup")

    def expect(self, speaker: Lbctl, role: str, name: str = "web", within: float = 60) -> Standing:
        def reached() -> Standing:
            found = self.standing(speaker, name)
            assert found.role == role, f"{found.role}: {'; '.join(found.why)}"
            return found

        return eventually(reached, within)

    def standing(self, speaker: Lbctl, name: str = "web") -> Standing:
        found = {s.router: s for s in self.ask(speaker, Ask()) if isinstance(s, Standing)}
        assert name in found, f"there are {list(found)}"
        return found[name]

    def ask(self, speaker: Lbctl, message: AnyMessage) -> list[AnyMessage]:
        with eventually(lambda: _connected(speaker)) as client:
            try:
                return client.ask(message)
            except Unreachable as error:  # its loop makes interfaces, or has not begun
                raise AssertionError(str(error)) from None

    def has(self, speaker: Lbctl, routers: int) -> bool:
        """Whether it runs so many routers."""
        return sum(isinstance(one, Standing) for one in self.ask(speaker, Ask())) == routers

    def crash(self, speaker: Lbctl) -> None:
        signal_all(speaker.kill())

    def plug(self, port: str, up: bool) -> None:
        link = self._switch.link(port)
        assert link is not None
        self._switch.do(set_up(link.index, up))

    def holds(self, host: Host, vip: str) -> bool:
        return f" {vip}/" in host.run(["ip", "address"]).stdout

    def listen(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Let time pass: what must not happen within it is then looked at."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            meanwhile()
            self.ear.listen()
            time.sleep(0.01)

    def gaps(self, source: str, since: float) -> list[float]:
        """Seconds between the adverts of `source` after `since`."""
        times = [s.at for s in self.ear.listen() if s.source == source and s.at >= since]
        return [later - earlier for earlier, later in pairwise(times)]


def _connected(speaker: Lbctl) -> Client:
    """The socket's file may be an earlier process's."""
    try:
        return Client(speaker.control)
    except Unreachable as error:
        raise AssertionError(str(error)) from None
