"""`stats` and `monitor`."""

import time
from collections.abc import Mapping
from typing import Any

import click

from lbctl.cli.ask import event_line
from lbctl.cli.output import number, show_json, table
from lbctl.cli.shared import SECONDS, Context, json_option, pass_context

HEAD = ("NAME", "ACTIVE", "CONN/S", "PKT/S IN", "OUT", "BYTE/S IN", "OUT", "CONNS")


@click.command()
@click.argument("service", required=False)
@click.option(
    "--interval",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="Seconds; 0: totals only.",
)
@json_option
@pass_context
def stats(context: Context, service: str | None, interval: float) -> None:
    """Connections, packets and bytes: per second over an interval, and in all."""
    query = {} if service is None else {"service": service}
    before = context.client.get("stats", **query) if interval > 0 else None
    if before is not None:
        time.sleep(interval)
    after = context.client.get("stats", **query)
    seconds = after["at"] - before["at"] if before is not None else 0.0
    speeds = _speeds(before or after, after, seconds)
    if context.json:
        return show_json({**after, "seconds": seconds, "rates": speeds})
    rows = [
        _row(name, after[kind][name], speeds[kind][name])
        for name in after["services"]
        for kind, name in _under(name, after)
    ]
    click.echo(table(HEAD, rows, right=range(1, len(HEAD))))
    verdicts = [
        (name, number(total), number(speeds["verdicts"][name]))
        for name, total in after["verdicts"].items()
        if total
    ]
    if verdicts:
        click.echo()
        click.echo(table(("VERDICT", "PACKETS", "PER SECOND"), verdicts, right=(1, 2)))
    return None


@click.command()
@click.option("--after", type=int, help="Begin after this number; 0: with the oldest kept.")
@json_option
@pass_context
def monitor(context: Context, after: int | None) -> None:
    """Events as they happen, until interrupted."""
    if after is None:
        kept = context.client.get("events")
        after = kept[-1]["number"] if kept else 0
    try:
        for record in context.client.stream("events", follow="1", after=str(after)):
            if context.json:
                import json

                click.echo(json.dumps(record, ensure_ascii=False))
            else:
                click.echo(event_line(record))
    except KeyboardInterrupt:
        return


def _under(service: str, answer: dict[str, Any]) -> list[tuple[str, str]]:
    """A service, and its servers below it."""
    below = [name for name in answer["servers"] if name.startswith(f"{service}/")]
    return [("services", service), *(("servers", name) for name in below)]


def _row(name: str, sums: dict[str, Any], speed: Mapping[str, float]) -> tuple[object, ...]:
    return (
        f"  {name.partition('/')[2]}" if "/" in name else name,
        sums["established"],
        number(speed["connections"]),
        number(speed["packets_in"]),
        number(speed["packets_out"]),
        number(speed["bytes_in"]),
        number(speed["bytes_out"]),
        number(sums["connections"]),
    )


def _speeds(before: dict[str, Any], after: dict[str, Any], seconds: float) -> dict[str, Any]:
    from lbctl.stats.rates import rates

    def of(kind: str) -> dict[str, dict[str, float]]:
        return {
            name: rates(_counted(before[kind].get(name, {})), _counted(sums), seconds)
            for name, sums in after[kind].items()
        }

    return {
        "services": of("services"),
        "servers": of("servers"),
        "verdicts": rates(before["verdicts"], after["verdicts"], seconds),
    }


def _counted(sums: dict[str, Any]) -> dict[str, float]:
    """Those that only grow."""
    kinds = ("connections", "packets_in", "packets_out", "bytes_in", "bytes_out")
    return {kind: sums[kind] for kind in kinds if kind in sums}
