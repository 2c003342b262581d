"""`lbctl trace`: one made-up packet through the loaded program."""

from typing import Any

import click

from lbctl.cli.output import fields, show_json, table
from lbctl.cli.shared import Context, json_option, pass_context


@click.command()
@click.option("--from", "source", required=True, metavar="ADDRESS:PORT", help="Who sends it.")
@click.option("--to", required=True, metavar="ADDRESS:PORT/PROTO", help="A VIP, or a client.")
@click.option("--flags", default="S", show_default=True, help="Of TCP, as tcpdump: S . F R P.")
@click.option("--seq", default=1, show_default=True, help="TCP's sequence number.")
@click.option("--ttl", default=64, show_default=True, help="TTL, or hop limit.")
@click.option("--size", default=0, show_default=True, help="Bytes of payload.")
@click.option("--in", "interface", default="", help="The interface; else the one it would take.")
@json_option
@pass_context
def trace(context: Context, /, **packet: object) -> None:
    """What the loaded program does with a packet: each decision, and the rewritten headers.

    The run is real, but the packet goes nowhere: it is counted, and what begins a flow may
    take a turn and be remembered as if it had come. A SYN moves no connection that lives; with
    --flags R or F, or as a server, it ends one whose flow is remembered, as its own RST or FIN
    would: use a port that nobody has.
    """
    answer = context.client.post("trace", body=packet)
    return show_json(answer) if context.json else _show(answer)


def _show(answer: dict[str, Any]) -> None:
    click.echo(answer["packet"])
    click.echo(fields([(f"  {step['at']}", step["found"]) for step in answer["steps"]]))
    out = f", out on {answer['out']}" if answer["out"] else ""
    click.echo(f"=> {answer['verdict']} ({answer['action']}{out})" + _whose(answer))
    if answer["headers"]:
        rows = [(row["name"], row["before"], row["after"]) for row in answer["headers"]]
        click.echo()
        click.echo(table(("HEADER", "IN", "OUT"), rows))
        wrong = ", ".join(answer["wrong_checksums"])
        click.echo(f"checksums: {f'WRONG: {wrong}' if wrong else 'right'}")


def _whose(answer: dict[str, Any]) -> str:
    server = answer["server"] or answer["address"]
    if not server:
        return ""
    return f", from {server}" if answer["verdict"] == "return" else f", to {server}"
