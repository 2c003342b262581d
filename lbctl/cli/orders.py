"""`drain`, `maint`, `ready`: what a person wants of a server, and waiting until it is so."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from lbctl.cli.client import NOT_FOUND, ApiError, Client
from lbctl.cli.shared import (
    SECONDS,
    Change,
    Context,
    TimedOut,
    change_options,
    pass_context,
    refused,
    refused_of,
    show_outcome,
)
from lbctl.errors import Exit

POLL = 0.5  # seconds

target_argument = click.argument("target", metavar="SERVICE[/SERVER]")
wait_option = click.option("--wait", is_flag=True, help="Until no connection is left.")
timeout_option = click.option(
    "--timeout", type=SECONDS, help="Seconds to wait; without it, as long as it takes."
)


@click.command()
@target_argument
@wait_option
@timeout_option
@change_options
@pass_context
def drain(context: Context, target: str, wait: bool, timeout: float | None, change: Change) -> None:
    """Give a server, or all of a service, no new flows; those that are there finish."""
    order(context, target, "drain", "draining", change, wait, timeout)


@click.command()
@target_argument
@wait_option
@timeout_option
@change_options
@pass_context
def maint(context: Context, target: str, wait: bool, timeout: float | None, change: Change) -> None:
    """Like drain, and not checked any more."""
    order(context, target, "maint", "in maintenance", change, wait, timeout)


@click.command()
@target_argument
@change_options
@pass_context
def ready(context: Context, target: str, change: Change) -> None:
    """Lift drain and maint: checks and weights decide again."""
    order(context, target, "ready", "ready", change)


def order(
    context: Context,
    target: str,
    admin: str,
    done: str,
    change: Change,
    wait: bool = False,
    timeout: float | None = None,
) -> None:
    body = change.body(target=target, admin=admin)
    outcome = context.client.post("orders", body=body)
    show_outcome(context, outcome, f"{target}: {done}")
    if wait and not change.dry_run:
        ours = refused_of(context.client, outcome) if outcome["refused"] else set()
        wait_until_empty(context, target, timeout)
        if ours and ours & refused(context.client).keys():
            raise SystemExit(Exit.PARTIAL)
    elif outcome["refused"]:
        raise SystemExit(Exit.PARTIAL)


# --- waiting ----------------------------------------------------------------------------


def wait_until_empty(context: Context, target: str, timeout: float | None) -> None:
    """Return when no connection is left on what is drained of `target` now. Raises TimedOut
    where time is up first, a server is drained no longer, or one is gone with connections that
    it had still."""
    end = None if timeout is None else time.monotonic() + timeout
    before: dict[str, int] = {}
    estimated = False  # of some server the last number that was not zero was one
    with _shown(target, context.json) as show:
        while True:
            mine = _rows(context.client, target, before)
            _mind_lifted(mine)
            _mind_given_up(mine, before)
            left, unknown = _remaining(mine)
            estimated |= any(row["connections_from"] == "estimate" for row in mine)
            show(_words(left, unknown, estimated), left, unknown)
            if left == 0 and not unknown:
                return
            if end is not None and time.monotonic() >= end:
                raise _too_late(target, left, unknown, timeout)
            time.sleep(POLL)


def _rows(client: Client, target: str, before: dict[str, int]) -> list[dict[str, Any]]:
    """What is waited for. before: as in `_mind_given_up`; who came since was never drained."""
    service, _, server = target.partition("/")
    try:
        rows = client.get("servers", service=service, fresh="1")
    except ApiError as error:
        if error.status == NOT_FOUND and before:
            return []  # the service was removed meanwhile
        raise
    mine = [row for row in rows if not server or row["name"] == target]
    return [row for row in mine if not before or row["name"] in before]


def _mind_lifted(rows: list[dict[str, Any]]) -> None:
    """Raise TimedOut where a server may take new flows again, however few it has just now."""
    for row in rows:
        if row["admin"] == "ready" and row["rule"] != "leaving":
            raise TimedOut(
                f"{row['name']}: is drained no longer: it may take new flows again",
                "`lbctl get events` says who lifted the drain, or that its time was over",
            )


def _mind_given_up(rows: list[dict[str, Any]], before: dict[str, int]) -> None:
    """Raise TimedOut where a server was taken out, or has gone altogether, with connections
    that it had still.

    before: connections of each at the last look; brought up to date.
    """
    now = {row["name"]: row for row in rows}
    for name, left in before.items():
        row = now.get(name)
        out = row is not None and row["weight"] is None and row["rule"] in ("admin", "leaving")
        if left and (row is None or out):
            why = "it was removed" if row is None else "its drain timeout passed"
            raise TimedOut(f"{name}: {why}: up to {left} connections were given up")
    before.clear()
    before.update({name: row["connections"] or 0 for name, row in now.items()})


def _remaining(rows: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Connections that are known to remain, and the servers of which nobody knows. A server
    that the data path does not hold any more has none."""
    held = [row for row in rows if row["weight"] is not None]
    unknown = [row["name"] for row in held if row["connections"] is None]
    return sum(row["connections"] or 0 for row in held), unknown


def _too_late(target: str, left: int, unknown: list[str], timeout: float | None) -> TimedOut:
    what = f"{left} connections remain" if left else "its connections cannot be counted"
    return TimedOut(f"{target}: after {timeout:g} s {what}; it goes on draining")


Show = Callable[[str, int, list[str]], None]  # words, and what a bar is drawn from


@contextmanager
def _shown(target: str, as_json: bool) -> Iterator[Show]:
    """A bar for whoever watches, a line per change for a log, nothing for a program."""
    if as_json:
        yield lambda words, left, unknown: None
    elif sys.stderr.isatty():
        with _bar(target) as show:
            yield show
    else:
        yield _lines(target)


def _lines(target: str) -> Show:
    last: list[str] = []

    def show(text: str, left: int, unknown: list[str]) -> None:
        if text not in last[-1:]:
            last.append(text)
            click.echo(f"{target}: {text}", err=True)

    return show


@contextmanager
def _bar(target: str) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(target, total=None)
        most = 0

        def show(words: str, left: int, unknown: list[str]) -> None:
            nonlocal most
            most = max(most, left)
            text = f"{target}: {words}"
            total = None if unknown else max(most, 1)
            progress.update(task, description=text, total=total, completed=max(most, 1) - left)

        yield show


def _words(left: int, unknown: list[str], estimated: bool) -> str:
    if unknown:
        waits = ", ".join(unknown)
        return f"{left} connections known; waits for the drain timeout of {waits}"
    if estimated:  # nobody remembers these flows: only their silence says that they are over
        few = f"about {left} connections remain (an estimate); waits for silence (drain.quiet)"
        return few if left else "no packet of an old connection came for drain.quiet"
    return f"{left} connections remain" if left else "no connection is left"
