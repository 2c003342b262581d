"""`validate`, `apply`, `diff`, `rollback`, `export`: verbs about whole files."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from lbctl.cli.client import Client
from lbctl.cli.output import show_json
from lbctl.cli.shared import (
    SECONDS,
    Context,
    TimedOut,
    json_option,
    pass_context,
    refused,
    report,
    show_outcome,
)
from lbctl.configfile import read_file
from lbctl.errors import Exit
from lbctl.model import Datapath

LARGEST = 8 << 20  # as lbctl.config.MAX_BYTES, which is not imported to ask a daemon
POLL = 0.25  # seconds
ADD = ": add service"  # of the operation that makes a listen

maybe_file = click.argument("file", type=click.Path(path_type=Path), required=False)
dry_run = click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")


@click.command()
@maybe_file
@click.option("--node", help="Whose values of a file for several gateways.")
@click.option(
    "--datapath",
    type=click.Choice([str(one) for one in Datapath]),
    default=str(Datapath.AUTO),
    help="Whether this one can do all of it; auto: that of the file.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of such files, for editors.")
@json_option
@pass_context
def validate(
    context: Context, file: Path | None, node: str | None, datapath: str, schema: bool
) -> None:
    """Check FILE, whole; needs neither a daemon nor root."""
    from lbctl.config import json_schema, parse
    from lbctl.vrrp.realtime import jiffy

    if schema:
        return show_json(json_schema())
    if file is None:
        raise click.UsageError("name a FILE, or --schema")
    data = read_file(file, LARGEST)
    parsed = parse(data, str(file), node=node, datapath=Datapath(datapath), tick=jiffy())
    services = parsed.config.services
    servers = sum(len(service.servers) for service in services.values())
    if context.json:
        answer = {"services": len(services), "servers": servers, "warnings": parsed.warnings}
        return show_json(answer)
    for line in parsed.warnings:
        click.echo(f"warning: {line}", err=True)
    return click.echo(f"{file}: good ({len(services)} services, {servers} servers)")


@click.command()
@maybe_file
@dry_run
@click.option(
    "--wait", is_flag=True, help="Until every server has a verdict and nothing is refused."
)
@click.option("--timeout", type=SECONDS, default=60.0, show_default=True, help="Seconds to wait.")
@click.option("--pair", is_flag=True, help="On both gateways of a pair, or on neither.")
@json_option
@pass_context
def apply(
    context: Context, file: Path | None, dry_run: bool, wait: bool, timeout: float, pair: bool
) -> None:
    """Run FILE, or the daemon's own file again: whole, or not at all."""
    client = context.client
    if file is None and pair:
        raise click.UsageError("--pair: name the FILE that both gateways are to run")
    waits = wait and not dry_run
    before = refused(client) if waits else {}
    if file is None:
        outcome = client.post("reload", body={"dry_run": dry_run})
        name = "the daemon's own file"
    else:
        name = str(file)
        query = {"name": name, **({"dry_run": "1"} if dry_run else {})}
        query |= {"pair": "1"} if pair else {}
        outcome = client.send("apply", data=read_file(file, LARGEST), **query)
    show_outcome(context, outcome, f"{name} runs as generation {outcome['generation']}")
    left = outcome["refused"]
    if waits:
        old = {one for one, error in before.items() if error not in outcome["refused"]}
        left = _wait_until_settled(client, old, timeout)
    if left:
        raise SystemExit(Exit.PARTIAL)


@click.command()
@maybe_file
@json_option
@pass_context
def diff(context: Context, file: Path | None) -> None:
    """What is wanted against what the kernel holds; or FILE against what runs.

    Ends with 1 where they differ.
    """
    if file is None:
        answer = context.client.get("diff")
        lines = answer["operations"]
    else:
        answer = context.client.send("diff", data=read_file(file, LARGEST), name=str(file))
        lines = [*(f"config: {line}" for line in answer["changes"]), *answer["operations"]]
    if context.json:
        show_json(answer)
    elif lines:
        click.echo("\n".join(lines))
    for one in answer.get("foreign", ()) if not context.json else ():
        click.echo(f"{one}: another tool's, and left alone", err=True)
    if lines:
        raise SystemExit(Exit.FAILED)


@click.command()
@click.option("--to", type=int, help="A generation of `lbctl get generations`.")
@dry_run
@json_option
@pass_context
def rollback(context: Context, to: int | None, dry_run: bool) -> None:
    """Run the generation before this one again. Live changes stay on top."""
    outcome = context.client.post("rollback", body={"to": to, "dry_run": dry_run})
    report(context, outcome, f"generation {outcome['generation']} runs")


@click.command()
@click.option("--source", is_flag=True, help="The text that was taken, without live changes.")
@json_option
@pass_context
def export(context: Context, source: bool) -> None:
    """Print what runs, live changes included, as a file that `lbctl apply` takes."""
    text = context.client.text("config", **({"source": "1"} if source else {}))
    return show_json({"config": text}) if context.json else click.echo(text, nl=False)


def _wait_until_settled(client: Client, old: set[str], timeout: float) -> list[str]:
    """Until every verdict is there and what follows from it is done; returns what is refused
    when time is up. old: operations that were refused before this change."""
    end = time.monotonic() + timeout
    while True:
        pending = [row["name"] for row in client.get("servers") if _pending(row)]
        # Asks the data path, so whatever a verdict began has ended, and is done or refused.
        wanted = [] if pending else client.get("diff")["operations"]
        now = refused(client)
        left = [error for operation, error in now.items() if operation not in old]
        late = time.monotonic() >= end
        if pending and late:
            names = ", ".join(pending[:5])
            raise TimedOut(f"after {timeout:g} s there is no verdict yet on {names}")
        if late or not (pending or left or _undone(wanted, now)):
            return left
        time.sleep(POLL)


def _undone(operations: list[str], refused: Collection[str]) -> bool:
    """Whether something is to be done that is not refused, by itself or with its listen."""
    listens = tuple(f"{one.partition(ADD)[0]}: " for one in refused if ADD in one)
    return any(one not in refused and not one.startswith(listens) for one in operations)


def _pending(row: dict[str, Any]) -> bool:
    unjudged: bool = row["health"] == "unknown" and row["admin"] != "maint"
    enters: bool = row["rule"] == "newcomer" and row["health"] == "up"
    return enters or (unjudged and row["rule"] != "leaving")
