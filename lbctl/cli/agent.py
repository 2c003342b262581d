"""`lbctl agent`: a small private CA for agents, bringing an agent to a server, asking one.

Agents are separate programs (agents/lbctl_agent.py); nothing here needs the daemon.
"""

import json
import secrets
import shlex
import ssl
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

import lbctl
from lbctl.cli.output import fields, show_json
from lbctl.cli.shared import Context, json_option, pass_context
from lbctl.errors import LbctlError, Unreachable
from lbctl.model import AGENT_PORT

HOME = Path("/etc/lbctl/agents")
GATEWAY = "gateway"  # the name of the certificate that gateways ask with
PLACES = (
    Path(lbctl.__file__).parents[1] / "agents/lbctl_agent.py",
    Path("/usr/share/lbctl/agents/lbctl_agent.py"),
)
# Without sections of our own, the distribution's would make every certificate an authority.
OPENSSL_CONFIG = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = {name}\n"
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

dir_option = click.option(
    "--dir",
    "home",
    type=click.Path(path_type=Path),
    default=HOME,
    show_default=True,
    help="Where the CA and the certificates are.",
)


@click.group()
def agent() -> None:
    """The servers' agents: certificates, installing, asking."""


@agent.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--client", is_flag=True, help="For a gateway, which asks; not for a server.")
@click.option("--days", default=825, show_default=True, help="How long it is good.")
@dir_option
@json_option
@pass_context
def cert(context: Context, names: tuple[str, ...], client: bool, days: int, home: Path) -> None:
    """Issue a certificate for the server of these host names and addresses.

    The first NAME names the file, NAME.pem, with the key inside. The CA is made when it is
    first needed: ca.pem goes to everybody, ca.key stays here.
    """
    file = issue(home, names, client, days)
    if context.json:
        show_json({"file": str(file), "names": names, "days": days, "ca": str(home / "ca.pem")})
        return
    click.echo(f"{file}: for {', '.join(names)}, {days} days, signed by {home / 'ca.pem'}")


@agent.command()
@click.argument("host")
@click.option("--name", "names", multiple=True, help="More names of it for its certificate.")
@click.option("--arguments", default="", help="For the agent's `serve`, in place of the usual.")
@click.option("--dry-run", is_flag=True, help="Show the commands; run none.")
@dir_option
@json_option
@pass_context
def install(
    context: Context,
    host: str,
    names: tuple[str, ...],
    arguments: str,
    dry_run: bool,
    home: Path,
) -> None:
    """Bring the agent to HOST by ssh, with a certificate, and start it (root or sudo there)."""
    bare = host.rpartition("@")[2]
    files = [find_agent(), home / f"{bare}.pem", home / "ca.pem"]
    if not dry_run and not files[1].exists():
        issue(home, (bare, *names), client=False, days=825)
    commands = install_commands(host, files, arguments)
    for command in commands:
        click.echo(f"# {shlex.join(command)}", err=context.json)
        # What ssh has to say is for people: an answer in JSON stays one document.
        sink = sys.stderr if context.json else None
        if not dry_run and subprocess.run(command, stdout=sink, check=False).returncode != 0:
            raise LbctlError(f"{host}: {command[0]} failed", "the lines above say why")
    if context.json:
        show_json({"host": host, "dry_run": dry_run, "commands": commands})


@agent.command()
@click.argument("where", metavar="HOST[:PORT]")
@click.option("--token-file", type=click.Path(path_type=Path), help="The token that it wants.")
@click.option("--plain", is_flag=True, help="HTTP without TLS.")
@click.option("--name", default="", help="The name in its certificate. Default: HOST.")
@dir_option
@json_option
@pass_context
def status(
    context: Context,
    where: str,
    token_file: Path | None,
    plain: bool,
    name: str,
    home: Path,
) -> None:
    """Ask an agent what it says, without the daemon: as a gateway would."""
    host, port = split_host(where)
    token = token_file.read_text().strip() if token_file is not None else ""
    answer = ask(host, port, None if plain else client_context(home), name or host, token)
    if context.json:
        return show_json(answer)
    return click.echo(fields(describe(answer)))


# --- certificates -----------------------------------------------------------------------


def issue(home: Path, names: Sequence[str], client: bool, days: int) -> Path:
    """Make a certificate and its key, and the CA where there is none yet."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca, ca_key, file = home / "ca.pem", home / "ca.key", home / f"{names[0]}.pem"
    if not ca.exists():
        constraints = ("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0")
        use = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl("lbctl agents", ca, ca_key, [*constraints, *use, "-days", "3650"])
    purpose = "clientAuth" if client else "serverAuth"
    key = home / f".{names[0]}.{secrets.token_hex(4)}"
    signed = ["-CA", str(ca), "-CAkey", str(ca_key), "-days", str(days)]
    extensions = [
        *("-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", f"extendedKeyUsage={purpose}"),
        *("-addext", f"subjectAltName={','.join(map(alternative_name, names))}"),
    ]
    try:
        _openssl(names[0], file, key, [*signed, *extensions])
        certificate = file.read_text()
        file.unlink()
        file.touch(mode=0o600)
        file.write_text(certificate + key.read_text())
    finally:
        key.unlink(missing_ok=True)
    return file


def alternative_name(name: str) -> str:
    try:
        return f"IP:{ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(name: str, out: Path, key: Path, more: Sequence[str]) -> None:
    key.touch(mode=0o600)
    base = ["openssl", "req", "-x509", "-config", "/dev/stdin", *EC]
    command = [*base, "-keyout", str(key), "-out", str(out), *more]
    config = OPENSSL_CONFIG.format(name=name)
    try:
        done = subprocess.run(command, input=config, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        raise LbctlError("openssl is not installed", "apt-get install openssl") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise LbctlError(f"{out}: openssl: {said[0]}")


# --- installing -------------------------------------------------------------------------


def find_agent() -> Path:
    for place in PLACES:
        if place.exists():
            return place
    raise LbctlError("lbctl_agent.py is not here", f"looked at {', '.join(map(str, PLACES))}")


def install_commands(host: str, files: Sequence[Path], arguments: str) -> list[list[str]]:
    """What brings agent, certificate and CA there, and starts it; can be run again."""
    words = shlex.split(arguments)
    there = ".lbctl-agent-install"  # in the home of whoever logs in
    script = "; ".join(
        (
            "set -e",
            'sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo',
            "$sudo install -d -m 755 /etc/lbctl-agent",
            f"$sudo install -m 600 {there}/agent.pem /etc/lbctl-agent/agent.pem",
            f"$sudo install -m 644 {there}/ca.pem /etc/lbctl-agent/ca.pem",
            f"$sudo python3 {there}/lbctl_agent.py install {shlex.join(words)}",
            f"rm -rf {there}",
        )
    )
    names = ("lbctl_agent.py", "agent.pem", "ca.pem")
    made = ["ssh", host, f"rm -rf {there} && mkdir -m 700 {there}"]
    copies = [
        ["scp", "-q", str(file), f"{host}:{there}/{name}"]
        for file, name in zip(files, names, strict=True)
    ]
    return [made, *copies, ["ssh", host, script]]


# --- asking -----------------------------------------------------------------------------


def split_host(where: str) -> tuple[str, int]:
    host, colon, port = where.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return host.strip("[]"), int(port)
    return where.strip("[]"), AGENT_PORT


def client_context(home: Path) -> ssl.SSLContext:
    """What a gateway asks with: the CA, and its own certificate if there is one."""
    context = ssl.create_default_context()
    try:
        if (home / "ca.pem").exists():
            context.load_verify_locations(home / "ca.pem")
        if (home / f"{GATEWAY}.pem").exists():
            context.load_cert_chain(home / f"{GATEWAY}.pem")
    except OSError as error:
        raise LbctlError(f"{home}: {error}") from None
    return context


def ask(host: str, port: int, tls: ssl.SSLContext | None, name: str, token: str) -> Any:
    nonce = secrets.token_hex(8)
    connection = HTTPConnection(host, port, timeout=5) if tls is None else _Named(host, port, tls)
    if isinstance(connection, _Named):
        connection.name = name
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", f"/v1/load?nonce={nonce}", headers=headers)
        response = connection.getresponse()
        body = response.read(1 << 20)
    except (OSError, HTTPException) as error:
        mend = f"lbctl agent cert --client {GATEWAY}" if isinstance(error, ssl.SSLError) else ""
        raise Unreachable(f"{host}:{port}: {error}", mend) from None
    finally:
        connection.close()
    if response.status != 200:
        said = body.decode(errors="replace").strip()
        raise Unreachable(f"{host}:{port}: answered {response.status}: {said[:200]}")
    return _decoded(body, nonce, f"{host}:{port}")


class _Named(HTTPSConnection):
    """A connection to an address whose certificate has another name."""

    name = ""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=5, context=context)
        self._tls = context

    def connect(self) -> None:
        HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.name)


def _decoded(body: bytes, nonce: str, where: str) -> Any:
    try:
        answer = json.loads(body)
        if answer["agent"] != "lbctl" or answer["nonce"] != nonce:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise LbctlError(f"{where}: no agent of lbctl answers there") from None
    return answer


def describe(answer: dict[str, Any]) -> list[tuple[str, object]]:
    cgroup = answer["cgroup"]
    where = f"cgroup v{cgroup['version']}, {cgroup['path']}" if cgroup else "the machine's"
    memory, cpu = answer["memory"], answer["cpu"]
    used = f"{memory['bytes'] / 2**20:.0f} of {memory['total'] / 2**20:.0f} MiB"
    rows: list[tuple[str, object]] = [
        ("host", answer["host"]),
        ("limits", where),
        ("cpu", f"{cpu['used'] * 100:.0f} % of {cpu['cores']:g} cores{_pressure(cpu)}"),
        ("memory", f"{memory['used'] * 100:.0f} % ({used}){_pressure(memory)}"),
        *(("disk", f"{d['used'] * 100:.0f} % of {d['mount']}") for d in answer["disks"]),
        ("load", " ".join(f"{one:g}" for one in answer["load"])),
        ("connections", answer["connections"]["established"]),
    ]
    return rows + ([("words", answer["words"])] if answer["words"] else [])


def _pressure(fields_: dict[str, Any]) -> str:
    return f", {fields_['pressure'] * 100:.0f} % pressure" if "pressure" in fields_ else ""
