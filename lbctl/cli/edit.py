"""`add`, `set`, `del`, `weight`, `unset`: changes made live, on top of the file."""

import click

from lbctl.cli.shared import Change, Context, change_options, pass_context, report


@click.group()
def add() -> None:
    """Add something, live."""


@add.command("server")
@click.argument("name", metavar="SERVICE/SERVER")
@click.argument("address", metavar="ADDRESS[:PORT]")
@click.option("--weight", type=int, help="0 to 65535.")
@change_options
@pass_context
def add_server(
    context: Context, name: str, address: str, weight: int | None, change: Change
) -> None:
    """Add a server. It takes new flows after its first passed check."""
    value: dict[str, object] = {"address": address}
    if weight is not None:
        value["weight"] = weight
    _override(context, path_of(name, server=True), value, "absent", f"{name}: added", change)


@add.command("service")
@click.argument("name")
@click.option("--listen", multiple=True, required=True, help="ADDRESS:PORT/PROTO; may repeat.")
@click.option("--server", multiple=True, metavar="NAME=ADDRESS[:PORT]", help="May repeat.")
@click.option("--scheduler", help="rr, wrr, mh, ...")
@click.option("--check", help="A type with its defaults: tcp, http, icmp, ...; or none.")
@change_options
@pass_context
def add_service(
    context: Context,
    name: str,
    listen: tuple[str, ...],
    server: tuple[str, ...],
    scheduler: str | None,
    check: str | None,
    change: Change,
) -> None:
    """Add a service with its servers."""
    value: dict[str, object] = {"listen": list(listen), "servers": dict(map(_pair, server))}
    if scheduler is not None:
        value["scheduler"] = scheduler
    if check is not None:
        value["check"] = check
    _override(context, path_of(name), value, "absent", f"{name}: added", change)


@click.command("set")
@click.argument("name", metavar="SERVICE[/SERVER]")
@click.argument("fields", metavar="FIELD=VALUE...", nargs=-1, required=True)
@change_options
@pass_context
def set_(context: Context, name: str, fields: tuple[str, ...], change: Change) -> None:
    """Set fields as the file names them: `lbctl set web scheduler=wrr check.interval=5s`.

    All of them are set, or none.
    """
    pairs = list(map(_pair, fields))
    changes = [
        {"path": [*path_of(name), *field.split(".")], "value": _scalar(value)}
        for field, value in pairs
    ]
    outcome = context.client.post("overrides", body=change.body(changes=changes))
    said = ", ".join(f"{field} = {value}" for field, value in pairs)
    report(context, outcome, f"{name}: {said}")


@click.group("del")
def del_() -> None:
    """Remove something, live."""


@del_.command("server")
@click.argument("name", metavar="SERVICE/SERVER")
@change_options
@pass_context
def del_server(context: Context, name: str, change: Change) -> None:
    """Remove a server: no new flows, and gone when its drain timeout has passed."""
    path = path_of(name, server=True)
    _override(context, path, None, "present", f"{name}: removed; its flows finish", change)


@del_.command("service")
@click.argument("name")
@change_options
@pass_context
def del_service(context: Context, name: str, change: Change) -> None:
    """Remove a service, at once; one that serves only with --force."""
    _override(context, path_of(name), None, "present", f"{name}: removed", change)


@click.command()
@click.argument("name", metavar="SERVICE/SERVER")
@click.argument("number", metavar="WEIGHT", type=int)
@change_options
@pass_context
def weight(context: Context, name: str, number: int, change: Change) -> None:
    """Set a server's weight (0 to 65535; 0 takes no new flows)."""
    path = [*path_of(name, server=True), "weight"]
    _override(context, path, number, "any", f"{name}: weight {number}", change)


@click.command()
@click.argument("number", metavar="ID", type=int)
@change_options
@pass_context
def unset(context: Context, number: int, change: Change) -> None:
    """Take a live change of `lbctl get overrides` back: the file holds again."""
    outcome = context.client.delete("overrides", str(number), body=change.body())
    report(context, outcome, f"override {number}: dropped")


def path_of(name: str, server: bool = False) -> list[str]:
    """Where SERVICE or SERVICE/SERVER is in the file."""
    service, slash, key = name.partition("/")
    if not service or "/" in key or bool(slash) != bool(key) or (server and not key):
        shape = "SERVICE/SERVER" if server else "SERVICE or SERVICE/SERVER"
        raise click.UsageError(f"'{name}' is not {shape}")
    return ["services", service, *(["servers", key] if key else [])]


def _override(
    context: Context,
    path: list[str],
    value: object,
    expect: str,
    done: str,
    change: Change,
) -> None:
    body = change.body(path=path, value=value, expect=expect)
    report(context, context.client.post("overrides", body=body), done)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise click.UsageError(f"'{text}' is not NAME=VALUE")
    return name, value


def _scalar(text: str) -> object:
    """A number or a truth value where it looks like one; the file's rules check the rest."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        return text
