"""`lbctl lab`: a network-namespace lab to try things in. It talks to no daemon."""

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from lbctl.errors import LbctlError
from lbctl.lab.topology import standard

if TYPE_CHECKING:
    from lbctl.lab.lab import Lab


def _fail(error: LbctlError) -> NoReturn:
    click.echo(f"lbctl lab: {error}", err=True)
    sys.exit(error.exit_code)


def _open(name: str) -> "Lab":
    from lbctl.lab.lab import Lab

    try:
        return Lab.open(name)
    except LbctlError as error:
        _fail(error)


@click.group()
@click.option(
    "--name", envvar="LBCTL_LAB", default="lab", show_default=True, help="Which lab (LBCTL_LAB)."
)
@click.pass_context
def lab(context: click.Context, name: str) -> None:
    """A lab of network namespaces: client, gateway with two NICs, nginx servers."""
    context.obj = name


@lab.command()
@click.option("--servers", type=click.IntRange(1, 80), default=3, show_default=True)
@click.option("--gateways", type=click.IntRange(1, 2), default=1, show_default=True)
@click.option("--ipv6", is_flag=True, help="IPv6 addresses beside the IPv4 ones.")
@click.pass_obj
def up(name: str, servers: int, gateways: int, ipv6: bool) -> None:
    """Make the lab and start its web servers."""
    from lbctl.lab.lab import Lab

    made = Lab(standard(servers, gateways, ipv6), name)
    try:
        made.up()
    except LbctlError as error:
        _fail(error)
    _show(made)


@lab.command()
@click.pass_obj
def down(name: str) -> None:
    """End the lab's processes and remove all that `up` made; safe to repeat."""
    from lbctl.lab.lab import remove

    try:
        removed = remove(name)
    except LbctlError as error:
        _fail(error)
    click.echo(f"lab '{name}' is gone" if removed else f"there was no lab '{name}'")


@lab.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(name: str, as_json: bool) -> None:
    """Show hosts, addresses and what runs on them."""
    _show(_open(name), as_json)


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def exec_(name: str, host: str, command: tuple[str, ...]) -> NoReturn:
    """Run COMMAND on HOST; its exit code is ours.

    On a gateway `lbctl` finds that gateway's daemon: lbctl lab exec lb1 lbctl get services
    """
    found = _open(name)
    try:
        found.host(host).become(command)
    except LbctlError as error:
        _fail(error)


@lab.command()
@click.option("--keep", is_flag=True, envvar="KEEP", help="Leave the lab up (KEEP=1).")
@click.pass_obj
def demo(name: str, keep: bool) -> NoReturn:
    """Show lbctl at work in a lab, step by step, and check each claim."""
    from lbctl.lab.demo import main

    try:
        sys.exit(main(name, keep))
    except LbctlError as error:
        _fail(error)


def _show(shown: "Lab", as_json: bool = False) -> None:
    import json

    rows = [
        {
            "host": host.name,
            "role": str(host.spec.role),
            "namespace": host.namespace,
            "addresses": {nic.name: list(nic.addresses) for nic in host.spec.nics},
            "processes": [{"pid": p.pid, "command": p.command} for p in host.processes()],
        }
        for host in shown
    ]
    if as_json:
        click.echo(json.dumps({"lab": shown.name, "hosts": rows}, indent=2))
        return
    _draw(shown, rows)


def _draw(shown: "Lab", rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("host", "role", "addresses", box=None, pad_edge=False)
    table.add_column("processes", no_wrap=True)
    for row in rows:
        where = "\n".join(f"{nic} {' '.join(a)}" for nic, a in row["addresses"].items())
        running = "\n".join(f"{p['pid']} {p['command']}" for p in row["processes"])
        table.add_row(row["host"], row["role"], where, running or "-")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\nVIP {shown.topology.vip}; enter a host: lbctl lab exec client bash")
