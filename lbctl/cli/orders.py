"""`drain`, `maint`, `ready`: what a person wants of a server, and waiting until it is so."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from lbctl.cli.shared import Change, Context, change_options, pass_context, report
from lbctl.errors import Exit

POLL = 0.5  # seconds

target_argument = click.argument("target", metavar="SERVICE[/SERVER]")
wait_option = click.option("--wait", is_flag=True, help="Until no connection is left.")
timeout_option = click.option(
    "--timeout", type=float, help="Seconds to wait; without it, as long as it takes."
)


@click.command()
@target_argument
@wait_option
@timeout_option
@change_options
@pass_context
def drain(context: Context, target: str, wait: bool, timeout: float | None, change: Change) -> None:
    """Give a server, or all of a service, no new flows; those that are there finish."""
    order(context, target, "drain", "draining", change)
    if wait and not change.dry_run:
        wait_until_empty(context, target, timeout)


@click.command()
@target_argument
@wait_option
@timeout_option
@change_options
@pass_context
def maint(context: Context, target: str, wait: bool, timeout: float | None, change: Change) -> None:
    """Like drain, and not checked any more."""
    order(context, target, "maint", "in maintenance", change)
    if wait and not change.dry_run:
        wait_until_empty(context, target, timeout)


@click.command()
@target_argument
@change_options
@pass_context
def ready(context: Context, target: str, change: Change) -> None:
    """Lift drain and maint: checks and weights decide again."""
    order(context, target, "ready", "ready", change)


def order(context: Context, target: str, admin: str, done: str, change: Change) -> None:
    body = change.body(target=target, admin=admin)
    report(context, context.client.post("orders", body=body), f"{target}: {done}")


# --- waiting ----------------------------------------------------------------------------


def wait_until_empty(context: Context, target: str, timeout: float | None) -> None:
    """Return when no connection is left on `target`; exit with 8 where time is up first."""
    service, _, server = target.partition("/")
    end = None if timeout is None else time.monotonic() + timeout
    before: dict[str, int] = {}
    with _shown(target, context.json) as show:
        while True:
            rows = context.client.get("servers", service=service, fresh="1")
            mine = [row for row in rows if not server or row["name"] == target]
            _mind_given_up(mine, before)
            left, unknown = _remaining(mine)
            show(left, unknown)
            if left == 0 and not unknown:
                return
            if end is not None and time.monotonic() >= end:
                _give_up(target, left, unknown, timeout)
            time.sleep(POLL)


def _mind_given_up(rows: list[dict[str, Any]], before: dict[str, int]) -> None:
    """Exit with 8 where a server was taken out with connections that it had still.

    before: connections of each at the last look; brought up to date.
    """
    for row in rows:
        left = before.get(row["name"], 0)
        if row["weight"] is None and row["rule"] in ("admin", "leaving") and left:
            text = f"its drain timeout passed: up to {left} connections were given up"
            click.echo(f"lbctl: {row['name']}: {text}", err=True)
            raise SystemExit(Exit.TIMEOUT)
        before[row["name"]] = row["connections"] or 0


def _remaining(rows: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Connections that are known to remain, and the servers of which nobody knows. A server
    that the data path does not hold any more has none."""
    held = [row for row in rows if row["weight"] is not None]
    unknown = [row["name"] for row in held if row["connections"] is None]
    return sum(row["connections"] or 0 for row in held), unknown


def _give_up(target: str, left: int, unknown: list[str], timeout: float | None) -> None:
    what = f"{left} connections remain" if left else "its connections cannot be counted"
    click.echo(f"lbctl: {target}: after {timeout:g} s {what}; it goes on draining", err=True)
    raise SystemExit(Exit.TIMEOUT)


Show = Callable[[int, list[str]], None]


@contextmanager
def _shown(target: str, as_json: bool) -> Iterator[Show]:
    """A bar for whoever watches, a line per change for a log, nothing for a program."""
    if as_json:
        yield lambda left, unknown: None
    elif sys.stderr.isatty():
        with _bar(target) as show:
            yield show
    else:
        yield _lines(target)


def _lines(target: str) -> Show:
    last: list[str] = []

    def show(left: int, unknown: list[str]) -> None:
        text = _words(left, unknown)
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

        def show(left: int, unknown: list[str]) -> None:
            nonlocal most
            most = max(most, left)
            text = f"{target}: {_words(left, unknown)}"
            total = None if unknown else max(most, 1)
            progress.update(task, description=text, total=total, completed=max(most, 1) - left)

        yield show


def _words(left: int, unknown: list[str]) -> str:
    if unknown:
        waits = ", ".join(unknown)
        return f"{left} connections known; waits for the drain timeout of {waits}"
    return f"{left} connections remain" if left else "no connection is left"
