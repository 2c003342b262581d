"""Names as people type them, to the objects they mean."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from lbctl.errors import Exit, LbctlError, NotFound
from lbctl.model import Config, ServerName, Service


class BadName(LbctlError):
    """Not the shape of a name."""

    exit_code = Exit.USAGE


Known = Mapping[str, Collection[str]]  # service -> its servers


@dataclass(frozen=True)
class Configured(Mapping[str, Collection[str]]):
    """The names in a configuration; nothing is copied, however many there are."""

    services: Mapping[str, Service]

    def __getitem__(self, service: str) -> Collection[str]:
        return self.services[service].servers.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.services)

    def __len__(self) -> int:
        return len(self.services)


def configured(config: Config) -> Known:
    return Configured(config.services)


def service_named(known: Known, name: str) -> str:
    if name not in known:
        raise NotFound(f"{name}: there is no such service", did_you_mean(name, known))
    return name


def server_named(known: Known, text: str) -> ServerName:
    try:
        name = ServerName.parse(text)
    except ValueError as error:
        raise BadName(str(error)) from None
    servers = known[service_named(known, name.service)]
    if name.server not in servers:
        raise NotFound(f"{name}: there is no such server", did_you_mean(name.server, servers))
    return name


def servers_named(known: Known, text: str) -> list[ServerName]:
    """One server, or all of a service."""
    if "/" in text:
        return [server_named(known, text)]
    return [ServerName(text, key) for key in known[service_named(known, text)]]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    if close := get_close_matches(name, known, n=1):
        return f"did you mean '{close[0]}'?"
    listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"there is: {listed}" if known else "there is none yet"
