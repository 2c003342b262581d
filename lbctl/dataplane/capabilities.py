"""What each data path can do, and which one `auto` takes: pure.

`validate` asks before anything is applied; a data path that is asked for something it
cannot do would otherwise refuse it operation by operation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lbctl.errors import DataPlaneError, Unsupported
from lbctl.model import (
    HASHING,
    SCHEDULERS,
    Config,
    Datapath,
    Encapsulation,
    Family,
    FirewallMark,
    Gateway,
    Listen,
    Mode,
    Persistence,
    Proto,
    Service,
)


@dataclass(frozen=True)
class Abilities:
    """What a data path offers. persistence, oneshot, marks: whether it has them. limits:
    which of connections per server."""

    modes: frozenset[Mode]
    families: frozenset[Family]
    protos: frozenset[Proto]
    schedulers: frozenset[str]
    flags: frozenset[str] = frozenset()
    encapsulations: frozenset[Encapsulation] = frozenset()
    persistence: bool = False
    engines: bool = False
    longest_persistence: int = 0  # seconds; 0: any
    oneshot: bool = False
    marks: bool = False
    limits: frozenset[str] = frozenset()
    interfaces: int = 0  # 0: any number
    direct: int = 0  # prefixes of each family; 0: any number


HASH_FLAGS = frozenset(
    {"sh-port", "sh-fallback", "mh-port", "mh-fallback", "flag-1", "flag-2", "flag-3"}
)
ABILITIES: Mapping[Datapath, Abilities] = {
    Datapath.IPVS: Abilities(
        modes=frozenset(Mode),
        families=frozenset(Family),
        protos=frozenset(Proto),
        schedulers=frozenset(SCHEDULERS),
        flags=HASH_FLAGS,
        encapsulations=frozenset(Encapsulation),
        persistence=True,
        engines=True,
        oneshot=True,
        marks=True,
        limits=frozenset({"max_connections", "min_connections"}),
    ),
    Datapath.XDP: Abilities(
        modes=frozenset({Mode.NAT}),
        families=frozenset({Family.IPV4, Family.IPV6}),
        protos=frozenset({Proto.TCP, Proto.UDP}),
        schedulers=frozenset({"mh", "sh", "rr", "wrr", "lc", "wlc"}),
        persistence=True,
        longest_persistence=7200,
        oneshot=True,
        limits=frozenset({"max_connections"}),
        interfaces=8,
        direct=1024,
    ),
}

Path = tuple[str | int, ...]  # into the file
Fault = tuple[Path, str]  # what is asked for, and why it cannot be


def unsupported(config: Config, datapath: Datapath) -> list[Fault]:
    """All that `config` asks for and `datapath` cannot do: where, and what.

    For `auto`: nothing if one data path can do all of it, else what the better one lacks.
    """
    if datapath is Datapath.AUTO:
        return min((unsupported(config, one) for one in ABILITIES), key=len)
    abilities = ABILITIES[datapath]
    found = list(_lacking_room(abilities, config.gateway))
    found += [
        (("services", name, *where), what)
        for name, service in config.services.items()
        for where, what in _lacking(abilities, datapath, service)
    ]
    return [(where, f"{datapath} has no {what}") for where, what in found]


def _lacking_room(can: Abilities, gateway: Gateway) -> Iterator[Fault]:
    if can.interfaces and len(gateway.interfaces) > can.interfaces:
        much = f"{len(gateway.interfaces)} interfaces (it has {can.interfaces})"
        yield ("gateway", "back"), f"room for {much}"
    for version in (4, 6):
        asked = sum(prefix.version == version for prefix in gateway.direct)
        if can.direct and asked > can.direct:
            yield (
                ("gateway", "direct"),
                f"room for {asked} prefixes of IPv{version} (it has {can.direct})",
            )


def _lacking(can: Abilities, datapath: Datapath, service: Service) -> Iterator[Fault]:
    for number, frontend in enumerate(service.listens):
        where = ("listen", number)
        if frontend.family not in can.families:
            yield where, f"{_FAMILY_NAMES[frontend.family]} ({frontend})"
        if isinstance(frontend, FirewallMark) and not can.marks:
            yield where, f"firewall marks ({frontend})"
        if isinstance(frontend, Listen) and frontend.proto not in can.protos:
            yield where, f"{frontend.proto} ({frontend})"
    yield from _lacking_scheduler(can, service)
    yield from _lacking_forwarding(can, service)
    yield from _lacking_persistence(can, service.persistence)
    if service.oneshot and not can.oneshot:
        yield ("oneshot",), "oneshot"
    if service.oneshot and datapath is Datapath.IPVS and service.forwarding.mode in _TRANSLATED:
        # Measured: the kernel drops the entry with the packet (`ops`), and the answer then
        # leaves with the server's address.
        yield (
            ("oneshot",),
            f"oneshot with {service.forwarding.mode} (use dr or tun, or leave it out)",
        )
    hashes = service.scheduler.name in HASHING
    for name, server in service.servers.items():
        for limit in ("max_connections", "min_connections"):
            if getattr(server, limit) and limit not in can.limits:
                yield ("servers", name, limit), f"{limit} of a server"
        if server.max_connections and datapath is Datapath.XDP and hashes:
            # The hash alone says where a flow goes; IPVS's looks at the server, too.
            yield (
                ("servers", name, "max_connections"),
                f"max_connections with {service.scheduler.name} (use wlc, or leave it out)",
            )


def _lacking_persistence(can: Abilities, persistence: Persistence | None) -> Iterator[Fault]:
    if persistence is None:
        return
    if not can.persistence:
        yield ("persistence",), "persistence"
    elif persistence.engine and not can.engines:
        yield ("persistence", "engine"), f"persistence engine '{persistence.engine}'"
    elif can.longest_persistence and persistence.timeout > can.longest_persistence:
        yield ("persistence", "timeout"), f"persistence beyond {can.longest_persistence} s"


def _lacking_scheduler(can: Abilities, service: Service) -> Iterator[Fault]:
    scheduler = service.scheduler
    if scheduler.name not in can.schedulers:
        known = ", ".join(sorted(can.schedulers))
        yield ("scheduler",), f"scheduler '{scheduler.name}' (it has {known})"
    yield from ((("scheduler",), f"flag '{flag}'") for flag in sorted(scheduler.flags - can.flags))


def _lacking_forwarding(can: Abilities, service: Service) -> Iterator[Fault]:
    mode, tunnel = service.forwarding.mode, service.forwarding.tunnel
    if mode not in can.modes:
        yield ("mode",), f"mode '{mode}' (it has {', '.join(sorted(can.modes))})"
    elif tunnel and tunnel.encapsulation not in can.encapsulations:
        yield ("tunnel",), f"{tunnel.encapsulation} tunnels"


_FAMILY_NAMES = {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}
_TRANSLATED = (Mode.NAT, Mode.FULLNAT)


# --- auto -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """datapath: never `auto`. why: for `lbctl get` and the start's event."""

    datapath: Datapath
    why: str


def choose(config: Config, obstacles: Mapping[Datapath, str]) -> Choice:
    """Which data path runs `config`.

    obstacles: what this machine lacks for a data path, if anything. What the file says is
    taken as said. `auto` takes XDP, the faster one, where the file and the machine allow.
    Raises Unsupported, with every reason; DataPlaneError where not the file is to blame.
    """
    wanted = config.gateway.datapath
    if wanted is not Datapath.AUTO:
        faults = _reasons(config, wanted, obstacles)
        if faults:
            raise Unsupported(f"datapath {wanted}: {'; '.join(faults)}", _HINTS[wanted])
        return Choice(wanted, "the file says so")
    against = {one: _reasons(config, one, obstacles) for one in (Datapath.XDP, Datapath.IPVS)}
    if not against[Datapath.XDP]:
        return Choice(Datapath.XDP, "auto: XDP is the fastest, and nothing here needs more")
    if not against[Datapath.IPVS]:
        return Choice(Datapath.IPVS, f"auto: not XDP, since {_first(against[Datapath.XDP])}")
    said = "; ".join(f"{one}: {_first(reasons)}" for one, reasons in against.items())
    if any(obstacles.values()):
        raise DataPlaneError(f"datapath auto: neither can run here: {said}", "mend one of these")
    raise Unsupported(f"datapath auto: neither can run this: {said}", "`lbctl validate` says all")


def _reasons(
    config: Config, datapath: Datapath, obstacles: Mapping[Datapath, str]
) -> Sequence[str]:
    faults = [f"{_shown(where)}: {what}" for where, what in unsupported(config, datapath)]
    return [obstacles[datapath], *faults] if obstacles.get(datapath) else faults


def _shown(path: Path) -> str:
    """`services.web.listen[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]


def _first(reasons: Sequence[str]) -> str:
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return reasons[0] + more


_HINTS = {
    Datapath.XDP: "set datapath: ipvs or auto",
    Datapath.IPVS: "set datapath: xdp or auto",
}
