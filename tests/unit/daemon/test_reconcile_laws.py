"""Whatever happens, in whatever order: looking only at what was marked ends where looking at
everything does, and the data path holds what follows from the facts."""

from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from lbctl.desired import desired
from lbctl.health.judge import Health
from lbctl.world import Admin, World

from .stand import Stand, config, service

SERVICES = ("web", "dns", "mail")
servers = st.lists(st.integers(1, 4), unique=True, min_size=1, max_size=4)


@st.composite
def configs(draw):
    """Up to three services on their own or on swapped listens, sharing servers."""
    places = draw(st.permutations(["192.0.2.10:80/tcp", "192.0.2.11:80/tcp", "192.0.2.10:53/udp"]))
    chosen = draw(st.lists(st.sampled_from(SERVICES), unique=True, max_size=3))
    return config(
        **{
            name: service(*draw(servers), listens=place, weight=draw(st.integers(0, 2)))
            for name, place in zip(chosen, places, strict=False)
        }
    )


events = st.one_of(
    st.tuples(st.just("take"), configs()),
    st.tuples(st.just("see"), st.integers(0, 11), st.sampled_from(list(Health))),
    st.tuples(
        st.just("order"),
        st.integers(0, 11),
        st.sampled_from([Admin.DRAIN, Admin.MAINT]),
        st.sampled_from([5.0, 50.0, 500.0]),
    ),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 70.0, 400.0])),
)


def happen(a: Stand, event: tuple) -> None:
    names = [
        f"{name}/{key}" for name, one in a.world.config.services.items() for key in one.servers
    ]
    match event:
        case "take", new:
            a.take(new)
        case "see", number, health if names:
            a.see(names[number % len(names)], health)
        case "order", number, admin, deadline if names:
            a.order(names[number % len(names)], admin, deadline)
        case "wait", seconds:
            a.at(a.now + seconds)


def decided(a: Stand) -> dict[str, set]:
    """As sets: a file that only puts servers in another order says nothing new."""
    return {name: set(decisions) for name, decisions in a.reconciler.decisions.items()}


@settings(max_examples=150, deadline=None)
@given(configs(), st.lists(events, max_size=12))
def test_looking_at_what_was_marked_is_as_good_as_looking_at_everything(first, story) -> None:
    marked, everything = Stand(World(first)), Stand(World(first))
    for event in [("wait", 0.0), *story]:
        everything.reconciler.doubt()
        happen(marked, event)
        happen(everything, event)
        assert marked.reconciler.held.table == everything.reconciler.held.table
        assert marked.plane.observe() == desired(marked.world, marked.now)
        assert marked.reconciler.held.table == marked.plane.observe()
        assert marked.reconciler.held.vips == marked.vips.held()
        assert decided(marked) == decided(everything)


@settings(max_examples=100, deadline=None)
@given(configs(), st.lists(events, max_size=8), st.integers(0, 2**16 - 1))
def test_refusals_pass_and_then_everything_is_as_wanted(first, story, luck) -> None:
    a = Stand(World(first))
    a.plane.refuses = lambda op: (crc32(str(op).encode()) ^ luck) & 0xFF > 64
    for event in [("wait", 0.0), *story]:
        happen(a, event)
        assert a.reconciler.held.table == a.plane.observe()
    a.plane.refuses = lambda op: False
    a.at(a.now + 60.0)
    assert a.plane.observe() == desired(a.world, a.now)
    assert not a.reconciler.stuck
