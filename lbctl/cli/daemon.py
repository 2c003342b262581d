"""`lbctl daemon`."""

from pathlib import Path

import click

from lbctl.cli.client import DEFAULT_SOCKET


@click.command()
@click.option(
    "--config",
    envvar="LBCTL_CONFIG",
    type=click.Path(path_type=Path),
    default=Path("/etc/lbctl/lbctl.yaml"),
    show_default=True,
    help="The file to run.",
)
@click.option(
    "--socket",
    envvar="LBCTL_SOCKET",
    type=click.Path(path_type=Path),
    help=f"Where the API answers.  [default: {DEFAULT_SOCKET}]",
)
@click.option(
    "--state",
    envvar="LBCTL_STATE",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/lbctl"),
    show_default=True,
    help="What survives a restart.",
)
@click.option(
    "--pins",
    envvar="LBCTL_PINS",
    type=click.Path(path_type=Path),
    default=Path("/sys/fs/bpf/lbctl"),
    show_default=True,
    help="Where the data path's maps and programs are pinned.",
)
@click.option(
    "--node", envvar="LBCTL_NODE", help="Whose values of a file for several gateways (LBCTL_NODE)."
)
@click.option(
    "--vrrp",
    envvar="LBCTL_VRRP_SOCKET",
    type=click.Path(path_type=Path),
    default=Path("/run/lbctl/vrrp.sock"),
    show_default=True,
    help="The VRRP process's socket.",
)
@click.option("--datapath", default="", hidden=True, help="fake, fake:DIRECTORY")
@click.pass_context
def daemon(
    ctx: click.Context,
    config: Path,
    socket: Path | None,
    state: Path,
    pins: Path,
    node: str | None,
    datapath: str,
    vrrp: Path,
) -> None:
    """Run the daemon, in the foreground; TERM ends it, HUP reads the file again.

    The data path stays up when the daemon ends, however it ends.
    """
    if datapath and datapath.partition(":")[0] != "fake":
        raise click.UsageError(f"--datapath {datapath}: only fake; the file names every other")
    from lbctl.daemon.run import Options, run

    given = ctx.parent.params["socket"] if ctx.parent is not None else DEFAULT_SOCKET
    run(Options(config, socket or Path(given), state, pins, node, datapath, vrrp))
