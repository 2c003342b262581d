"""What is ours in a kernel's table: the intent, before, after and on disk."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipvs_tables import tables

from lbctl.dataplane.ipvs.intent import IntentFile
from lbctl.dataplane.ipvs.owned import Owned, after, claimed, parse, render, split
from lbctl.dataplane.plan import plan
from lbctl.dataplane.port import AddServer, RemoveServer, RemoveService, SetServer
from lbctl.errors import DataPlaneError
from lbctl.model import Destination, Endpoint, Forwarding, Listen, Mode, Table

HERE = ("boot-1", "net:[1]")
WEB = Listen.parse("192.0.2.10:80/tcp")
APP1 = Endpoint.parse("198.51.100.1:80")


def owner_of(table):
    return Owned({f: frozenset(s.destinations) for f, s in table.services.items()})


@settings(max_examples=25, deadline=None)
@given(tables(max_size=4))
def test_what_was_planned_and_done_is_ours(table):
    assert after(Owned(), plan(table, Table())) == owner_of(table)


@settings(max_examples=25, deadline=None)
@given(tables(max_size=4), tables(max_size=4))
def test_before_the_kernel_is_asked_nothing_is_given_up(goal, held):
    """Whatever the process dies on, no entry of ours is without an intent."""
    was, ops = owner_of(held), plan(goal, held)
    claim = claimed(was, ops)
    for done in range(len(ops) + 1):
        is_ours = after(was, ops[:done])
        for frontend, endpoints in is_ours.services.items():
            assert endpoints <= claim.services[frontend]


@settings(max_examples=25, deadline=None)
@given(tables(max_size=4), tables(max_size=4))
def test_a_kernels_table_is_split_without_loss(held, other):
    """Half of it ours: every service and server stands in one of the two tables."""
    owned = owner_of(other)
    ours, foreign = split(held, owned)
    for frontend, service in held.services.items():
        parts = [t.services[frontend] for t in (ours, foreign) if frontend in t.services]
        together = {e: d for part in parts for e, d in part.destinations.items()}
        assert together == service.destinations
        assert all(part.header() == service.header() for part in parts)
    assert all(owned.has(f, e) for f, s in ours.services.items() for e in s.destinations)
    assert not any(owned.has(f, e) for f, s in foreign.services.items() for e in s.destinations)


def test_full_nat_is_remembered_for_as_long_as_it_lasts():
    full, plain = (Destination(1, Forwarding(mode)) for mode in (Mode.FULLNAT, Mode.NAT))
    with_it = after(Owned(), [AddServer(WEB, APP1, full)])
    assert with_it.fullnat == {WEB}
    assert after(with_it, [SetServer(WEB, APP1, plain)]).fullnat == set()
    assert after(with_it, [RemoveService(WEB)]).fullnat == set()
    assert after(with_it, [RemoveServer(WEB, APP1)]).services == {WEB: frozenset()}


# --- on disk --------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(tables(max_size=4))
def test_it_is_read_back_as_written(table):
    owned = owner_of(table)
    assert parse(render(owned, HERE), HERE) == owned


def test_where_the_sync_daemon_was_started_is_kept():
    owned = Owned({WEB: frozenset()}, sync=("eth1", 8))
    assert parse(render(owned, HERE), HERE) == owned
    assert after(owned, [RemoveService(WEB)]).sync == ("eth1", 8)
    older = json.loads(render(owned, HERE))
    del older["sync"]
    assert parse(json.dumps(older), HERE).sync is None
    with pytest.raises(ValueError, match="not a list of what is ours"):
        parse(json.dumps({**older, "sync": 7}), HERE)


def test_in_another_boot_or_namespace_nothing_is_ours():
    text = render(Owned({WEB: frozenset({APP1})}), HERE)
    assert parse(text, ("boot-2", "net:[1]")) == Owned()
    assert parse(text, ("boot-1", "net:[2]")) == Owned()


@given(st.text(max_size=50) | st.just('{"place":["boot-1","net:[1]"],"services":[]}'))
def test_what_is_no_intent_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 -- JSON's own words
        parse(text, HERE)


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path):
    file = tmp_path / "ipvs.json"
    file.write_text("{")
    with pytest.raises(DataPlaneError, match=r"cannot read which IPVS services are ours") as error:
        IntentFile(file)
    assert "ipvsadm -Ln" in error.value.hint


def test_a_file_that_cannot_be_written_changes_nothing(tmp_path):
    intent = IntentFile(tmp_path / "missing" / "ipvs.json")
    (tmp_path / "missing").write_text("a file, where a directory should be")
    with pytest.raises(DataPlaneError, match="cannot write which IPVS services are ours"):
        intent.write(Owned({WEB: frozenset()}))
    assert intent.owned == Owned()


def test_the_file_is_whole_or_not_there(tmp_path):
    file = tmp_path / "ipvs.json"
    IntentFile(file).write(Owned({WEB: frozenset({APP1})}))
    assert json.loads(file.read_text())["services"] == {str(WEB): ["198.51.100.1 80"]}
    assert [one.name for one in tmp_path.iterdir()] == ["ipvs.json"]
    assert IntentFile(file).owned == Owned({WEB: frozenset({APP1})})
