"""`lbctl ha`: who is active and why, and orders to hand over.

It asks the VRRP process itself, which knows, and which outlives the daemon.
"""

from pathlib import Path

import click
import msgspec

from lbctl.cli.output import show_json
from lbctl.cli.shared import Context, json_option, pass_context
from lbctl.errors import Refused
from lbctl.messages import AnyMessage, Ask, HandOver, Resume, Role, StandBy, Standing
from lbctl.vrrp.control import PATH, Client

control_option = click.option(
    "--control",
    envvar="LBCTL_VRRP_SOCKET",
    type=click.Path(path_type=Path),
    default=PATH,
    show_default=True,
    help="The VRRP process's socket.",
)
router_argument = click.argument("router")
reason_option = click.option("--reason", default="", help="Why; shown to whoever wonders later.")


@click.group()
def ha() -> None:
    """Virtual routers: who is active, why, and who should be."""


@ha.command()
@click.argument("router", required=False)
@control_option
@json_option
@pass_context
def status(context: Context, router: str | None, control: Path) -> None:
    """Each virtual router's role here, and why it has it."""
    with Client(control) as client:
        said = client.ask(Ask())
    standings = [one for one in said if isinstance(one, Standing)]
    if router is not None:
        standings = [one for one in standings if one.router == router]
        if not standings:
            raise click.BadParameter(f"there is no virtual router '{router}'")
    if context.json:
        show_json([msgspec.to_builtins(one) for one in standings])
        return
    if not standings:
        click.echo("no virtual routers")
    for one in standings:
        _show(one)


@ha.command()
@router_argument
@reason_option
@click.option("--force", is_flag=True, help="Also where no peer was ever heard.")
@control_option
@json_option
@pass_context
def failover(context: Context, router: str, reason: str, force: bool, control: Path) -> None:
    """Hand over to the peer, and leave it there while the peer lives."""
    with Client(control) as client:
        said = client.ask(Ask())
        alone = [one for one in said if isinstance(one, Standing) and one.router == router]
        if alone and alone[0].role is Role.ACTIVE and not alone[0].peer and not force:
            raise Refused(f"{router}: no peer was ever heard: nobody would take over", "--force")
        client.ask(HandOver(router, reason))
    _done(context, f"{router}: handing over")


@ha.command()
@router_argument
@reason_option
@control_option
@json_option
@pass_context
def standby(context: Context, router: str, reason: str, control: Path) -> None:
    """Hand over and take no part any more, until `resume`; also after a restart."""
    _order(context, control, StandBy(router, reason), f"{router}: stands by")


@ha.command()
@router_argument
@control_option
@json_option
@pass_context
def resume(context: Context, router: str, control: Path) -> None:
    """Lift `failover` and `standby`."""
    _order(context, control, Resume(router), f"{router}: takes part again")


def _order(context: Context, control: Path, message: AnyMessage, done: str) -> None:
    with Client(control) as client:
        client.ask(message)
    _done(context, done)


def _done(context: Context, text: str) -> None:
    if context.json:
        show_json({"done": text})
    else:
        click.echo(text)


def _show(one: Standing) -> None:
    settings = one.settings
    where = f"vrid {settings.vrid} on {settings.interface}"
    click.echo(f"{one.router}: {one.role}  {where}  {', '.join(settings.addresses)}")
    for line in one.why:
        click.echo(f"  {line}")
    counted = [f"{name} {number}" for name, number in one.counts.items() if number]
    if counted:
        click.echo(f"  counters: {', '.join(counted)}")
