"""What a gateway takes over from its peer, on every data path that can: rings slot for slot,
remembered flows, and the hash key that gives both their meaning."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from stands import KINDS, Kind, shares
from test_port import APP1, APP2, APP3, RR, WEB, have, web

from lbctl.dataplane.port import DataPlane, Flow, Kept, Replicates, RingCopy
from lbctl.errors import DataPlaneError
from lbctl.model import Scheduler, Table

MH = replace(RR, scheduler=Scheduler("mh"))
SHARING = [kind for kind in KINDS if kind.name != "ipvs"]


class Both(DataPlane, Replicates):
    """A data path that replicates."""


@pytest.fixture(params=[pytest.param(k, id=k.name, marks=k.marks) for k in SHARING])
def plane(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Both]:
    kind: Kind = request.param
    if why := kind.missing():
        pytest.skip(f"{kind.name}: {why}")
    with shares(kind)(tmp_path) as opens:
        plane = opens()
        assert isinstance(plane, Replicates)
        yield plane
        plane.close()


def test_a_ring_is_what_the_peer_says_slot_for_slot(plane: Both) -> None:
    have(plane, web(MH, app1=1, app2=1))
    have(plane, web(MH, app1=1, app2=1, app3=1))  # a third of the slots change
    copy = plane.export_ring(WEB)
    assert copy.servers == (APP1, APP2, APP3)
    assert len(copy.slots) == len(copy.old) == 512
    assert sum(1 for old in copy.old if old) == pytest.approx(512 / 3, rel=0.1)
    have(plane, Table())
    plane.tend()
    plane.tend()
    have(plane, web(MH, app1=1, app2=1, app3=1))  # the same servers, without the past
    assert not plane.export_ring(WEB).same(copy)
    assert plane.import_ring(WEB, copy) > 0
    assert plane.export_ring(WEB).same(copy)
    assert plane.import_ring(WEB, copy) == 0


def test_a_replica_does_not_settle_by_itself(plane: Both) -> None:
    have(plane, web(MH, app1=1, app2=1, app3=1))
    ring = plane.export_ring(WEB)
    old = tuple(1 for _ in ring.old)  # all slots left app1, long ago
    copy = RingCopy(ring.servers, ring.slots, old, dict.fromkeys(range(512), 100_000.0))
    plane.import_ring(WEB, copy)
    plane.tend()
    assert plane.export_ring(WEB).same(copy)
    plane.own_rings([WEB])
    plane.tend()
    assert set(plane.export_ring(WEB).old) == {0}


def test_the_age_of_what_changes_is_kept(plane: Both) -> None:
    have(plane, web(MH, app1=1, app2=1, app3=1))
    ring = plane.export_ring(WEB)
    old = tuple(1 for _ in ring.old)
    plane.import_ring(WEB, RingCopy(ring.servers, ring.slots, old, dict.fromkeys(range(9), 400.0)))
    assert plane.export_ring(WEB).idle[8] == pytest.approx(400, abs=5)


def test_a_ring_with_a_server_that_is_not_here_is_refused(plane: Both) -> None:
    have(plane, web(MH, app1=1, app2=1, app3=1))
    copy = plane.export_ring(WEB)
    have(plane, web(MH, app1=1, app2=1))
    before = plane.export_ring(WEB)
    with pytest.raises(DataPlaneError, match=r"names 198\.51\.100\.3:80: not here yet"):
        plane.import_ring(WEB, copy)
    assert plane.export_ring(WEB).same(before)


def test_another_view_of_health_is_a_change_to_an_imported_ring(plane: Both) -> None:
    have(plane, web(MH, app1=1, app2=1, app3=1))
    copy = plane.export_ring(WEB)
    plane.import_ring(WEB, copy)
    plane.own_rings([WEB])
    have(plane, web(MH, app1=1, app2=1, app3=0))  # drains
    ring = plane.export_ring(WEB)
    for before, now, old in zip(copy.slots, ring.slots, ring.old, strict=True):
        assert old == (before if before != now else 0)


@pytest.mark.parametrize("kept", Kept)
def test_flow_changes_are_told_once(plane: Both, flow: Flow, kept: Kept) -> None:
    """Whatever is remembered: flows, ways back, and where clients go next (persistence)."""
    flow = replace(flow, kept=kept)
    have(plane, web(app1=1, app2=1))
    plane.flow_changes(whole=True)
    plane.import_flows([flow])
    (told,) = plane.flow_changes().fresh
    assert (told.place, told.server, told.confirmed, told.kept) == (flow.place, APP1, True, kept)
    assert (list(plane.flow_changes().fresh), list(plane.flow_changes().gone)) == ([], [])
    assert [f.place for f in plane.flow_changes(whole=True).fresh] == [flow.place]
    plane.forget_flows([flow.place])
    assert list(plane.flow_changes().gone) == [flow.place]
    assert list(plane.export_flows()) == []


@pytest.fixture
def flow(request: pytest.FixtureRequest) -> Flow:
    kind: Kind = request.node.callspec.params["plane"]
    assert kind.flow is not None
    return kind.flow(WEB, APP1)


def test_the_hash_key_is_taken_over_whole_or_not_at_all(plane: Both) -> None:
    key = plane.hash_key()
    other = bytes(byte ^ 1 for byte in key[:32]) + key[32:]
    plane.take_hash_key(other)
    assert plane.hash_key() == other
    with pytest.raises(DataPlaneError, match="flow cache"):
        plane.take_hash_key(key + b"x")
    assert plane.hash_key() == other
