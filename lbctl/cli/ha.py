"""`lbctl ha`: who is active and why, and orders to hand over.

It asks the VRRP process itself, which knows, and which outlives the daemon.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from lbctl.cli.output import show_json
from lbctl.cli.shared import DURATION, Context, Misuse, json_option, pass_context
from lbctl.errors import Exit, LbctlError, NotFound, Refused
from lbctl.ha.drill import Drill, tell
from lbctl.messages import Ask, HandOver, Resume, Role, StandBy, Standing
from lbctl.vrrp.control import PATH, Client

if TYPE_CHECKING:
    from lbctl.cli.drill import Plan

PAUSE = 0.05  # seconds between two looks at a hand-over

control_option = click.option(
    "--control",
    envvar="LBCTL_VRRP_SOCKET",
    type=click.Path(path_type=Path),
    default=PATH,
    show_default=True,
    help="The VRRP process's socket.",
)
force_option = click.option("--force", is_flag=True, help="Also where no peer was ever heard.")
dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would happen; change nothing."
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
@json_option
@pass_context
def peer(context: Context) -> None:
    """The line to the other gateway: who owns what, and how far behind it is."""
    found = context.client.get("replication")
    if context.json:
        show_json(found)
    else:
        click.echo("\n".join(peer_lines(found)))


def peer_lines(found: dict[str, Any]) -> Iterator[str]:
    """What `lbctl ha peer` prints."""
    if not found["configured"]:
        yield "no replication (gateway.replication in the file)"
        yield from (f"  {line}" for line in owner_lines(found))
        return
    if found["connected"]:
        synced = "in sync" if found["synced"] else "its copy is not complete"
        yield f"peer {found['peer']}: connected to {found['node']}; {synced}"
        yield f"  lag: {found['lag']:.3f} s, {found['behind']} entries behind"
    else:
        last = list(found["cuts"])[-1:] or ["not called yet"]
        yield f"peer {found['peer']}: no line: {last[0]}"
    yield f"  ours: {_listed(found['own'])}: {found['entries']} entries, {found['flows']} flows"
    theirs = _listed(found["theirs"])
    yield f"  theirs: {theirs}: {found['held']} entries, {found['held_flows']} flows"
    yield from (f"  {line}" for line in owner_lines(found))
    for what in ("file", "table"):
        if found[f"same_{what}"] is False:
            yield f"  the {what} is not the same on both gateways"
    yield from (f"  {line}" for line in found["differ"])
    if found["trouble"]:
        yield f"  {found['trouble']}"
    counted = [f"full copies {found['copies']}", f"resyncs {found['resyncs']}"]
    counted += [f"{reason} {number}" for reason, number in found["faults"].items()]
    yield f"  {', '.join(counted)}"


def owner_lines(found: dict[str, Any]) -> Iterator[str]:
    """Who owns each virtual router, with what is on it."""
    whose = {"here": "here", "there": f"at {found['node'] or 'the peer'}", "": "nobody known"}
    for one in found["owners"]:
        group = f", group {one['group']}" if one["group"] else ""
        serves = ", ".join(one["listens"]) or "the servers' way back"
        yield (
            f"{one['router']} ({', '.join(one['addresses'])}{group}): "
            f"{whose[one['owner']]}, {one['role'] or 'unheard'} here: {serves}"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "nothing"


@ha.command()
@router_argument
@reason_option
@force_option
@dry_run_option
@control_option
@json_option
@pass_context
@click.option("--drill", is_flag=True, help="Measure it from a client, and keep the record.")
@click.option("--via", default="", help="Drill: words that run a command on a client: 'ssh HOST'.")
@click.option("--back", is_flag=True, help="Drill: take the addresses back afterwards.")
@click.option("--every", type=DURATION, default="10ms", help="Drill: between two probes (10ms).")
@click.option("--held", type=click.IntRange(0, 1000), default=50, help="Drill: connections (50).")
@click.option("--timeout", type=DURATION, default="30s", help="Drill: for each hand-over (30s).")
def failover(
    context: Context,
    router: str,
    reason: str,
    force: bool,
    dry_run: bool,
    control: Path,
    drill: bool,
    via: str,
    back: bool,
    every: float,
    held: int,
    timeout: float,
) -> None:
    """Hand over to the peer, and leave it there while the peer lives.

    Ends when the peer has taken over. Without one this gateway goes on, and the exit status
    is 1. With --drill also where anything was lost; `lbctl ha drills` shows the records.
    """
    if drill:
        if not via:
            why = "--drill: what a gateway sends to its own addresses never leaves it"
            raise Misuse(why, "--via 'ssh CLIENT' names a machine that reaches them as clients do")
        from lbctl.cli.drill import Plan  # and what it needs: of no other verb

        plan = Plan(router, via, reason, max(every, 0.001), held, back, timeout, force)
        return _drill(context, control, plan, dry_run)
    if via or back:
        raise Misuse("--via and --back are of --drill")
    with Client(control) as client:
        _refuse_alone(client, router, force)
        if dry_run:
            return _would(context, client, router, "would hand over")
        client.ask(HandOver(router, reason))
        left = _wait_until_left(client, router)
    if left.role is Role.ACTIVE:
        raise LbctlError(f"{router}: no successor was heard: this gateway goes on")
    return _done(
        context, f"{router}: {left.peer} is active; `lbctl ha resume {router}` lifts the order"
    )


def _drill(context: Context, control: Path, plan: "Plan", dry_run: bool) -> None:
    from lbctl.cli.drill import check, run

    if dry_run:
        with Client(control) as client:
            check(context.client, client, plan)
            return _would(context, client, plan.router, f"would hand over, seen by {plan.via}")
    record = run(context.client, control, plan)
    if context.json:
        show_json(msgspec.to_builtins(record))
    else:
        click.echo(f"{record.router}: {tell(record)}")
        if record.back is None and not record.failed:
            click.echo(f"`lbctl ha resume {record.router}` lifts the order")
    if not record.unhurt:
        raise SystemExit(Exit.FAILED)
    return None


@ha.command()
@json_option
@pass_context
def drills(context: Context) -> None:
    """Hand-overs that were tried and measured, oldest first."""
    found = context.client.get("drills")
    if context.json:
        show_json(found)
        return
    if not found:
        click.echo("no drill yet (lbctl ha failover ROUTER --drill)")
    for one in msgspec.convert(found, list[Drill]):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
        click.echo(f"{when}  {one.router}: {tell(one)} (by {one.by}, via {one.via})")


@ha.command()
@router_argument
@reason_option
@force_option
@dry_run_option
@control_option
@json_option
@pass_context
def standby(
    context: Context, router: str, reason: str, force: bool, dry_run: bool, control: Path
) -> None:
    """Hand over and take no part any more, until `resume`; also after a restart."""
    with Client(control) as client:
        _refuse_alone(client, router, force)
        if dry_run:
            return _would(context, client, router, "would stand by")
        client.ask(StandBy(router, reason))
        _wait_until_left(client, router)
    return _done(context, f"{router}: stands by until `lbctl ha resume {router}`")


@ha.command()
@router_argument
@dry_run_option
@control_option
@json_option
@pass_context
def resume(context: Context, router: str, dry_run: bool, control: Path) -> None:
    """Lift `failover` and `standby`."""
    with Client(control) as client:
        if dry_run:
            return _would(context, client, router, "would take part again")
        client.ask(Resume(router))
    return _done(context, f"{router}: takes part again")


def _refuse_alone(client: Client, router: str, force: bool) -> None:
    """An active gateway that never heard another one is most likely the only one."""
    found = _standing(client, router)
    if found is not None and found.role is Role.ACTIVE and not found.peer and not force:
        raise Refused(f"{router}: no peer was ever heard: nobody would take over", "--force")


def _wait_until_left(client: Client, router: str) -> Standing:
    """What it is once it no longer hands over; the VRRP process bounds that time."""
    while (found := _standing(client, router)) is not None and found.leaving:
        time.sleep(PAUSE)
    if found is None:
        raise LbctlError(f"{router}: it was removed from the configuration meanwhile")
    return found


def _standing(client: Client, router: str) -> Standing | None:
    said = client.ask(Ask())
    return next((s for s in said if isinstance(s, Standing) and s.router == router), None)


def _would(context: Context, client: Client, router: str, what: str) -> None:
    """What an order would do to a router that there is."""
    found = _standing(client, router)
    if found is None:
        raise NotFound(f"{router}: no such virtual router", "`lbctl ha status` shows those here")
    text = f"{router}: {what} (it is {found.role})"
    if context.json:
        show_json({"done": text, "dry_run": True, "role": str(found.role)})
    else:
        click.echo(f"dry run: {text}")


def _done(context: Context, text: str) -> None:
    if context.json:
        show_json({"done": text, "dry_run": False})
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
