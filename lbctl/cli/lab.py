"""`lbctl lab`: a network-namespace lab to try things in. It talks to no daemon."""

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from lbctl.cli.output import show_json, table
from lbctl.cli.shared import Context, json_option, pass_context

if TYPE_CHECKING:
    from lbctl.lab.lab import Lab


DEFAULT = "lab"
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would happen; change nothing."
)


@click.group()
@click.option(
    "--name", envvar="LBCTL_LAB", default=DEFAULT, show_default=True, help="Which lab (LBCTL_LAB)."
)
@click.pass_context
def lab(context: click.Context, name: str) -> None:
    """A lab of network namespaces: client, gateway with two NICs, nginx servers."""
    context.meta["lab"] = name


def _name() -> str:
    name: str = click.get_current_context().meta["lab"]
    return name


@lab.command()
@click.option("--servers", type=click.IntRange(1, 80), default=3, show_default=True)
@click.option("--gateways", type=click.IntRange(1, 2), default=1, show_default=True)
@click.option("--ipv6", is_flag=True, help="IPv6 addresses beside the IPv4 ones.")
@dry_run_option
@json_option
@pass_context
def up(context: Context, servers: int, gateways: int, ipv6: bool, dry_run: bool) -> None:
    """Make the lab and start its web servers. Each gateway gets a file for them, and
    `lbctl daemon` there runs it."""
    from lbctl.lab.file import gateway_file
    from lbctl.lab.lab import Lab
    from lbctl.lab.topology import standard

    made = Lab(standard(servers, gateways, ipv6), _name())
    if not dry_run:
        made.up()
        for gateway in made.gateways:
            gateway.config(gateway_file(made.topology))
    _show(made, context.json)
    if not context.json:
        words = "lbctl lab" if made.name == DEFAULT else f"lbctl lab --name {made.name}"
        click.echo(f"its load balancer: {words} exec {made.gateway.name} lbctl daemon")


@lab.command()
@dry_run_option
@json_option
@pass_context
def down(context: Context, dry_run: bool) -> None:
    """End the lab's processes and remove all that `up` made; safe to repeat."""
    from lbctl.lab.lab import is_there, remove

    name = _name()
    removed = is_there(name) if dry_run else remove(name)
    if context.json:
        show_json({"lab": name, "removed": removed, "dry_run": dry_run})
    elif dry_run:
        click.echo(f"dry run: lab '{name}' would go" if removed else f"there is no lab '{name}'")
    else:
        click.echo(f"lab '{name}' is gone" if removed else f"there was no lab '{name}'")


@lab.command()
@json_option
@pass_context
def status(context: Context) -> None:
    """Show hosts, addresses and what runs on them."""
    from lbctl.lab.lab import Lab

    _show(Lab.open(_name()), context.json)


# Everything after HOST is the command's, its options too.
@lab.command("exec", context_settings={"allow_interspersed_args": False})
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(host: str, command: tuple[str, ...]) -> NoReturn:
    """Run COMMAND on HOST; its exit code is ours.

    On a gateway `lbctl` finds that gateway's own file, daemon, state and pins:
    lbctl lab exec lb1 lbctl daemon, and then lbctl lab exec lb1 lbctl get services
    """
    from lbctl.lab.lab import Lab

    words = command[1:] if command[0] == "--" else command
    Lab.open(_name()).host(host).become(words)


@lab.command()
@click.option("--keep", is_flag=True, envvar="KEEP", help="Leave the lab up (KEEP=1).")
def demo(keep: bool) -> NoReturn:
    """Show lbctl at work in a lab, step by step, and check each claim."""
    from lbctl.lab.demo import main

    sys.exit(main(_name(), keep))


def _show(shown: "Lab", as_json: bool) -> None:
    hosts = [
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
        show_json({"lab": shown.name, "vip": shown.topology.vip, "hosts": hosts})
        return
    rows = [row for host in hosts for row in _rows(host)]
    click.echo(table(["HOST", "ROLE", "NIC", "ADDRESS", "PID", "PROCESS"], rows))
    click.echo(f"\nVIP {shown.topology.vip}; enter a host: lbctl lab exec client bash")


def _rows(host: dict[str, Any]) -> list[list[object]]:
    """As many lines as the host has addresses or processes; its name is on the first."""
    places = [[nic, one] for nic, many in host["addresses"].items() for one in many]
    running = [[p["pid"], p["command"]] for p in host["processes"]]
    columns = ([[host["host"], host["role"]]], places, running)
    lines = range(max(map(len, columns)))
    return [[cell for part in columns for cell in _line(part, i)] for i in lines]


def _line(part: list[list[object]], number: int) -> list[object]:
    return part[number] if number < len(part) else [" ", " "]
