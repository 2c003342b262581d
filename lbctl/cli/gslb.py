"""`lbctl gslb`: the GSLB server, and questions to it over its own socket."""

import time
from pathlib import Path
from typing import Any

import click

from lbctl.cli.client import Client
from lbctl.cli.output import fields, show_json, table
from lbctl.cli.shared import DURATION, Context, TimedOut, json_option, pass_context
from lbctl.errors import NotFound

SOCKET = "/run/lbctl/gslb.sock"
Json = Any

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would happen; change nothing."
)


me_option = click.option(
    "--me", envvar="LBCTL_GSLB_ME", default="local", show_default=True,
    help="Which of the observers this server is.",
)  # fmt: skip


@click.group()
@click.option("--gslb-socket", envvar="LBCTL_GSLB_SOCKET", default=SOCKET, show_default=True)
@click.pass_context
def gslb(context: click.Context, gslb_socket: str) -> None:
    """DNS for several sites: serve it, explain it, drain a site."""
    context.ensure_object(Context).client = Client(gslb_socket)


@gslb.command()
@click.option("--config", type=click.Path(path_type=Path), default="/etc/lbctl/lbctl.yaml",
              show_default=True)  # fmt: skip
@me_option
@click.option("--runtime", type=click.Path(path_type=Path), default="/run/lbctl", show_default=True)
@click.option("--daemon", default="", help="The local daemon's socket, if there is a daemon.")
def serve(config: Path, me: str, runtime: Path, daemon: str) -> None:
    """Answer DNS queries, in the foreground."""
    import asyncio

    from lbctl.gslb.run import serve as run

    asyncio.run(run(config, me, runtime, daemon))


@gslb.command()
@click.argument("config", type=click.Path(path_type=Path))
@me_option
@json_option
@pass_context
def validate(context: Context, config: Path, me: str) -> None:
    """Check the gslb section, its zone files and PEM files as `serve` does; needs no server."""
    from lbctl.gslb.run import doubts, read

    found = read(config, me)
    names = sum(len(zone.names) for zone in found.zones)
    said = doubts(found)
    if context.json:
        counts = {"zones": len(found.zones), "names": names, "sites": len(found.sites)}
        show_json({**counts, "warnings": said})
        return
    for line in said:
        click.echo(f"warning: {config}: {line}", err=True)
    click.echo(f"{config}: {len(found.zones)} zones, {names} balanced names, "
               f"{len(found.sites)} sites")  # fmt: skip


@gslb.command()
@json_option
@pass_context
def status(context: Context) -> None:
    """Sites as their observers see them; databases; what is wrong."""
    found = context.client.get("gslb", "status")
    if context.json:
        show_json(found)
        return
    rows = [
        (s["site"], s["state"], f"{s['load']:.0%}", _count(s["connections"]),
         " ".join(f"{who}={word}" for who, word in sorted(s["observers"].items())), s["why"])
        for s in found["sites"]
    ]  # fmt: skip
    click.echo(table(("SITE", "STATE", "LOAD", "CONNECTIONS", "OBSERVERS", "WHY"), rows, (2, 3)))
    for kind, one in found["databases"].items():
        click.echo(f"{kind}: {one['networks']} networks, {one['path']}")
    if found["slow"]:
        click.echo(f"workers run on Python alone: {found['slow']}")
    for what, error in found["errors"].items():
        click.echo(f"wrong: {what}: {error}")


@gslb.command()
@click.argument("name")
@click.argument("client")
@click.option("--ecs", help="The client subnet that a resolver sends along.")
@json_option
@pass_context
def explain(context: Context, name: str, client: str, ecs: str | None) -> None:
    """What CLIENT gets for NAME: each step, what it kept and why."""
    query = {"name": name, "client": client} | ({"ecs": ecs} if ecs else {})
    found = context.client.get("gslb", "explain", **query)
    if context.json:
        show_json(found)
        return
    place = ", ".join(f"{key} {value}" for key, value in found["place"].items())
    click.echo(fields([("client", found["client"]), ("place", place), ("policy", found["policy"])]))
    rows = [
        (step["step"], " > ".join("=".join(tier) for tier in step["kept"]), step["why"])
        for step in found["steps"]
    ]
    click.echo(table(("STEP", "KEPT, BEST FIRST", "WHY"), rows))
    shares = ", ".join(f"{site} {share:.0%} ({found['reasons'][site]})"
                       for site, share in found["shares"].items())  # fmt: skip
    answer = ", ".join(found["answer"]) or "nothing"
    click.echo(fields([("shares", shares), ("answer", answer), ("scope", f"/{found['scope']}"),
                       ("ttl", f"{found['ttl']}s")]))  # fmt: skip


@gslb.command()
@click.argument("name")
@click.option("--fail", default="", help="As if this site were down.")
@json_option
@pass_context
def simulate(context: Context, name: str, fail: str) -> None:
    """Which share of the databases' networks each site gets: now, and if SITE fails."""
    now = context.client.get("gslb", "simulate", name=name)
    then = context.client.get("gslb", "simulate", name=name, fail=fail) if fail else None
    if context.json:
        show_json({"now": now, "then": then} if then else now)
        return
    click.echo(f"{now['networks']} networks sampled")
    columns = ["", "NOW"] + ([f"IF {fail} FAILS"] if then else [])
    for part in ("total", "countries", "providers"):
        click.echo(table([part.upper(), *columns[1:]], _rows(now, then, part)))


def _rows(now: Json, then: Json, part: str) -> list[list[str]]:
    if part == "total":
        return [["all", *(_shares(one["total"]) for one in (now, then) if one)]]
    return [
        [key, *(_shares(one[part].get(key, {})) for one in (now, then) if one)] for key in now[part]
    ]


def _shares(shares: dict[str, float]) -> str:
    return "  ".join(f"{site} {share:.0%}" for site, share in shares.items())


@gslb.command()
@click.argument("site")
@click.option("--wait", is_flag=True, help="Until resolvers forgot it and its connections ended.")
@click.option("--timeout", type=DURATION, default="1h", show_default=True, help="Of --wait.")
@click.option("--reason", default="", help="Why; shown to whoever wonders later.")
@dry_run_option
@json_option
@pass_context
def drain(
    context: Context, site: str, wait: bool, timeout: float, reason: str, dry_run: bool
) -> None:
    """Take SITE out of the answers."""
    if dry_run:
        _would(context, site, "out of the answers")
        return
    found = context.client.post("gslb", "drain", site, body={"reason": reason})
    deadline = time.monotonic() + timeout
    while wait and not _waited_for(found):
        if time.monotonic() > deadline:
            raise TimedOut(
                f"{site}: {_how_far(found)} after {timeout:g} s",
                "it stays drained; run the command again to go on waiting",
            )
        time.sleep(0.5)
        found = context.client.get("gslb", "drain", site)
    if context.json:
        show_json(found)
    elif found["empty"]:
        click.echo(f"{site}: empty")
    else:
        click.echo(f"{site}: draining; {_how_far(found)}")


def _waited_for(found: Json) -> bool:
    """Whether waiting brings no more: the site is empty, or forgotten and nobody can count."""
    forgotten = not found["names"] and not found["left"]
    return bool(found["empty"] or (forgotten and not found["gateways"]))


def _how_far(found: Json) -> str:
    """What a drain still waits for, in words."""
    if names := found["names"]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        why = "no other member serves, or the policy has no 'healthy'"
        return f"still the answer of {', '.join(names[:3])}{more} ({why})"
    count, left = _count(found["connections"]), found["left"]
    said = f"{count} connections" if found["connections"] is not None else (
        "connections unknown: none of its gateways says"
        if found["gateways"] else "connections unknown: it has no gateways to count them"
    )  # fmt: skip
    return f"resolvers forget it in {left:.0f} s, {said}"


def _count(connections: int | None) -> int | str:
    return "unknown" if connections is None else connections


@gslb.command()
@click.argument("site")
@dry_run_option
@json_option
@pass_context
def ready(context: Context, site: str, dry_run: bool) -> None:
    """Put SITE back into the answers."""
    if dry_run:
        _would(context, site, "back in the answers")
        return
    context.client.post("gslb", "ready", site)
    _done(context, {"done": f"{site}: ready", "dry_run": False})


@gslb.command()
@json_option
@pass_context
def reload(context: Context) -> None:
    """Read the configuration and zone files again; what is wrong changes nothing.

    `lbctl gslb validate FILE` tries it without.
    """
    restart = context.client.post("gslb", "reload")["restart"]
    said = f"reloaded; the next start takes {', '.join(restart)}" if restart else "reloaded"
    _done(context, {"done": said, "dry_run": False, "restart": restart})


def _would(context: Context, site: str, what: str) -> None:
    """What an order would do to a site that there is."""
    states = {one["site"]: one["state"] for one in context.client.get("gslb", "status")["sites"]}
    if site not in states:
        raise NotFound(f"there is no site '{site}'", f"there are: {', '.join(states) or 'none'}")
    _done(context, {"done": f"{site}: {what}", "dry_run": True, "state": states[site]})


def _done(context: Context, said: Json) -> None:
    if context.json:
        show_json(said)
    else:
        click.echo(f"dry run: {said['done']}" if said["dry_run"] else said["done"])
