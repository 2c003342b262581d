"""Laws of `desired`: what follows from any facts whatever."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lbctl.desired import decide, desired
from lbctl.health.judge import Health
from lbctl.model import (
    MAX_WEIGHT,
    Address,
    Check,
    Config,
    Datapath,
    Gateway,
    LastResort,
    Listen,
    Scheduler,
    Server,
    Service,
    Table,
)
from lbctl.model import Endpoint as E
from lbctl.world import Admin, Order, Sighting, World, server_names, targets

ADDRESSES = [E.parse(f"198.51.100.{n}:80").address for n in range(1, 6)]
LISTENS = [Listen.parse(f"192.0.2.{n}:{port}/tcp") for n in range(1, 4) for port in (80, 443)]
TIMES = st.integers(0, 20).map(float)

servers = st.builds(
    Server,
    address=st.sampled_from(ADDRESSES),
    port=st.sampled_from([None, 80, 8080]),
    weight=st.sampled_from([0, 1, 5, MAX_WEIGHT]),
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    services = {}
    for n, name in enumerate(("web", "api", "dns")):
        if draw(st.booleans()):
            services[name] = Service(
                listens=tuple(LISTENS[2 * n : 2 * n + draw(st.integers(1, 2))]),
                servers=draw(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), servers)),
                scheduler=Scheduler(draw(st.sampled_from(["rr", "mh", "sh"]))),
                check=draw(st.sampled_from([Check(), Check(port=9000), None])),
                last_resort=draw(st.sampled_from(LastResort)),
                sorry=draw(st.none() | servers),
            )
    return Config(Gateway("lan0"), services)


orders = st.builds(
    Order,
    admin=st.sampled_from(Admin),
    since=st.just(0.0),
    deadline=TIMES,
    until=st.none() | TIMES,
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """After a few configurations, verdicts and orders."""
    world = World(draw(configs()))
    for now in range(draw(st.integers(0, 3))):
        for _, target in targets(world.config):
            if draw(st.booleans()):
                world.see(target, Sighting(draw(st.sampled_from(Health)), "so"))
        for name in server_names(world.config):
            if draw(st.integers(0, 3)) == 0:
                world.orders[name] = draw(orders)
        world.reconfigure(draw(configs()), float(now))
    return world


@given(worlds(), TIMES, st.sets(st.sampled_from(["web", "api", "dns", "gone"])))
def test_some_services_are_a_part_of_all(world: World, now: float, names: set[str]) -> None:
    whole = desired(world, now)
    listens = {
        listen
        for name in names & world.config.services.keys()
        for listen in world.config.services[name].listens
    }
    part = {listen: whole.services[listen] for listen in whole if listen in listens}
    assert desired(world, now, services=names) == Table(part)


@given(worlds(), TIMES)
def test_forgetting_what_time_has_ended_changes_nothing(world: World, now: float) -> None:
    before = desired(world, now)
    world.expire(now)
    assert desired(world, now) == before


@given(worlds(), TIMES)
def test_nothing_changes_between_deadlines(world: World, now: float) -> None:
    deadline = world.deadline(now)
    until = 1e9 if deadline is None else deadline - 1e-6
    assert desired(world, until) == desired(world, now)


@given(worlds(), TIMES, configs())
def test_only_touched_services_change(world: World, now: float, config: Config) -> None:
    before, old = desired(world, now), world.config
    touched = world.reconfigure(config, now)
    after = desired(world, now)
    for name in old.services.keys() & config.services.keys() - touched:
        for listen in config.services[name].listens:
            assert after.services[listen] == before.services[listen]


@given(worlds(), TIMES)
def test_the_same_configuration_again_changes_nothing(world: World, now: float) -> None:
    before = desired(world, now)
    assert world.reconfigure(world.config, now) == set()
    assert desired(world, now) == before


@given(worlds(), TIMES)
def test_a_verdict_changes_only_what_it_touches(world: World, now: float) -> None:
    for _, target in list(targets(world.config))[:3]:
        before = desired(world, now)
        touched = world.see(target, Sighting(Health.DOWN, "so"))
        after = desired(world, now)
        for name in world.config.services.keys() - touched:
            for listen in world.config.services[name].listens:
                assert after.services[listen] == before.services[listen]


@given(worlds(), TIMES)
def test_precedence(world: World, now: float) -> None:
    """A person's order beats health, health beats the file; each decision says so."""
    for name, service in world.config.services.items():
        decisions = decide(world, name, now)
        nobody = not any(d.scheduled for d in decisions if d.rule != "last resort")
        for one in decisions:
            assert one.because
            assert one.weight is None or 0 <= one.weight <= MAX_WEIGHT
            assert one.rule != "last resort" or nobody
            order = world.orders.get(one.name)
            if one.rule == "leaving" or one.name.server == "sorry":
                assert one.weight in (None, 0, 1)
            elif order and order.in_force(now) and order.admin is not Admin.READY:
                assert one.rule == "admin"
                assert not one.scheduled
            elif (seen := world.seen(service, one.server)) and seen.health is Health.DOWN:
                assert one.rule in ("health", "last resort")
                assert (one.weight is None) == (one.rule == "health")


@given(worlds(), TIMES, st.dictionaries(st.sampled_from(ADDRESSES), st.integers(0, MAX_WEIGHT)))
def test_where_the_peer_is_active_it_says_who_serves(
    world: World, now: float, said: dict[Address, int]
) -> None:
    ours = desired(world, now)
    weights = {E(address, 80): weight for address, weight in said.items()}
    world.replicas = {LISTENS[0]: weights}
    theirs = desired(world, now)
    for listen, service in ours.services.items():
        found = theirs.services[listen]
        if listen == LISTENS[0]:
            assert {e: d.weight for e, d in found.destinations.items()} == weights
            assert found.header() == service.header()
        else:
            assert found == service
    world.replicas = {}  # promoted: our own view is a change like any other
    assert desired(world, now) == ours


@given(worlds(), TIMES)
def test_ipvs_hashes_look_further_where_a_server_takes_no_new_flows(
    world: World, now: float
) -> None:
    elsewhere = desired(world, now)
    world.datapath = Datapath.IPVS
    for listen, found in desired(world, now).services.items():
        usual = elsewhere.services[listen]
        flags = usual.scheduler.flags
        if usual.scheduler.name in ("mh", "sh"):
            flags |= {f"{usual.scheduler.name}-fallback"}
        assert found == replace(usual, scheduler=Scheduler(usual.scheduler.name, flags))
