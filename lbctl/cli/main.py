"""`lbctl`: the verbs, each imported when it is called."""

import io
import sys
from importlib import import_module

import click

from lbctl import __version__
from lbctl.cli.client import DEFAULT_SOCKET, Client
from lbctl.cli.shared import Context, json_option, show_error, show_misuse
from lbctl.errors import LbctlError

# verb -> (module, attribute, what it does), in the order that `--help` shows
VERBS: dict[str, tuple[str, str, str]] = {
    "validate": ("files", "validate", "Check a file; needs neither a daemon nor root."),
    "apply": ("files", "apply", "Run a file: whole, or not at all."),
    "diff": ("files", "diff", "What is wanted against what the kernel holds, or a file."),
    "rollback": ("files", "rollback", "Run the generation before this one again."),
    "export": ("files", "export", "Print what runs as a file."),
    "get": ("ask", "get", "List services, servers, overrides, events, ..."),
    "describe": ("ask", "describe", "All about one service or server."),
    "why": ("ask", "why", "Why a server has the place that it has."),
    "check": ("ask", "check", "Probe a server now, and show each step."),
    "stats": ("numbers", "stats", "Connections, packets and bytes, per second and in all."),
    "monitor": ("numbers", "monitor", "Events as they happen."),
    "trace": ("trace", "trace", "What the packet program does with a packet, step by step."),
    "add": ("edit", "add", "Add a server or a service, live."),
    "set": ("edit", "set_", "Set a field of a service or a server, live."),
    "del": ("edit", "del_", "Remove a server or a service, live; its flows finish."),
    "weight": ("edit", "weight", "Set a server's weight, live."),
    "unset": ("edit", "unset", "Take a live change back."),
    "drain": ("orders", "drain", "No new flows; those that are there finish."),
    "maint": ("orders", "maint", "Like drain, and not checked any more."),
    "ready": ("orders", "ready", "Lift drain and maint."),
    "ipvsadm": ("ipvsadm.command", "ipvsadm", "ipvsadm's words for what lbctl runs."),
    "ha": ("ha", "ha", "Virtual routers: who is active and why; hand over."),
    "vrrp": ("vrrp", "vrrp", "Run the virtual routers, in the foreground."),
    "gslb": ("gslb", "gslb", "DNS that sends each user to the right site."),
    "daemon": ("daemon", "daemon", "Run the daemon, in the foreground."),
    "agent": ("agent", "agent", "The servers' agents: certificates, installing, asking."),
    "lab": ("lab", "lab", "A load balancer, a client and servers in namespaces."),
}


class Verbs(click.Group):
    """Commands that are imported when they are called, and listed without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, attribute, _ = VERBS[cmd_name]
        command: click.Command = getattr(import_module(f"lbctl.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else " `lbctl --help` lists the verbs."
            ctx.fail(f"No such verb '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lbctl")
@click.option(
    "--socket",
    envvar="LBCTL_SOCKET",
    default=DEFAULT_SOCKET,
    show_default=True,
    help="The daemon's socket.",
)
@json_option
@click.pass_context
def lbctl(ctx: click.Context, socket: str) -> None:
    """Turn this machine into an L4 load balancer, and see what it does."""
    ctx.ensure_object(Context).client = Client(socket)


def main() -> None:
    """Run a verb; end with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be no text; it is shown all the same.
        sys.stdout.reconfigure(errors="backslashreplace")
    as_json = any(argument in ("-j", "--json") for argument in sys.argv[1:])
    try:
        # It returns what `--help` and the like end with; a verb returns nothing.
        sys.exit(lbctl(prog_name="lbctl", standalone_mode=False))
    except click.ClickException as wrong:
        show_misuse(wrong, as_json)
        sys.exit(wrong.exit_code)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(1)
    except LbctlError as error:
        show_error(error, as_json)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read has seen enough; what is left in the buffer has no reader.
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
