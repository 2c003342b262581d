"""The verb `lbctl ipvsadm`."""

import sys
from collections.abc import Iterable
from typing import Any

import click

from lbctl.cli.client import Client
from lbctl.cli.ipvsadm import listing
from lbctl.cli.ipvsadm.argv import LISTINGS, Arguments, Command, Misuse, is_number, parse
from lbctl.cli.ipvsadm.changes import Change, Services, changes
from lbctl.cli.ipvsadm.restore import Folded, fold
from lbctl.cli.shared import Context, pass_context
from lbctl.errors import Exit, InvalidConfig

HELP = """lbctl ipvsadm takes ipvsadm's commands and options, with numbers in place of names:

  -A|-E virtual-service [-s scheduler] [-p [timeout]] [-M netmask] [--pe engine] [-b flags] [-o]
  -D virtual-service
  -C                              asks before it removes every service of lbctl (--yes: does not)
  -R                              from standard input
  -S [-n]
  -a|-e virtual-service -r server [-g|-i|-m] [-w weight] [-x upper] [-y lower] [--tun-type ...]
  -d virtual-service -r server [--force]
  -L|-l [virtual-service] [-n] [-c] [--stats] [--rate] [--thresholds] [--persistent-conn]
        [--timeout] [--daemon] [--sort|--nosort] [--exact]
  -Z [virtual-service]
  --set tcp tcpfin udp
  --start-daemon {master|backup} [--mcast-interface dev] [--syncid id] ...
  --stop-daemon {master|backup}

Changes are overrides: `lbctl get overrides` shows them, `lbctl unset` takes them back."""


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@pass_context
def ipvsadm(context: Context, argv: tuple[str, ...]) -> None:
    """ipvsadm's words for what lbctl runs; `lbctl ipvsadm -h` lists them."""
    try:
        run(context.client, parse(argv))
    except Misuse as error:
        click.echo(f"{error}\nTry `lbctl ipvsadm -h' for more information.", err=True)
        raise SystemExit(Exit.USAGE) from None


def run(client: Client, arguments: Arguments) -> None:
    """Raises Misuse and LbctlError."""
    match arguments.command:
        case Command.HELP:
            click.echo(HELP)
        case Command.LIST:
            _list(client, arguments)
        case Command.SAVE:
            _print(listing.save(client.get("ipvs")))
        case Command.ZERO:
            client.post("ipvs", "zero", body={"frontend": arguments.service})
        case Command.SET:
            _set(client, arguments.values)
        case Command.START_DAEMON | Command.STOP_DAEMON:
            _sync(client, arguments)
        case Command.CLEAR:
            _clear(client, asks="yes" not in arguments.options)
        case Command.RESTORE:
            _restore(client, sys.stdin)
        case _:
            _override(client, changes(arguments, _services(client, listen=arguments.service)))


def _list(client: Client, arguments: Arguments) -> None:
    options = arguments.options
    if "connection" in options:
        lines = client.get("ipvs", "connections")
        _print(listing.connections(lines, engines="persistent-conn" in options))
        return
    answer = client.get("ipvs")
    if "timeout" in options:
        click.echo(listing.timeouts(answer))
        return
    if "daemon" in options:
        _print(listing.daemons(answer))
        return
    kind = next(iter(LISTINGS & options.keys()), "")
    manner = (kind, "exact" in options, "nosort" not in options)
    if not arguments.service:
        _print(listing.show(answer, *manner))
        return
    found = [one for one in answer["services"] if one["frontend"] == arguments.service]
    if not found:
        raise Misuse("No such service")
    _print(listing.show_services(found, *manner))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _services(client: Client, **which: str) -> Services:
    """All services, or the one with a listen."""
    from lbctl.config import parse as parse_file  # costs 0.1 s, which listings need not pay

    running = parse_file(client.text("config", **which), "the running configuration")
    return Services(running.config.services)


def _override(client: Client, wanted: Iterable[Change]) -> None:
    """All of them, or none."""
    wanted = list(wanted)
    changes = [{"path": w.path, "value": w.value, "expect": w.expect} for w in wanted]
    body = {"changes": changes, "force": any(one.force for one in wanted)}
    outcome = client.post("overrides", body={**body, "reason": "lbctl ipvsadm"})
    if outcome["refused"]:
        _tell(outcome["refused"])
        raise SystemExit(Exit.PARTIAL)


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, err=True)


def _set(client: Client, values: tuple[str, ...]) -> None:
    if not all(map(is_number, values)):
        raise Misuse(f"illegal timeout: {' '.join(values)}")
    names = ("tcp", "fin", "udp")
    client.post("ipvs", "timeouts", body=dict(zip(names, map(int, values), strict=True)))


def _sync(client: Client, arguments: Arguments) -> None:
    role, options = arguments.values[0], arguments.options
    if role not in ("master", "backup"):
        raise Misuse(f"illegal state: {role} (master or backup)")
    start = arguments.command is Command.START_DAEMON
    body: dict[str, Any] = {"role": role, "run": start}
    if start:
        if "mcast-interface" not in options:
            raise Misuse("say on which interface: --mcast-interface DEVICE")
        body["interface"] = options["mcast-interface"]
        for option, key in _NUMBERS.items():
            if option in options:
                if not is_number(options[option]):
                    raise Misuse(f"illegal {option} specified: {options[option]}")
                body[key] = int(options[option])
        if "mcast-group" in options:
            body["group"] = options["mcast-group"]
    client.post("ipvs", "sync", body=body)


_NUMBERS = {"syncid": "id", "sync-maxlen": "maxlen", "mcast-port": "port", "mcast-ttl": "ttl"}


def _clear(client: Client, asks: bool) -> None:
    """Every service of lbctl, and nothing of anybody else."""
    names = sorted(_services(client))
    if not names:
        return
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    question = f"Remove all services of lbctl, {len(names)} in number ({shown})?"
    if asks and not click.confirm(question, err=True):
        raise SystemExit(Exit.REFUSED)
    _override(client, [Change(("services", name), None, force=True) for name in names])


def _restore(client: Client, lines: Iterable[str]) -> None:
    """All lines as one change, taken or refused as a whole."""
    folded = fold(lines, _services(client))
    if folded.changes:
        try:
            _override(client, folded.changes.values())
        except InvalidConfig as error:
            raise InvalidConfig([_at_line(folded, one) for one in error.faults]) from None
    for arguments in folded.rest:
        run(client, arguments)


def _at_line(folded: Folded, fault: str) -> str:
    line = folded.line_of(fault)
    return fault if line is None else f"line {line}: {fault}"
