"""`drain --wait` against a daemon whose answers are written down: when it ends, and how."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from lbctl.cli import orders
from lbctl.cli.client import Client
from lbctl.cli.orders import wait_until_empty
from lbctl.cli.shared import Context, TimedOut
from lbctl.errors import Exit

Row = dict[str, Any]


def row(name: str, connections: int | None, **other: object) -> Row:
    """A server that is draining."""
    usual = {"connections_from": "records", "admin": "drain", "rule": "admin", "weight": 0}
    return {"name": f"web/{name}", "connections": connections, **usual, **other}


def lifted(name: str, connections: int) -> Row:
    return row(name, connections, admin="ready", rule="weight", weight=1)


class Answers:
    """Tells of the servers what is next on the list; asking once more is a fault."""

    def __init__(self, looks: Sequence[Sequence[Row]]) -> None:
        self._looks: Iterator[Sequence[Row]] = iter(looks)

    def get(self, *parts: str, **query: str) -> Sequence[Row]:
        assert (parts, query) == (("servers",), {"service": "web", "fresh": "1"})
        return next(self._looks)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "POLL", 0.0)


def wait(target: str, *looks: Sequence[Row]) -> None:
    context = Context(cast(Client, Answers(looks)), json=True)
    wait_until_empty(context, target, timeout=60.0)


@pytest.mark.parametrize("left", [40, 0])
def test_a_drain_that_was_lifted_is_not_waited_for_and_never_done(left: int) -> None:
    with pytest.raises(TimedOut, match="web/app1: is drained no longer") as caught:
        wait("web/app1", [row("app1", 40)], [lifted("app1", left)])
    assert caught.value.exit_code is Exit.TIMEOUT
    assert "get events" in caught.value.hint


def test_one_of_several_that_was_lifted_is_named() -> None:
    with pytest.raises(TimedOut, match="web/app2: is drained no longer"):
        wait("web", [row("app1", 3), row("app2", 0)], [row("app1", 3), lifted("app2", 0)])


def test_maintenance_in_place_of_drain_is_waited_for() -> None:
    wait("web/app1", [row("app1", 3)], [row("app1", 1, admin="maint")], [row("app1", 0)])


def test_a_server_that_is_removed_finishes_its_flows_as_one_that_drains() -> None:
    leaving = row("app1", 3, admin="ready", rule="leaving")
    wait("web/app1", [row("app1", 3)], [leaving], [{**leaving, "connections": 0}])


def test_a_server_that_came_meanwhile_was_never_drained() -> None:
    wait("web", [row("app1", 3)], [row("app1", 1), lifted("app9", 7)], [row("app1", 0)])


def test_a_server_that_is_down_and_drained_has_nothing_left() -> None:
    wait("web/app1", [row("app1", 3, rule="health", weight=None)])
