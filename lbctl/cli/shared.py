"""What the verbs have in common: their context, their options, how they fail."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any, TypeVar, cast

import click

from lbctl.cli.client import Client
from lbctl.cli.output import show_json
from lbctl.errors import Exit, InvalidConfig, LbctlError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Context:
    """What every verb gets. json: for a program, not for a person."""

    client: Client = field(default_factory=Client)
    json: bool = False


pass_context = click.make_pass_decorator(Context)


def json_option(command: F) -> F:
    """`-j` after the verb, too."""

    def note(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Context).json = True

    option = click.option(
        "-j", "--json", is_flag=True, expose_value=False, callback=note, help="Answer in JSON."
    )
    return option(command)


class Duration(click.ParamType[float]):
    """`90s`, `10m`, `2h` or a number of seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from lbctl.config.duration import seconds

        text = str(value)
        try:
            return seconds(float(text) if text.replace(".", "", 1).isdigit() else text)
        except ValueError as error:
            self.fail(f"'{text}' {error}", param, ctx)


DURATION = Duration()


class Seconds(click.ParamType[float]):
    """A number of seconds that can be waited: neither negative nor without end."""

    name = "seconds"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = float(str(value))
        except ValueError:
            self.fail(f"'{value}' is not a number of seconds", param, ctx)
        if not 0 <= seconds <= LONGEST_WAIT:
            self.fail(f"'{value}' is not between 0 and {LONGEST_WAIT:.0f} seconds", param, ctx)
        return seconds


LONGEST_WAIT = 7 * 86400.0  # seconds
SECONDS = Seconds()


@dataclass(frozen=True)
class Change:
    """How a change is made. seconds: how long it holds; None: until it is taken back."""

    dry_run: bool
    force: bool
    reason: str
    seconds: float | None

    def body(self, **more: object) -> dict[str, object]:
        """The request's body, with what is this change's own."""
        return {**asdict(self), **more}


def change_options(command: F) -> F:
    """What every change takes; the command gets it as `change`."""

    @wraps(command)
    def gather(
        *args: object,
        dry_run: bool,
        force: bool,
        reason: str,
        seconds: float | None,
        **rest: object,
    ) -> object:
        return command(*args, change=Change(dry_run, force, reason, seconds), **rest)

    options = [
        click.option("--dry-run", is_flag=True, help="Show what would happen; change nothing."),
        click.option(
            "--force",
            is_flag=True,
            help="Do it though it takes the last server, or a service that serves.",
        ),
        click.option("--reason", default="", help="Why; shown to whoever wonders later."),
        click.option("--for", "seconds", type=DURATION, help="How long it holds: 90s, 10m, 2h."),
    ]
    whole: Callable[..., object] = gather
    for option in reversed(options):
        whole = option(whole)
    return cast(F, json_option(whole))


def report(context: Context, outcome: dict[str, Any], done: str) -> None:
    """Show what a change did; exit with 7 where the data path refused a part of it."""
    show_outcome(context, outcome, done)
    if outcome["refused"]:
        raise SystemExit(Exit.PARTIAL)


def show_outcome(context: Context, outcome: dict[str, Any], done: str) -> None:
    if context.json:
        show_json(outcome)
    else:
        _tell(outcome, done)


def refused(client: Client) -> dict[str, str]:
    """What the data path refuses now, in its words, by operation; and what troubles it as a
    whole."""
    status = client.get("status")
    trouble = status["datapath"]["trouble"]
    whole = {trouble: trouble} if trouble else {}
    return whole | {one["operation"]: one["error"] for one in status["refused"]}


def refused_of(client: Client, outcome: dict[str, Any]) -> set[str]:
    """Those operations of a change that the data path refused; to be asked after it."""
    said = outcome["refused"]
    return {operation for operation, error in refused(client).items() if error in said}


class Misuse(LbctlError):
    """A command line that says nothing that could be done."""

    exit_code = Exit.USAGE


class TimedOut(LbctlError):
    """What `--wait` waited for did not happen."""

    exit_code = Exit.TIMEOUT


def _tell(outcome: dict[str, Any], done: str) -> None:
    if outcome["dry_run"]:
        click.echo(f"dry run: {done}" if outcome["changed"] else "dry run: nothing to do")
    else:
        click.echo(done if outcome["changed"] else "nothing to do")
    for line in outcome["changes"]:
        click.echo(f"  config: {line}")
    for line in outcome["operations"]:
        click.echo(f"  {line}")
    for line in outcome["warnings"]:
        click.echo(f"warning: {line}", err=True)
    for stale in outcome["stale"]:
        hint = f"`lbctl unset {stale}` drops it"
        click.echo(f"warning: override {stale} is about something that is gone ({hint})", err=True)
    for line in outcome["refused"]:
        click.echo(f"refused by the data path, and tried again: {line}", err=True)


def show_misuse(wrong: click.ClickException, as_json: bool) -> None:
    """What the command line itself has wrong."""
    if not as_json:
        return wrong.show()
    context = wrong.ctx if isinstance(wrong, click.UsageError) else None
    hint = f"`{context.command_path} --help` shows how" if context is not None else ""
    return show_error(Misuse(wrong.format_message(), hint), as_json)


def show_error(error: LbctlError, as_json: bool) -> None:
    """Object, attempt and cause; then the mend."""
    if as_json:
        body = {"error": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
        faults = {"faults": error.faults} if isinstance(error, InvalidConfig) else {}
        click.echo(json.dumps({**body, **faults}, ensure_ascii=False), err=True)
        return
    if isinstance(error, InvalidConfig):
        # As compilers do, so that an editor finds each FILE:LINE:COLUMN.
        click.echo("\n".join(error.faults), err=True)
        return
    click.echo(f"lbctl: {error.message}", err=True)
    if error.hint:
        click.echo(f"       {error.hint}", err=True)
