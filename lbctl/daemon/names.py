"""Names as people type them, to the objects they mean."""

from collections.abc import Iterable
from difflib import get_close_matches

from lbctl.errors import Exit, LbctlError, NotFound
from lbctl.model import Config, ServerName


class BadName(LbctlError):
    """Not the shape of a name."""

    exit_code = Exit.USAGE


def service_named(config: Config, name: str) -> str:
    if name not in config.services:
        raise NotFound(f"{name}: there is no such service", did_you_mean(name, config.services))
    return name


def server_named(config: Config, text: str) -> ServerName:
    try:
        name = ServerName.parse(text)
    except ValueError as error:
        raise BadName(str(error)) from None
    servers = config.services[service_named(config, name.service)].servers
    if name.server not in servers:
        raise NotFound(f"{name}: there is no such server", did_you_mean(name.server, servers))
    return name


def servers_named(config: Config, text: str) -> list[ServerName]:
    """One server, or all of a service."""
    if "/" in text:
        return [server_named(config, text)]
    return [ServerName(text, key) for key in config.services[service_named(config, text)].servers]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    if close := get_close_matches(name, known, n=1):
        return f"did you mean '{close[0]}'?"
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"there is: {listed}" if known else "there is none yet"
