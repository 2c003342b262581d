"""When hooks are due, on a virtual clock."""

from ipaddress import ip_address

from lbctl.daemon.hooks import Key, Ledger, Run
from lbctl.events import render
from lbctl.health.judge import Health
from lbctl.load import Memory, Pool
from lbctl.model import (
    Config,
    Gateway,
    Hook,
    Listen,
    Server,
    ServerName,
    Service,
    Trigger,
)
from lbctl.world import Admin, Order, Sighting, World, target_of

APP1 = ServerName("web", "app1")


class Stand:
    def __init__(self, *hooks: Hook) -> None:
        servers = {f"app{n}": Server(ip_address(f"198.51.100.{n}"), 80) for n in (1, 2)}
        listens = (Listen.parse("192.0.2.10:80/tcp"),)
        self.world = World(Config(Gateway("lan0"), {"web": Service(listens, servers, hooks=hooks)}))
        self.ledger = Ledger()
        self.active = True
        self.now = 0.0

    def see(self, health: Health, server: str = "app1") -> None:
        service = self.world.config.services["web"]
        target = target_of(service, service.servers[server])
        assert target is not None
        self.world.see(target, Sighting(health, "so"))

    def due(self, now: float) -> list[str]:
        self.now = now
        found = self.ledger.look(self.world, lambda _: self.active, now)
        return [f"{one.key.trigger} {one.key.name.server}: {one.evidence}" for one in found]

    def end(self, took: float = 1.0, trigger: Trigger = Trigger.DOWN) -> None:
        self.ledger.ended(Run(Key(APP1, trigger), self.now, took, True, "exit status 0", ""))
        self.now += took

    def deadline(self) -> float | None:
        return self.ledger.deadline(self.world, self.now)

    def told(self) -> list[str]:
        return [render(event) for event in self.ledger.take_events()]


def on(trigger: Trigger, **settings) -> Hook:
    return Hook(trigger, ("/bin/true",), **settings)


def test_a_hook_runs_once_its_state_has_lasted_the_delay() -> None:
    stand = Stand(on(Trigger.DOWN, delay=5.0))
    assert stand.due(0.0) == []
    stand.see(Health.DOWN)
    assert stand.due(1.0) == []
    assert stand.deadline() == 6.0
    assert stand.due(6.0) == ["on_down app1: so"]
    assert stand.due(7.0) == []  # it runs


def test_a_state_that_ends_within_the_delay_is_forgotten() -> None:
    stand = Stand(on(Trigger.DOWN, delay=5.0))
    stand.see(Health.DOWN)
    stand.due(0.0)
    stand.see(Health.UP)
    assert stand.due(4.0) == []
    stand.see(Health.DOWN)
    assert stand.due(5.0) == []
    assert stand.deadline() == 10.0


def test_it_runs_again_after_the_cooldown_while_the_state_lasts() -> None:
    stand = Stand(on(Trigger.DOWN, cooldown=60.0))
    stand.see(Health.DOWN)
    assert stand.due(0.0) == ["on_down app1: so"]
    stand.end(took=10.0)
    assert stand.deadline() == 70.0
    assert stand.due(69.0) == []
    assert stand.due(70.0) == ["on_down app1: so"]


def test_the_cooldown_outlives_the_state() -> None:
    stand = Stand(on(Trigger.DOWN, cooldown=60.0))
    stand.see(Health.DOWN)
    stand.due(0.0)
    stand.end()
    stand.see(Health.UP)
    stand.due(10.0)
    stand.see(Health.DOWN)
    assert stand.due(20.0) == []
    assert stand.due(61.0) == ["on_down app1: so"]


def test_the_hour_has_room_for_so_many_and_says_so_once() -> None:
    stand = Stand(on(Trigger.DOWN, cooldown=5.0, per_hour=2))
    stand.see(Health.DOWN)
    for now in (0.0, 10.0):
        assert stand.due(now) == ["on_down app1: so"]
        stand.end()
    stand.told()
    assert stand.deadline() == 16.0  # to say that it would be due
    assert stand.due(20.0) == []
    assert stand.due(30.0) == []
    assert stand.told() == ["web/app1: on_down is not run again: 2 times in an hour is all"]
    assert stand.deadline() == 3600.0
    assert stand.due(3600.0) == ["on_down app1: so"]


def test_up_is_answered_once_for_each_return() -> None:
    stand = Stand(on(Trigger.UP, cooldown=0.0))
    stand.see(Health.UP)
    assert stand.due(0.0) == []  # it did not return, it was never away
    stand.see(Health.DOWN)
    assert stand.due(1.0) == []
    stand.see(Health.UP)
    assert stand.due(2.0) == ["on_up app1: so"]
    stand.end(trigger=Trigger.UP)
    assert stand.due(100.0) == []
    stand.see(Health.DOWN)
    stand.due(101.0)
    stand.see(Health.UP)
    assert stand.due(102.0) == ["on_up app1: so"]


def returned() -> Stand:
    """A stand whose app1 was down, returned, and was answered."""
    stand = Stand(on(Trigger.UP, cooldown=0.0))
    for health in (Health.DOWN, Health.UP):
        stand.see(health)
        found = stand.due(1.0)
    assert found == ["on_up app1: so"]
    stand.end(trigger=Trigger.UP)
    return stand


def test_a_virtual_router_that_comes_back_is_no_return_of_a_server() -> None:
    stand = returned()
    for stand.active in (False, True):
        assert stand.due(10.0) == []


def test_the_end_of_maint_is_no_return_of_a_server() -> None:
    stand = returned()
    stand.world.orders[APP1] = Order(Admin.MAINT, 0.0, 1e9)
    assert stand.due(10.0) == []
    del stand.world.orders[APP1]
    assert stand.due(11.0) == []


def test_a_check_that_changes_is_no_return_of_a_server() -> None:
    stand = returned()
    for health in (Health.UNKNOWN, Health.UP):
        stand.see(health)
        assert stand.due(10.0) == []


def test_overload_is_what_the_pool_remembers() -> None:
    stand = Stand(on(Trigger.OVERLOAD))
    stand.world.pools["web"] = Pool({"app1": Memory(hot=True, out=True, because="cpu 99 %")})
    assert stand.due(0.0) == ["on_overload app1: cpu 99 %"]


def test_maint_and_a_virtual_router_elsewhere_have_no_hooks() -> None:
    stand = Stand(on(Trigger.DOWN))
    stand.see(Health.DOWN)
    stand.world.orders[APP1] = Order(Admin.MAINT, 0.0, 1e9)
    assert stand.due(0.0) == []
    del stand.world.orders[APP1]
    stand.active = False
    assert stand.due(1.0) == []
    stand.active = True
    assert stand.due(2.0) == ["on_down app1: so"]


def test_servers_do_not_share_limits() -> None:
    stand = Stand(on(Trigger.DOWN, per_hour=1))
    stand.see(Health.DOWN)
    stand.see(Health.DOWN, "app2")
    assert stand.due(0.0) == ["on_down app1: so", "on_down app2: so"]


def test_a_past_moves_to_another_clock() -> None:
    stand = Stand(on(Trigger.DOWN, cooldown=60.0))
    stand.see(Health.DOWN)
    stand.due(0.0)
    stand.end()
    moved = {key: one.moved(lambda at: at + 1000.0) for key, one in stand.ledger.past.items()}
    stand.ledger = Ledger(moved)
    assert stand.due(1060.0) == []
    assert stand.due(1061.0) == ["on_down app1: so"]
