"""`lbctl vrrp`: the process; its options are `lbctl.vrrp.run`'s own."""

import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def vrrp(options: tuple[str, ...]) -> None:
    """Run the virtual routers, in the foreground."""
    from lbctl.vrrp.run import main

    sys.exit(main(list(options)))
