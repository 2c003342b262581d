"""Two to five routers on one virtual clock, wired together by a bad network.

While it lasts adverts are lost, late, out of order and doubled, gateways crash, stall and
come back, the network falls apart. Once that is over there must be exactly one Active in
each connected part, and no more change.
"""

import heapq
from dataclasses import dataclass, field
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.messages import Role
from lbctl.model import ChecksumForm, Preempt, Router
from lbctl.vrrp import packet
from lbctl.vrrp.effects import Change, Drop, Effect, Send, Take
from lbctl.vrrp.packet import GROUP4
from lbctl.vrrp.receive import Dropped, Packet, examine
from lbctl.vrrp.router import VirtualRouter

VIP = ip_address("192.0.2.100")
QUIET = 0.002  # seconds; the delay of a network that is well


@dataclass
class Weather:
    """What the network does to an advert. delay: at most, in seconds."""

    loss: float
    double: float
    delay: float


@dataclass
class Gateway:
    settings: Router
    number: int
    router: VirtualRouter | None = None
    answers: bool = False
    stalled_until: float = 0.0
    changes: list[float] = field(default_factory=list)

    @property
    def address(self):
        return ip_address(f"192.0.2.{self.number + 1}")


class Network:
    """All gateways, the adverts under way, and the clock."""

    def __init__(self, routers: list[Router], weather: Weather, random: Random) -> None:
        self.gateways = [Gateway(one, number) for number, one in enumerate(routers)]
        self.parts = [0 for _ in routers]  # which part of the network each one is in
        self.weather = weather
        self.random = random
        self.now = 0.0
        self._under_way: list[tuple[float, int, int, Packet]] = []
        self._count = 0

    def boot(self, gateway: Gateway) -> None:
        gateway.answers = False
        gateway.router = VirtualRouter(gateway.settings, gateway.address)
        self._carry(gateway, gateway.router.start(self.now))

    def crash(self, gateway: Gateway) -> None:
        gateway.router, gateway.answers = None, False

    def run(self, until: float) -> None:
        while (moment := self._next()) <= until:
            self.now = max(self.now, moment)
            for gateway in self.gateways:
                router = gateway.router
                if router is None or gateway.stalled_until > self.now:
                    continue
                if router.deadline is not None and router.deadline <= self.now:
                    self._carry(gateway, router.tick(self.now))
            while self._under_way and self._under_way[0][0] <= self.now:
                _, _, number, heard = heapq.heappop(self._under_way)
                self._deliver(self.gateways[number], heard)
        self.now = until

    def _next(self) -> float:
        moments = [
            max(gateway.router.deadline, gateway.stalled_until)
            for gateway in self.gateways
            if gateway.router is not None and gateway.router.deadline is not None
        ]
        if self._under_way:
            moments.append(self._under_way[0][0])
        return min(moments, default=float("inf"))

    def _deliver(self, gateway: Gateway, heard: Packet) -> None:
        if gateway.router is None or gateway.stalled_until > self.now:
            return
        try:
            advert = examine(heard, gateway.settings, gateway.address)
        except Dropped as dropped:
            pytest.fail(f"one of ours was dropped: {dropped}")
        self._carry(gateway, gateway.router.receive(advert, self.now))

    def _carry(self, gateway: Gateway, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Take():
                    gateway.answers = True
                case Drop():
                    assert gateway.answers, "gave up what it did not have"
                    gateway.answers = False
                case Send(advert=advert, form=form):
                    data = packet.encode(advert, gateway.address, GROUP4, form)
                    self._send(gateway, Packet(gateway.address, GROUP4, 255, data))
                case Change():
                    gateway.changes.append(self.now)
        assert gateway.router is not None
        assert gateway.answers == (gateway.router.role is Role.ACTIVE)

    def _send(self, sender: Gateway, heard: Packet) -> None:
        for other in self.gateways:
            if other is sender or self.parts[other.number] != self.parts[sender.number]:
                continue
            copies = 1 + (self.random.random() < self.weather.double)
            for _ in range(copies):
                if self.random.random() >= self.weather.loss:
                    self._count += 1
                    at = self.now + self.random.random() * self.weather.delay
                    heapq.heappush(self._under_way, (at, self._count, other.number, heard))


def wreak(network: Network, random: Random) -> None:
    """One misfortune, or one recovery."""
    gateway = random.choice(network.gateways)
    match random.choice(["crash", "boot", "stall", "split", "join", "order"]):
        case "crash":
            network.crash(gateway)
        case "boot" if gateway.router is None:
            network.boot(gateway)
        case "stall":
            gateway.stalled_until = network.now + random.random() * 8
        case "split":
            network.parts[gateway.number] = random.randrange(3)
        case "join":
            network.parts = [0 for _ in network.parts]
        case "order" if gateway.router is not None:
            network._carry(gateway, gateway.router.fail_over("ordered", network.now))


def settle(network: Network) -> None:
    """The weather is fine again, and everybody is there; the parts stay as they are."""
    network.weather = Weather(0.0, 0.0, QUIET)
    for gateway in network.gateways:
        gateway.stalled_until = 0.0
        if gateway.router is None:
            network.boot(gateway)


def router(priority: int, interval: float, preempt: Preempt, delay: float) -> Router:
    return Router(
        "web", "front", 7, (VIP,), priority=priority, interval=interval,
        preempt=preempt, preempt_delay=delay, checksum=ChecksumForm.AUTO,
    )  # fmt: skip


routers = st.lists(
    st.builds(
        router,
        priority=st.sampled_from([1, 100, 100, 101, 150, 254, 255]),
        interval=st.sampled_from([0.5, 1.0, 1.0, 2.0]),
        preempt=st.sampled_from([Preempt.ALWAYS, Preempt.NEVER]),
        delay=st.sampled_from([0.0, 0.0, 5.0]),
    ),
    min_size=2,
    max_size=5,
)
weathers = st.builds(
    Weather,
    loss=st.floats(0.0, 0.9),
    double=st.floats(0.0, 0.5),
    delay=st.floats(0.001, 3.0),
)


@settings(max_examples=150, deadline=None)
@given(routers=routers, weather=weathers, seed=st.integers(0, 2**32), blows=st.integers(0, 25))
def test_at_rest_each_part_has_one_active_and_keeps_it(
    routers: list[Router], weather: Weather, seed: int, blows: int
) -> None:
    random = Random(seed)
    network = Network(routers, weather, random)
    for gateway in network.gateways:
        network.boot(gateway)
    for _ in range(blows):
        network.run(network.now + random.random() * 6)
        wreak(network, random)
    settle(network)
    network.run(network.now + 60.0)
    calm = network.now
    network.run(calm + 60.0)
    for part in set(network.parts):
        members = [g for g in network.gateways if network.parts[g.number] == part]
        active = [g.number for g in members if g.answers]
        assert len(active) == 1, f"part {part}: active are {active}"
    assert not [at for g in network.gateways for at in g.changes if at > calm], "flapping"


@settings(max_examples=50, deadline=None)
@given(count=st.integers(2, 5), seed=st.integers(0, 2**32))
def test_the_highest_priority_wins_where_all_preempt(count: int, seed: int) -> None:
    random = Random(seed)
    ranks = random.sample(range(1, 255), count)
    network = Network(
        [router(rank, 1.0, Preempt.ALWAYS, 0.0) for rank in ranks],
        Weather(0.0, 0.0, QUIET),
        random,
    )
    for gateway in network.gateways:
        network.boot(gateway)
        network.run(network.now + random.random() * 10)
    network.run(network.now + 20)
    assert [g.settings.priority for g in network.gateways if g.answers] == [max(ranks)]


@settings(max_examples=50, deadline=None)
@given(loss=st.floats(0.0, 0.2), seed=st.integers(0, 2**32))
def test_a_graceful_stop_leaves_no_moment_without_an_answer(loss: float, seed: int) -> None:
    random = Random(seed)
    network = Network(
        [router(200, 1.0, Preempt.ALWAYS, 0.0), router(100, 1.0, Preempt.ALWAYS, 0.0)],
        Weather(0.0, 0.0, QUIET),
        random,
    )
    first, second = network.gateways
    network.boot(first)
    network.boot(second)
    network.run(20.0 + random.random())
    assert (first.answers, second.answers) == (True, False)
    network.weather = Weather(loss, 0.0, QUIET)
    assert first.router is not None
    network._carry(first, first.router.stop("stopped", network.now))
    while first.answers:
        network.run(network.now + 0.01)
    assert second.answers
