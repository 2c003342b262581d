"""`get`, `describe`, `why`: verbs that only ask."""

import time
from collections.abc import Sequence
from typing import Any

import click

from lbctl.cli.output import ago, fields, show_json, table
from lbctl.cli.shared import Context, json_option, pass_context
from lbctl.errors import Exit


@click.group()
@json_option
def get() -> None:
    """List what there is."""


@get.command()
@click.argument("name", required=False)
@json_option
@pass_context
def services(context: Context, name: str | None) -> None:
    """Services, with how many of their servers take new flows."""
    if name is None:
        rows = context.client.get("services")
    else:
        rows = [context.client.get("services", name)["service"]]
    if context.json:
        return show_json(rows)
    cells = [
        (
            row["name"],
            " ".join(row["listens"]),
            row["scheduler"],
            row["state"],
            f"{row['scheduled']}/{row['servers']}",
            row["connections"],
            _problem(row, row["because"]),
        )
        for row in rows
    ]
    head = ("NAME", "LISTEN", "SCHED", "STATE", "UP", "CONNS", "WHY")
    return click.echo(table(head, cells, right=(4, 5)))


@get.command()
@click.argument("service", required=False)
@json_option
@pass_context
def servers(context: Context, service: str | None) -> None:
    """Servers, with their three states in one word, and why."""
    query = {} if service is None else {"service": service}
    rows = context.client.get("servers", **query)
    return show_json(rows) if context.json else click.echo(server_table(rows))


@get.command()
@click.argument("service", required=False)
@json_option
@pass_context
def agents(context: Context, service: str | None) -> None:
    """What the servers' agents say, and what their load leaves of their weights."""
    rows = context.client.get("agents")
    rows = [row for row in rows if service in (None, row["server"].partition("/")[0])]
    if context.json:
        return show_json(rows)
    cells = [
        (
            row["server"],
            row["address"],
            row["state"],
            *(_share(row[metric]) for metric in ("cpu", "memory", "disk")),
            "out" if row["out"] else f"{row['eighths']}/8",
            row["words"] or ("" if row["state"] == "speaks" else row["evidence"]),
        )
        for row in rows
    ]
    head = ("SERVER", "AGENT", "STATE", "CPU", "MEM", "DISK", "LEFT", "SAYS")
    return click.echo(table(head, cells, right=(3, 4, 5, 6)))


@get.command()
@click.option("--output", is_flag=True, help="With what they said.")
@json_option
@pass_context
def hooks(context: Context, output: bool) -> None:
    """The last runs of hooks: when, for whom, and what came of it."""
    rows = context.client.get("hooks")
    if context.json:
        return show_json(rows)
    now = time.time()
    cells = [
        (
            row["server"],
            row["hook"],
            f"{ago(now - row['at'])} ago",
            f"{row['took']:.1f} s",
            "done" if row["passed"] else "failed",
            row["result"],
        )
        for row in rows
    ]
    click.echo(table(("SERVER", "HOOK", "WHEN", "TOOK", "STATE", "RESULT"), cells, right=(3,)))
    for row in rows if output else []:
        click.echo(f"\n{row['server']} {row['hook']}, {ago(now - row['at'])} ago:\n{row['output']}")
    return None


@get.command()
@json_option
@pass_context
def status(context: Context) -> None:
    """The daemon, its data path, its checks, and what is refused."""
    answer = context.client.get("status")
    if context.json:
        return show_json(answer)
    path, worker = answer["datapath"], answer["worker"]
    pids = ", ".join(str(one["pid"]) for one in answer["workers"])
    probing = f"pid {pids}, {worker['checks']} checks" if worker["pid"] else "not running"
    click.echo(
        fields(
            [
                ("daemon", f"{answer['version']}, pid {answer['pid']}, up {ago(answer['uptime'])}"),
                ("data path", f"{path['name']} ({path['why']})"),
                ("config", f"generation {answer['generation']} from {answer['origin']}"),
                ("services", f"{answer['services']}, with {answer['servers']} servers"),
                ("overrides", answer["overrides"]),
                ("probe worker", probing),
                ("state", answer["state"]),
                ("passes", f"{answer['passes']}, {answer['operations']} operations done"),
                ("writes", _counts(answer["writes"])),
            ]
        )
    )
    for one in path["switches"]:
        click.echo(f"\n{one['name']} = {one['found']}{_wrong(one)}: {one['reason']}")
    _warn(answer)
    return None


@get.command("nic")
@json_option
@pass_context
def nic(context: Context) -> None:
    """The gateway's interfaces: how the packet program runs there, what stands in its way."""
    rows = context.client.get("nics")
    if context.json:
        return show_json(rows)
    cells = [
        (
            row["name"],
            row["driver"],
            row["mode"],
            row["mtu"],
            row["queues"],
            *(_on(row[offload]) for offload in ("lro", "gro", "vlan_stripping")),
        )
        for row in rows
    ]
    head = ("NAME", "DRIVER", "MODE", "MTU", "QUEUES", "LRO", "GRO", "VLAN STRIPPING")
    click.echo(table(head, cells, right=(3, 4)))
    for row in rows:
        for one in row["findings"]:
            kind = "in the way" if one["in_the_way"] else "costs time"
            click.echo(f"\n{row['name']}: {kind}: {one['says']}\n  {one['mend']}")
    return None


@get.command()
@json_option
@pass_context
def overrides(context: Context) -> None:
    """Changes made live, on top of the file."""
    rows = context.client.get("overrides")
    if context.json:
        return show_json(rows)
    now = time.time()
    cells = [
        (
            row["id"],
            "stale" if row["stale"] else "in force",
            row["by"],
            ago(now - row["since"]),
            ago(row["until"] - now) if row["until"] else "ever",
            row["change"] + (f"  # {row['reason']}" if row["reason"] else ""),
        )
        for row in rows
    ]
    return click.echo(table(("ID", "STATE", "BY", "SINCE", "FOR", "CHANGE"), cells, right=(0,)))


@get.command()
@click.option(
    "-n", "--last", type=click.IntRange(min=1), default=20, show_default=True, help="How many."
)
@json_option
@pass_context
def events(context: Context, last: int) -> None:
    """What happened lately; `lbctl monitor` follows."""
    rows = context.client.get("events")[-last:]
    return show_json(rows) if context.json else click.echo("\n".join(map(event_line, rows)))


@get.command()
@json_option
@pass_context
def generations(context: Context) -> None:
    """The configurations that were run; `lbctl rollback` goes back to one."""
    rows = context.client.get("generations")
    if context.json:
        return show_json(rows)
    cells = [(r["generation"], "running" if r["running"] else "", r["origin"]) for r in rows]
    return click.echo(table(("GENERATION", "STATE", "FROM"), cells, right=(0,)))


@get.command()
@click.option("--source", is_flag=True, help="The text that was taken, without live changes.")
@json_option
@pass_context
def config(context: Context, source: bool) -> None:
    """The configuration that runs: the file with the live changes."""
    text = context.client.text("config", **({"source": "1"} if source else {}))
    return show_json({"config": text}) if context.json else click.echo(text, nl=False)


@click.command()
@click.argument("name")
@json_option
@pass_context
def describe(context: Context, name: str) -> None:
    """All about SERVICE or SERVICE/SERVER."""
    if not name:
        raise click.UsageError("'' is not SERVICE or SERVICE/SERVER")
    if "/" in name:
        return _describe_server(context, name)
    answer = context.client.get("services", name)
    if context.json:
        return show_json(answer)
    row = answer["service"]
    pairs = [
        ("service", row["name"]),
        ("listens", row["listens"]),
        ("state", row["state"] + (f": {row['because']}" if row["because"] else "")),
        ("scheduler", f"{row['scheduler']}, mode {row['mode']}"),
        ("check", row["check"]),
        ("persistence", answer["persistence"]),
        ("drain timeout", ago(answer["drain_timeout"])),
        ("drain quiet", ago(answer["drain_quiet"])),
        ("last resort", answer["last_resort"]),
        ("VIP", answer["vip"]),
        *(("refused", problem) for problem in row["problems"]),
    ]
    click.echo(fields(pairs))
    click.echo()
    return click.echo(server_table(answer["servers"]))


def _describe_server(context: Context, name: str) -> None:
    answer = context.client.get("servers", *_split(name), "why")
    if context.json:
        return show_json(answer)
    row = answer["server"]
    open_now = row["connections"]
    source = f" ({row['connections_from']})" if row["connections_from"] else ""
    pairs = [
        ("server", row["name"]),
        ("address", row["address"]),
        ("state", f"{row['state']}: {row['because']}"),
        ("administrative", row["admin"] + _end_of(row)),
        ("health", row["health"] + (f" ({row['evidence']})" if row["evidence"] else "")),
        ("weight", f"{_weight(row)} in the data path, {row['configured']} configured"),
        ("connections", "nobody can know" if open_now is None else f"{open_now}{source}"),
        *(("refused", problem) for problem in row["problems"]),
    ]
    return click.echo(fields(pairs))


@click.command()
@click.argument("server", metavar="SERVICE/SERVER")
@json_option
@pass_context
def why(context: Context, server: str) -> None:
    """Why SERVICE/SERVER has the place that it has, rule by rule."""
    answer = context.client.get("servers", *_split(server), "why")
    if context.json:
        return show_json(answer)
    row = answer["server"]
    stands = f"{row['state']}, weight {_weight(row)}{_end_of(row)}"
    click.echo(f"{row['name']} ({row['address']}): {stands}")
    for step in answer["reasons"]:
        mark = "=>" if step["decided"] else "  "
        click.echo(f" {mark} {step['step']}: {step['says']}")
    for problem in row["problems"]:
        click.echo(f" !! refused: {problem}")
    for one in answer["overrides"]:
        click.echo(f"    override {one['id']} by {one['by']}: {one['change']}")
    click.echo("\nlast transitions:")
    now = time.time()
    for past in reversed(answer["transitions"]):
        weight = "out" if past["weight"] is None else f"weight {past['weight']}"
        click.echo(f"  {ago(now - past['at']):>7} ago  {weight:<9}  {past['because']}")
    return None


@click.command()
@click.argument("server", metavar="SERVICE/SERVER")
@json_option
@pass_context
def check(context: Context, server: str) -> None:
    """Probe SERVICE/SERVER now, and show each step; exit with 1 where it is down."""
    rows = context.client.post("servers", *_split(server), "check")
    if context.json:
        show_json(rows)
    else:
        for row in rows:
            click.echo(f"{row['asked']}: {row['target']}")
            for at, step in row["steps"]:
                click.echo(f"  {at * 1000:8.1f} ms  {step}")
            click.echo(f"  {row['took'] * 1000:8.1f} ms  {row['health']}: {row['evidence']}")
    if any(row["asked"] == "check" and row["health"] == "down" for row in rows):
        raise SystemExit(Exit.FAILED)


def server_table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [
        (
            row["name"],
            row["address"],
            row["state"],
            _weight(row),
            row["health"],
            row["connections"],
            _problem(row, row["because"] + _end_of(row)),
        )
        for row in rows
    ]
    head = ("NAME", "ADDRESS", "STATE", "WEIGHT", "CHECK", "CONNS", "WHY")
    return table(head, cells, right=(3, 5))


def event_line(record: dict[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["at"]))
    return f"{when}  {record['text']}"


def _split(name: str) -> tuple[str, str]:
    service, slash, server = name.partition("/")
    if not (slash and service and server):
        raise click.UsageError(f"'{name}' is not SERVICE/SERVER")
    return service, server


def _on(value: bool | None) -> str:
    return "-" if value is None else "on" if value else "off"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.0f} %"


def _weight(row: dict[str, Any]) -> str:
    return "out" if row["weight"] is None else str(row["weight"])


def _problem(row: dict[str, Any], otherwise: str) -> str:
    return f"REFUSED: {row['problems'][0]}" if row["problems"] else otherwise


def _end_of(row: dict[str, Any]) -> str:
    """When what a person ordered of a server ends by itself."""
    until = row["admin_until"]
    return f"; {row['admin']} ends in {ago(until - time.time())}" if until is not None else ""


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "none"


def _wrong(switch: dict[str, Any]) -> str:
    if switch["found"] is None:
        return " (this kernel has none such)"
    return "" if switch["found"] == switch["wanted"] else f", and must be {switch['wanted']}"


def _warn(status: dict[str, Any]) -> None:
    if status["datapath"]["trouble"]:
        click.echo(f"\ndata path: {status['datapath']['trouble']}")
    for line in status["datapath"]["remarks"]:
        click.echo(f"\n{line}")
    for one in status["refused"]:
        again = f"try {one['tries'] + 1} in {one['retry_in']:.0f} s"
        click.echo(f"\nrefused: {one['error']} ({again})")
    for line in status["warnings"]:
        click.echo(f"\nwarning: {line}")
    if foreign := status["datapath"]["foreign"]:
        click.echo(f"\nof other tools, and left alone: {', '.join(foreign)}")
