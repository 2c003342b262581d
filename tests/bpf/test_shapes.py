"""The verifier takes the program in every shape that a pair of features makes."""

from itertools import combinations, product
from pathlib import Path

import pytest

from lbctl.dataplane.xdp import bpf, maps
from lbctl.dataplane.xdp.loader import compile_program
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.shape import Feature, Shape, flatten, source_directory

pytestmark = pytest.mark.kernel

F = Feature
NEED_FLOWS = (F.LOADS, F.PERSISTENCE)  # these are never without
SHAPES = [
    frozenset[Feature](),
    frozenset(Feature),
    frozenset({F.FLOWS, F.LOADS, F.DIRECT}),
    frozenset({F.FLOWS, F.LOADS, F.IPV6}),
    frozenset({F.FLOWS, F.PERSISTENCE, F.IPV6, F.DIRECT}),
    frozenset({F.FLOWS, F.PERSISTENCE, F.VLAN}),
    frozenset({F.FLOWS, F.LOADS, F.PERSISTENCE}),
    frozenset({F.FLOWS, F.LOADS, F.VLAN}),
    frozenset({F.IPV6, F.VLAN, F.DIRECT}),
    frozenset({F.IPV6}),
    frozenset({F.VLAN}),
    frozenset({F.DIRECT}),
    frozenset({F.FENCE}),
]


def test_these_cover_all_pairs() -> None:
    for first, second in combinations(Feature, 2):
        for with_first, with_second in product((False, True), repeat=2):
            chosen = {f for f, used in ((first, with_first), (second, with_second)) if used}
            without = {first, second} - chosen
            if F.FLOWS in without and chosen & set(NEED_FLOWS):
                continue  # cannot be
            assert any(chosen <= shape and not without & shape for shape in SHAPES), (
                f"no shape with {chosen} and without {without}"
            )
    for shape in SHAPES:
        assert F.FLOWS in shape or not shape & set(NEED_FLOWS)


@pytest.fixture(scope="module")
def some_maps(shared_pins: Path) -> Maps:
    maps.create(shared_pins, 1024)
    return Maps(shared_pins)


ROOM = 600_000  # of the verifier's million steps: what the largest shape may take (ADR 4)


def test_the_verifier_has_room(some_maps: Maps) -> None:
    source = flatten(source_directory(), "lb.c")
    program = compile_program(source, "lb", some_maps.fds, Shape(frozenset(Feature)))
    steps = bpf.verified(program)
    program.close()
    assert 10_000 < steps < ROOM


@pytest.mark.parametrize("features", SHAPES, ids=lambda one: "+".join(sorted(one)) or "nothing")
def test_it_loads(some_maps: Maps, features: frozenset[Feature]) -> None:
    source = flatten(source_directory(), "lb.c")
    compile_program(source, "lb", some_maps.fds, Shape(features)).close()
