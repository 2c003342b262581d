"""What one section alone cannot show: services against each other, servers against listens.

Each check is a generator of faults over `lbctl.model` values; paths are those of the file.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

from lbctl.config.duration import show_duration
from lbctl.config.fault import Fault
from lbctl.config.shorthand import Path
from lbctl.model import (
    PORTLESS,
    WEIGHTLESS,
    Address,
    Check,
    Config,
    Endpoint,
    ExecProbe,
    Family,
    Frontend,
    Gateway,
    LastResort,
    Listen,
    Mode,
    Proto,
    Server,
    Service,
    TcpProbe,
    Timing,
    Trigger,
    VipOwner,
    family_of,
)
from lbctl.world import Target, targets


def among(services: Mapping[str, Service]) -> Iterator[Fault]:
    """Faults between services, and between the servers of each."""
    yield from _vips(services)
    for name, service in services.items():
        yield from _endpoints(name, service)


def within(name: str, service: Service) -> Iterator[Fault]:
    """Faults between the settings of one service that is sound so far."""
    at = ("services", name)
    for path, server in _servers(name, service):
        yield from _families(path, server, service)
        yield from _ports(path, server, service)
    yield from _last_resort(at, service)
    yield from _forwarding(at, service)
    yield from _persistence(at, service)
    yield from _oneshot(at, service)
    yield from _quorum(at, service)
    yield from _hooks(at, service)


def passage(services: Mapping[str, Service], gateway: Gateway) -> Iterator[Fault]:
    """Faults of checks that go through servers."""
    first: dict[Family, Path] = {}
    servers = {one.address for service in services.values() for one in service.servers.values()}
    for index, one in enumerate(gateway.probe):
        path: Path = ("gateway", "probe", index)
        if (known := first.setdefault(family_of(one.ip), path)) != path:
            yield Fault(path, f"'{one}' is a second of its family (keep one)", also=known)
        if one.ip in servers:
            yield Fault(path, f"'{one.ip}' is a server's (write an address that nobody has)")
    for name, service in services.items():
        check = service.check
        if check is not None and check.through:
            for text in _passage_faults(service, check, first.keys()):
                yield Fault(("services", name, "check", "through"), text)


def _passage_faults(service: Service, check: Check, families: Collection[Family]) -> Iterator[str]:
    mode, listen = service.forwarding.mode, service.listens[0]
    if mode not in (Mode.DR, Mode.TUN):
        yield f"is for modes dr and tun: in mode {mode} the server has no VIP (remove it)"
    elif not isinstance(listen, Listen):
        yield f"'{listen}' has no address to ask for (remove it)"
    elif check.address is not None:
        yield "asks for the VIP, and address names another (keep one)"
    elif listen.family not in families:
        wanted = "198.51.100.9/24" if listen.family is Family.IPV4 else "2001:db8::9/64"
        yield f"needs an address to ask from (write gateway.probe: {wanted}, one that is unused)"
    elif any(family_of(one.address) is not listen.family for one in service.servers.values()):
        yield "needs servers of the VIP's address family (remove it)"


def warnings(name: str, service: Service) -> Iterator[Fault]:
    """What is valid and probably not meant."""
    at = ("services", name)
    protos = {listen.proto for listen in service.listens if isinstance(listen, Listen)}
    if service.check is not None:
        timing = service.check.timing
        if timing.fast_interval > max(timing.interval, 0.5):
            text = (
                f"{show_duration(timing.fast_interval)} is longer than the interval, "
                f"{show_duration(timing.interval)}: it has no effect"
            )
            yield Fault((*at, "check", "fast_interval"), text)
        if Proto.TCP not in protos and protos and service.check.probe == TcpProbe():
            kinds = " and ".join(sorted(protos))
            text = f"a tcp check of a service of {kinds} (write check: none, or check.port)"
            if service.check.port is None:
                yield Fault((*at, "check"), text, on_key=True)
        if service.forwarding.mode in (Mode.DR, Mode.TUN) and not service.check.through:
            text = "asks the server's own address: one without the VIP passes (write through: true)"
            yield Fault((*at, "check"), text, on_key=True)
    if service.scheduler.name in WEIGHTLESS and (service.overload or service.slow_start):
        name = service.scheduler.name
        instead = "wrr" if name == "rr" else "wlc"
        text = f"{name} knows no weights: load only takes servers out, nothing starts slowly"
        yield Fault((*at, "scheduler"), f"{text} (use {instead})")
    if service.sorry is not None and service.last_resort is not LastResort.SORRY:
        text = f"has no effect: last_resort is {service.last_resort} (write last_resort: sorry)"
        yield Fault((*at, "sorry"), text, on_key=True)
    if service.servers and not any(server.weight for server in service.servers.values()):
        text = "every server has weight 0: none takes new connections"
        yield Fault((*at, "servers"), text, on_key=True)


def paces(config: Config) -> Iterator[Fault]:
    """Warnings about a check that services share and want at different paces: it runs once,
    and its rise and fall are one service's. One for each pair of services."""
    first: dict[Target, str] = {}
    said: set[tuple[str, str]] = set()
    for name, target in targets(config):
        here, known = name.service, first.setdefault(target, name.service)
        if (known, here) in said or _timing(config, known) == _timing(config, here):
            continue
        said.add((known, here))
        text = (
            f"{target.endpoint} is checked for {known} at another pace, and one check serves both"
        )
        mend = "write the same interval, timeout, rise and fall, or let the probes differ"
        at: Path = ("services", here, "check")
        yield Fault(at, f"{text} ({mend})", on_key=True, also=("services", known, "check"))


def _timing(config: Config, service: str) -> Timing | None:
    check = config.services[service].check
    return None if check is None else check.timing


def overlaps(listens: Iterable[tuple[Path, Frontend]]) -> Iterator[Fault]:
    """Listens that are written twice, in two services or in one."""
    first: dict[Frontend, Path] = {}
    for path, listen in listens:
        if (known := first.setdefault(listen, path)) != path:
            yield Fault(path, f"'{listen}' overlaps (a listen belongs to one service)", also=known)


def _vips(services: Mapping[str, Service]) -> Iterator[Fault]:
    vips: dict[Address, tuple[Path, VipOwner]] = {}
    for name, service in services.items():
        for index, listen in enumerate(service.listens):
            if not isinstance(listen, Listen):
                continue
            here: Path = ("services", name, "listen", index)
            path, owner = vips.setdefault(listen.address, (here, service.vip))
            if owner is not service.vip:
                text = f"'{listen.address}' is {service.vip} here and {owner} elsewhere (keep one)"
                yield Fault(here, text, also=path)
    for name, service in services.items():
        for path, server in _servers(name, service):
            if server.address in vips:
                text = f"'{server.address}' is a VIP: traffic would loop (write the server's own)"
                yield Fault((*path, "address"), text, also=vips[server.address][0])


def _endpoints(name: str, service: Service) -> Iterator[Fault]:
    """A data path knows a server by its endpoint."""
    first: dict[tuple[Frontend, Endpoint], Path] = {}
    for path, server in _servers(name, service):
        for listen in service.listens:
            endpoint = server.endpoint(listen)
            if (known := first.setdefault((listen, endpoint), path)) != path:
                shown = endpoint if endpoint.port else endpoint.address
                yield Fault(path, f"'{shown}' is in this service twice (keep one)", also=known)
                break
    if service.sorry is not None and "sorry" in service.servers:
        text = "is the name of the sorry server (rename this one)"
        yield Fault(("services", name, "servers", "sorry"), text, on_key=True)


def _servers(name: str, service: Service) -> Iterator[tuple[Path, Server]]:
    for key, server in service.servers.items():
        yield ("services", name, "servers", key), server
    if service.sorry is not None:
        yield ("services", name, "sorry"), service.sorry


def _families(path: Path, server: Server, service: Service) -> Iterator[Fault]:
    """Only a tunnel carries one family in the other."""
    if service.forwarding.mode is Mode.TUN:
        return
    for listen in service.listens:
        if family_of(server.address) is not listen.family:
            text = (
                f"'{server.address}' cannot serve '{listen}': another address family "
                f"(mode {service.forwarding.mode} needs one service for each)"
            )
            yield Fault((*path, "address"), text)
            return


def _ports(path: Path, server: Server, service: Service) -> Iterator[Fault]:
    """A server of `dr` or `tun` gets the client's packet as it is."""
    mode = service.forwarding.mode
    ports = {listen.port for listen in service.listens if isinstance(listen, Listen)}
    if mode in (Mode.DR, Mode.TUN) and server.port is not None and ports - {server.port}:
        wanted = ", ".join(str(port) for port in sorted(ports))
        text = f"{server.port}: mode {mode} keeps the listen's port, {wanted} (leave it out)"
        yield Fault((*path, "port"), text)
    first = service.listens[0]
    if (
        service.check is None
        or service.check.port
        or isinstance(first, Listen)
        or isinstance(service.check.probe, (*PORTLESS, ExecProbe))
        or path[2] == "sorry"
    ):
        return
    if server.port is None:
        text = f"has no port, and '{first}' gives none: nothing to check (write check.port)"
        yield Fault(path, text)


def _last_resort(at: Path, service: Service) -> Iterator[Fault]:
    if service.last_resort is LastResort.SORRY and service.sorry is None:
        yield Fault((*at, "last_resort"), "sorry needs a server (write sorry: ADDRESS:PORT)")


def _forwarding(at: Path, service: Service) -> Iterator[Fault]:
    mode = service.forwarding.mode
    if service.forwarding.tunnel is not None and mode is not Mode.TUN:
        yield Fault((*at, "tunnel"), f"is for mode tun, not {mode} (write mode: tun)", on_key=True)


def _persistence(at: Path, service: Service) -> Iterator[Fault]:
    if service.persistence is None:
        return
    prefix = service.persistence.prefix
    if prefix > 32 and any(listen.family is Family.IPV4 for listen in service.listens):
        text = f"{prefix} is too large for IPv4 clients (at most 32)"
        yield Fault((*at, "persistence", "prefix"), text)


def _oneshot(at: Path, service: Service) -> Iterator[Fault]:
    for listen in service.listens:
        if service.oneshot and isinstance(listen, Listen) and listen.proto is not Proto.UDP:
            yield Fault((*at, "oneshot"), f"is for UDP, and '{listen}' is not (remove it)")
            return


def _quorum(at: Path, service: Service) -> Iterator[Fault]:
    wanted = service.quorum.servers + service.quorum.hysteresis
    if wanted > 1 and wanted > len(service.servers):
        text = f"needs {wanted} servers, and there are {len(service.servers)} (lower it)"
        yield Fault((*at, "quorum"), text, on_key=True)


def _hooks(at: Path, service: Service) -> Iterator[Fault]:
    for hook in service.hooks:
        if hook.trigger is Trigger.OVERLOAD and service.agent is None:
            yield Fault((*at, str(hook.trigger)), "needs an agent (write agent)", on_key=True)
        elif hook.trigger is not Trigger.OVERLOAD and service.check is None:
            yield Fault((*at, str(hook.trigger)), "needs a check (remove check: none)", on_key=True)
