"""Laws: a change that leaves most of a configuration alone costs less, and changes nothing."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.daemon.assignment import Assignment, wanted_checks
from lbctl.health.judge import Health
from lbctl.model import AgentProbe, Check, Config, ServerName, Service, TcpProbe, Timing
from lbctl.world import Admin, Order, Sighting, World, agents, server_names, targets
from tests.unit.daemon.stand import config, service

checks = st.none() | st.builds(
    Check, st.just(TcpProbe()), st.sampled_from([Timing(), Timing(interval=9.0)])
)
asked = st.none() | st.builds(
    Check, st.just(AgentProbe("lbctl")), st.just(Timing()), st.sampled_from([3, 4])
)


@st.composite
def services(draw, number: int) -> Service:
    numbers = draw(st.lists(st.integers(1, 4), unique=True, max_size=3))
    one = service(*numbers, listens=f"192.0.2.{number}:80/tcp", weight=draw(st.integers(0, 2)))
    return replace(one, check=draw(checks), agent=draw(asked))


@st.composite
def configs(draw) -> Config:
    names = draw(st.permutations(["web", "mail", "dns"]))[: draw(st.integers(1, 3))]
    return config(**{name: draw(services(10 + len(name))) for name in names})


@st.composite
def changes(draw) -> list[Config]:
    """Configurations that follow one another: some have little to do with the one before,
    most change one service of it."""
    found = [draw(configs())]
    for _ in range(draw(st.integers(1, 4))):
        last = found[-1]
        name = draw(st.sampled_from(sorted(last.services)))
        heavier = {
            key: replace(one, weight=one.weight + 1)
            for key, one in last.services[name].servers.items()
        }
        kind = draw(st.integers(0, 3))
        if kind == 0:
            found.append(draw(configs()))
        else:
            other = (
                draw(services(10 + len(name)))
                if kind == 1
                else replace(last.services[name], servers=heavier)
            )
            found.append(replace(last, services={**last.services, name: other}))
    return found


@given(changes(), st.data())
@settings(deadline=None)
def test_facts_are_about_what_there_is_whatever_was_changed(history, data) -> None:
    first, *later = history
    world, told = World(first), Assignment()
    jobs = {one.id: (one.endpoint, one.timing) for one in told.whole(world, 0.0).start}
    for new in later:
        for name in server_names(world.config):
            if data.draw(st.booleans()):
                world.orders[name] = Order(data.draw(st.sampled_from(Admin)), 0.0, 300.0)
        for _, target in (*targets(world.config), *agents(world.config)):
            world.see(target, Sighting(data.draw(st.sampled_from(Health))))
        trial = world.copy()
        trial.reconfigure(new, 0.0)
        world = trial
        fresh = World(new)
        known = {target for _, target in (*targets(new), *agents(new))}
        assert world.sightings.keys() <= known
        assert world.orders.keys() <= set(server_names(new))
        assert all(world.checked(one) == fresh.checked(one) for one in known)
        assert all(world.asked(one) == fresh.asked(one) for one in known)
        if (change := told.change(world, 0.0)) is not None:
            jobs = {number: job for number, job in jobs.items() if number not in change.cancel}
            jobs |= {one.id: (one.endpoint, one.timing) for one in change.start}
        wanted = wanted_checks(world, 0.0)
        assert sorted((str(t.endpoint), timing) for t, timing in wanted.items()) == sorted(
            jobs.values()
        )


def test_a_weight_leaves_what_is_checked_as_it_was() -> None:
    world = World(config(web=service(1, 2), mail=service(3, listens="192.0.2.11:80/tcp")))
    asking = world.asking
    world.orders[ServerName("web", "app1")] = Order(Admin.DRAIN, 0.0, 300.0)
    web = service(1, 2, weight=5)
    assert world.reconfigure(
        replace(world.config, services={**world.config.services, "web": web}), 0.0
    ) == {"web"}
    assert world.asking is asking
    assert ServerName("web", "app1") in world.orders
