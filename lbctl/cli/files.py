"""`validate`, `apply`, `diff`, `rollback`, `export`: verbs about whole files."""

import time
from pathlib import Path
from typing import Any

import click

from lbctl.cli.client import Client, read_file
from lbctl.cli.output import show_json
from lbctl.cli.shared import Context, json_option, pass_context, report
from lbctl.errors import Exit
from lbctl.model import Datapath

LARGEST = 8 << 20  # as lbctl.config.MAX_BYTES, which is not imported to ask a daemon
POLL = 0.25  # seconds

file_argument = click.argument("file", type=click.Path(path_type=Path))
maybe_file = click.argument("file", type=click.Path(path_type=Path), required=False)
dry_run = click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing.")


@click.command()
@file_argument
@click.option("--node", help="Whose values of a file for several gateways.")
@click.option(
    "--datapath",
    type=click.Choice([str(one) for one in Datapath]),
    default=str(Datapath.AUTO),
    help="Whether this one can do all of it; auto: that of the file.",
)
@json_option
@pass_context
def validate(context: Context, file: Path, node: str | None, datapath: str) -> None:
    """Check FILE, whole; needs neither a daemon nor root."""
    from lbctl.config import parse

    data = read_file(file, LARGEST)
    parsed = parse(data, str(file), node=node, datapath=Datapath(datapath))
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
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait.")
@json_option
@pass_context
def apply(context: Context, file: Path | None, dry_run: bool, wait: bool, timeout: float) -> None:
    """Run FILE, or the daemon's own file again: whole, or not at all."""
    client = context.client
    if file is None:
        outcome = client.post("reload", body={"dry_run": dry_run})
        name = "the daemon's own file"
    else:
        name = str(file)
        query = {"name": name, **({"dry_run": "1"} if dry_run else {})}
        outcome = client.send("apply", data=read_file(file, LARGEST), **query)
    if wait and not dry_run and not outcome["refused"]:
        _wait_until_settled(client, timeout)
    report(context, outcome, f"{name} runs as generation {outcome['generation']}")


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


def _wait_until_settled(client: Client, timeout: float) -> None:
    end = time.monotonic() + timeout
    while pending := [row["name"] for row in client.get("servers") if _pending(row)]:
        if time.monotonic() > end:
            names = ", ".join(pending[:5])
            click.echo(f"lbctl: after {timeout:g} s there is no verdict yet on {names}", err=True)
            raise SystemExit(Exit.TIMEOUT)
        time.sleep(POLL)


def _pending(row: dict[str, Any]) -> bool:
    unjudged: bool = row["health"] == "unknown" and row["admin"] != "maint"
    return unjudged and row["rule"] != "leaving"
