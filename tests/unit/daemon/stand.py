"""A daemon's core on a virtual clock: world, reconciler and a fake data path, no process."""

from dataclasses import dataclass, field
from ipaddress import ip_address

from lbctl.daemon.acts import Refusal
from lbctl.daemon.clock import Clock
from lbctl.daemon.moments import pass_time
from lbctl.daemon.plane import carry_out
from lbctl.daemon.reconcile import Reconciler, Step
from lbctl.dataplane.fake import FakePlane, FakeVips
from lbctl.events import AnyEvent, render
from lbctl.health.judge import Health
from lbctl.model import (
    Config,
    Drain,
    Gateway,
    LastResort,
    Listen,
    Scheduler,
    Server,
    ServerName,
    Service,
    VipOwner,
)
from lbctl.world import Admin, Order, Sighting, World, target_of

WALL = 1_800_000_000.0  # what the wall clock shows when the other shows zero


@dataclass
class VirtualTime:
    now: float = 0.0
    drift: float = 0.0  # how far the wall clock was set since

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: WALL + self.now + self.drift)


def server(number: int, weight: int = 1) -> Server:
    return Server(ip_address(f"198.51.100.{number}"), 8080, weight)


def service(
    *servers: int,
    listens: str = "192.0.2.10:80/tcp",
    scheduler: str = "rr",
    vip: VipOwner = VipOwner.MANAGED,
    last_resort: LastResort = LastResort.NONE,
    weight: int = 1,
) -> Service:
    """Servers by number: app1 is at 198.51.100.1:8080."""
    return Service(
        tuple(Listen.parse(text) for text in listens.split()),
        {f"app{number}": server(number, weight) for number in servers},
        Scheduler(scheduler),
        vip=vip,
        drain=Drain(timeout=300.0),
        last_resort=last_resort,
    )


def config(**services: Service) -> Config:
    return Config(Gateway("front"), services)


@dataclass
class Stand:
    """Runs passes as the loop does; `told` collects what was said."""

    world: World
    plane: FakePlane = field(default_factory=FakePlane)
    vips: FakeVips = field(default_factory=FakeVips)
    reconciler: Reconciler = field(default_factory=Reconciler)
    now: float = 0.0
    told: list[str] = field(default_factory=list)
    _looked: float = 0.0

    def turn(self) -> list[str]:
        """All passes that are due; returns what the data path was asked, in words."""
        touched, events = pass_time(self.world, self._looked, self.now)
        self._looked = self.now
        self.reconciler.mark(touched)
        self.tell(events)
        asked: list[str] = []
        while self.reconciler.deadline <= self.now:
            step, refusals = self.one_pass()
            asked += [str(act) for act in step.acts]
            self.tell(self.reconciler.finish(step, refusals, self.now))
            self.reconciler.mark(self.world.turn_away(self.reconciler.outside()))
        return asked

    def one_pass(self) -> tuple[Step, list[Refusal]]:
        if self.reconciler.must_observe(self.now):
            self.reconciler.observed(self.plane.observe(), self.vips.held(), self.now)
        step = self.reconciler.step(self.world, self.now)
        self.tell(step.events)
        return step, carry_out(step, self.plane, self.vips)

    def at(self, now: float) -> list[str]:
        self.now = now
        return self.turn()

    def take(self, new: Config) -> list[str]:
        self.reconciler.mark(self.world.reconfigure(new, self.now))
        return self.turn()

    def see(self, name: str, health: Health, evidence: str = "") -> list[str]:
        where = ServerName.parse(name)
        of = self.world.config.services[where.service]
        target = target_of(of, of.servers[where.server])
        assert target is not None
        self.reconciler.mark(self.world.see(target, Sighting(health, evidence, self.now)))
        return self.turn()

    def order(self, name: str, admin: Admin, deadline: float = 300.0) -> list[str]:
        where = ServerName.parse(name)
        self.world.orders[where] = Order(admin, self.now, self.now + deadline)
        self.reconciler.mark({where.service})
        return self.turn()

    def tell(self, events: list[AnyEvent] | tuple[AnyEvent, ...]) -> None:
        self.told += [render(event) for event in events]


def stand(**services: Service) -> Stand:
    return Stand(World(config(**services)))
