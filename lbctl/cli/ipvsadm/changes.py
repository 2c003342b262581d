"""ipvsadm's commands as overrides of lbctl's configuration.

A virtual service of ipvsadm is a service of lbctl with one listen. Where lbctl is otherwise
(a service with two listens, one forwarding method for all servers of a service), the command
is refused with the words that do it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_address
from typing import Any, Literal

from lbctl.cli.ipvsadm.argv import Arguments, Command, Misuse, is_number, place
from lbctl.errors import LbctlError
from lbctl.model import (
    Address,
    Encapsulation,
    Endpoint,
    FirewallMark,
    Forwarding,
    Frontend,
    Mode,
    Server,
    Service,
    Tunnel,
    parse_frontend,
)

DEFAULT_SCHEDULER = "wlc"
DEFAULT_PERSISTENCE = "360"  # seconds
TUNNEL_OPTIONS = {"tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"}
METHODS = {"gatewaying": Mode.DR, "ipip": Mode.TUN, "masquerading": Mode.NAT}


class Failure(LbctlError):
    """In ipvsadm's words."""


@dataclass(frozen=True)
class Change:
    """One override. value None: deletes. force: it is meant, even if it is the last server.
    expect: what must be at `path` before."""

    path: tuple[str, ...]
    value: Any
    force: bool = False
    expect: Literal["absent", "any"] = "any"


class Services(Mapping[str, Service]):
    """Services by name, as far as changes depend on them, and what they have become by
    changes that were taken. A look-up costs the same in a table of any size."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._servers = {name: dict(one.servers) for name, one in services.items()}
        self._services = {n: replace(s, servers=self._servers[n]) for n, s in services.items()}
        self._names = {one: name for name, s in services.items() for one in s.listens}
        self._keys: dict[str, dict[Endpoint, str]] = {}

    def __getitem__(self, name: str) -> Service:
        return self._services[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)

    def name_of(self, frontend: Frontend) -> str | None:
        return self._names.get(frontend)

    def keys_of(self, name: str, frontend: Frontend) -> dict[Endpoint, str]:
        """The servers of a service of one listen, by where they are."""
        if name not in self._keys:
            servers = self[name].servers.items()
            self._keys[name] = {one.endpoint(frontend): key for key, one in servers}
        return self._keys[name]

    def take(self, change: Change) -> None:
        match change.path:
            case ("services", name):
                self._forget(name)
                if change.value is not None:
                    (listen,) = map(parse_frontend, change.value["listen"])
                    self._servers[name] = {}  # put in as they come
                    self._services[name] = Service((listen,), self._servers[name])
                    self._names[listen] = name
            case ("services", name, "mode"):
                forwarding = Forwarding(Mode(change.value))
                self._services[name] = replace(self[name], forwarding=forwarding)
            case ("services", name, "tunnel"):
                kind, port = change.value["type"], change.value.get("port", 0)
                forwarding = Forwarding(Mode.TUN, Tunnel(Encapsulation(kind), port))
                self._services[name] = replace(self[name], forwarding=forwarding)
            case ("services", name, "servers", key, *rest):
                self._take_server(name, key, rest, change.value)

    def _forget(self, name: str) -> None:
        if name in self:
            for listen in self._services.pop(name).listens:
                del self._names[listen]
            del self._servers[name]
            self._keys.pop(name, None)

    def _take_server(self, name: str, key: str, rest: list[str], value: Any) -> None:
        (frontend,) = self[name].listens
        keys = self.keys_of(name, frontend)
        servers = self._servers[name]
        if rest:
            servers[key] = replace(servers[key], **{rest[0]: value})
        elif value is None:
            del keys[servers.pop(key).endpoint(frontend)]
        else:
            servers[key] = Server(**{**value, "address": ip_address(value["address"])})
            keys[servers[key].endpoint(frontend)] = key


def changes(arguments: Arguments, services: Services) -> list[Change]:
    """What `arguments` mean for these services. Raises Failure and Misuse."""
    frontend = parse_frontend(arguments.service)
    name = services.name_of(frontend)
    if arguments.command is Command.ADD:
        if name is not None:
            raise Failure("Service already exists", f"it is lbctl's service {name}")
        path = ("services", _name_of(frontend))
        return [Change(path, _new_service(arguments, frontend), expect="absent")]
    if name is None:
        raise Failure("No such service", "`lbctl get services` lists those of lbctl")
    service = _only_listen(name, services[name])
    match arguments.command:
        case Command.EDIT:
            settings = _settings(arguments, frontend)
            # As with ipvsadm: what is not said is not.
            settings = {"persistence": "none", "oneshot": False} | settings
            return [Change(("services", name, key), value) for key, value in settings.items()]
        case Command.DELETE:
            return [Change(("services", name), None, force=True)]
        case Command.ADD_SERVER | Command.EDIT_SERVER | Command.DELETE_SERVER:
            held = services.keys_of(name, frontend)
            return _server_changes(arguments, name, service, held)
        case _:
            raise AssertionError(f"{arguments.command} changes no configuration")


def _only_listen(name: str, service: Service) -> Service:
    if len(service.listens) > 1:
        listens = ", ".join(map(str, service.listens))
        raise Failure(
            f"service {name} has {len(service.listens)} listens ({listens}), and ipvsadm means one",
            f"`lbctl set {name} ...` and `lbctl weight {name}/... ...` change it for all",
        )
    return service


# --- services ---------------------------------------------------------------------------


def _new_service(arguments: Arguments, frontend: Frontend) -> dict[str, Any]:
    # As with ipvsadm: no check, and whoever wants the VIP on an interface puts it there.
    fixed = {"listen": [str(frontend)], "check": "none", "vip": "external"}
    fixed["persistence"] = "none"  # not that of the file's `defaults`
    return {**fixed, "allow_empty": True, "servers": {}} | _settings(arguments, frontend)


def _settings(arguments: Arguments, frontend: Frontend) -> dict[str, Any]:
    options = arguments.options
    words = [options.get("scheduler", DEFAULT_SCHEDULER)]
    words += sorted(flag for flag in options.get("sched-flags", "").split(",") if flag)
    settings: dict[str, Any] = {"scheduler": " ".join(words)}
    if "persistent" in options:
        settings["persistence"] = _persistence(options, frontend)
    elif "netmask" in options or "pe" in options:
        raise Misuse("'netmask' and 'pe' need the 'persistent' option")
    if "ops" in options:
        settings["oneshot"] = True
    return settings


def _persistence(options: Mapping[str, str], frontend: Frontend) -> dict[str, Any]:
    timeout = options["persistent"] or DEFAULT_PERSISTENCE
    if not is_number(timeout):
        raise Misuse(f"illegal timeout for persistent service: {timeout}")
    # All of it, or `defaults` would say the rest.
    prefix = _prefix(options.get("netmask", ""), frontend)
    return {"timeout": int(timeout), "prefix": prefix, "engine": options.get("pe", "")}


def _prefix(mask: str, frontend: Frontend) -> int:
    if not mask:
        return 128 if frontend.family == "ipv6" else 32
    try:
        if frontend.family == "ipv6":
            if not (is_number(mask) and int(mask) <= 128):
                raise ValueError(mask)
            return int(mask)
        return IPv4Network(f"0.0.0.0/{mask}").prefixlen
    except ValueError:
        raise Misuse(f"invalid netmask: {mask}") from None


# --- servers ----------------------------------------------------------------------------


def _server_changes(
    arguments: Arguments, name: str, service: Service, held: Mapping[Endpoint, str]
) -> list[Change]:
    """held: its servers, by where they are."""
    endpoint = _endpoint(arguments, service.listens[0])
    if arguments.command is Command.ADD_SERVER:
        if endpoint in held:
            raise Failure("Destination already exists", f"it is {name}/{held[endpoint]}")
        return _add_server(arguments, name, service, endpoint, by_mark=endpoint.port == 0)
    if endpoint not in held:
        raise Failure("No such destination", f"`lbctl get servers {name}` lists them")
    path = ("services", name, "servers", held[endpoint])
    if arguments.command is Command.DELETE_SERVER:
        return [Change(path, None, force="force" in arguments.options)]
    if (forwarding := _forwarding(arguments, service)) != service.forwarding:
        raise _otherwise(name, service, forwarding)
    old = service.servers[held[endpoint]]
    return [Change((*path, key), value) for key, value in _numbers(arguments, old).items()]


def _endpoint(arguments: Arguments, frontend: Frontend) -> Endpoint:
    address, port = place(arguments.options["real-server"])
    whole = Endpoint.parse(f"[{address}]:1" if ":" in address else f"{address}:1")
    return Server(whole.address, port).endpoint(frontend)


def _add_server(
    arguments: Arguments, name: str, service: Service, endpoint: Endpoint, by_mark: bool
) -> list[Change]:
    forwarding = _forwarding(arguments, service)
    value: dict[str, Any] = {"address": str(endpoint.address)}
    if not by_mark:
        value["port"] = endpoint.port
    value |= _numbers(arguments, Server(endpoint.address))
    added = Change(("services", name, "servers", _key_of(endpoint)), value, expect="absent")
    if service.servers:
        if forwarding != service.forwarding:
            raise _otherwise(name, service, forwarding)
        return [added]
    method = [Change(("services", name, "mode"), str(forwarding.mode))]
    if (tunnel := forwarding.tunnel) is not None:
        port = {"port": tunnel.port} if tunnel.encapsulation is Encapsulation.GUE else {}
        value = {"type": str(tunnel.encapsulation)} | port
        method.append(Change(("services", name, "tunnel"), value))
    return [*method, added]


def _otherwise(name: str, service: Service, said: Forwarding) -> Failure:
    has, says = _shown(service.forwarding), _shown(said)
    return Failure(
        f"service {name} forwards by {has}, and this says {says} (ipvsadm's default is -g, dr)",
        f"`lbctl set {name} mode={said.mode}` changes it for all of its servers"
        if said.mode is not service.forwarding.mode
        else f"the file's `tunnel` of {name} is for all of its servers",
    )


def _shown(forwarding: Forwarding) -> str:
    tunnel = forwarding.tunnel
    if tunnel is None:
        return str(forwarding.mode)
    port = f" to port {tunnel.port}" if tunnel.port else ""
    return f"{forwarding.mode} with {tunnel.encapsulation}{port}"


def _forwarding(arguments: Arguments, service: Service) -> Forwarding:
    """What is said; `-a` without a word is direct routing, as with ipvsadm, also in a service
    of another method, and `-e` leaves what there is. `-m` is full NAT where that is what the
    service has: ipvsadm has one word for both."""
    options, has = arguments.options, service.forwarding
    said = [mode for option, mode in METHODS.items() if option in options]
    if len(said) > 1:
        raise Misuse("multiple forwarding methods specified")
    if said == [Mode.TUN]:
        return Forwarding(Mode.TUN, _tunnel(options))
    if options.keys() & TUNNEL_OPTIONS:
        raise Misuse("options of a tunnel need the 'ipip' option")
    if said == [Mode.NAT] and has.mode is Mode.FULLNAT:
        return has
    if not said and arguments.command is Command.EDIT_SERVER:
        return has
    return Forwarding(said[0] if said else Mode.DR)


def _tunnel(options: Mapping[str, str]) -> Tunnel:
    if {"tun-csum", "tun-remcsum"} & options.keys():
        raise Misuse("lbctl's tunnels have no checksum options")
    kind = options.get("tun-type", Encapsulation.IPIP)
    if kind not in list(Encapsulation):
        raise Misuse(f"illegal tunnel type specified: {kind}")
    port = _number("tun-port", options) if kind == Encapsulation.GUE else 0
    return Tunnel(Encapsulation(kind), port)


def _numbers(arguments: Arguments, old: Server) -> dict[str, int]:
    """Weight and thresholds; what is not said is ipvsadm's default, also for `-e`."""
    options = arguments.options
    weight = _number("weight", options, 1)
    upper, lower = _number("u-threshold", options, 0), _number("l-threshold", options, 0)
    # In an order that is valid at each step: the lower one is never above the upper.
    pairs = [("max_connections", upper), ("min_connections", lower)]
    if upper < old.min_connections:
        pairs.reverse()
    changed = {key: value for key, value in pairs if value != getattr(old, key)}
    return {"weight": weight, **changed}


def _number(name: str, options: Mapping[str, str], default: int = 0) -> int:
    text = options.get(name, str(default))
    if not is_number(text):
        raise Misuse(f"illegal {name} specified: {text}")
    return int(text)


# --- names ------------------------------------------------------------------------------


def _name_of(frontend: Frontend) -> str:
    """`192-0-2-10-80-tcp`: a name that lbctl takes, that says what it is, and that no other
    listen has."""
    if isinstance(frontend, FirewallMark):
        return f"fwmark-{frontend.mark}-{frontend.family}"
    return f"{_word(frontend.address)}-{frontend.port}-{frontend.proto}"


def _key_of(endpoint: Endpoint) -> str:
    return f"{_word(endpoint.address)}-{endpoint.port}"


def _word(address: Address) -> str:
    """`::` stays two signs, so what is left out of an address stays where it was."""
    if address.version == 4:
        return str(address).replace(".", "-")
    word = str(address).replace(":", "-").replace(".", "_")
    return f"0{word}" if word.startswith("-") else word
