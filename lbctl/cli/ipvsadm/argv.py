"""ipvsadm's command line (ipvsadm 1.31), as a value.

One command, options that it allows, in any order: short ones may be joined (`-Ln`, `-Lcn`),
long ones may carry their value behind `=`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address


class Command(StrEnum):
    """By the names that ipvsadm's own messages use."""

    ADD = "add-service"
    EDIT = "edit-service"
    DELETE = "delete-service"
    CLEAR = "flush"
    RESTORE = "restore"
    SAVE = "save"
    ADD_SERVER = "add-server"
    EDIT_SERVER = "edit-server"
    DELETE_SERVER = "delete-server"
    LIST = "list"
    ZERO = "zero"
    SET = "set"
    START_DAEMON = "start-daemon"
    STOP_DAEMON = "stop-daemon"
    HELP = "help"


class Misuse(Exception):
    """A command line that ipvsadm would not take."""


@dataclass(frozen=True)
class Arguments:
    """service: `192.0.2.10:80/tcp` or `fwmark:7/ipv4`. options: by their long names; those
    without a value are "". values: what follows --set or --start-daemon."""

    command: Command
    service: str = ""
    options: dict[str, str] = field(default_factory=dict)
    values: tuple[str, ...] = ()


SHORT = {
    **{"A": "add-service", "E": "edit-service", "D": "delete-service", "C": "clear"},
    **{"R": "restore", "S": "save", "a": "add-server", "e": "edit-server"},
    **{"d": "delete-server", "L": "list", "l": "list", "Z": "zero", "h": "help"},
    **{"t": "tcp-service", "u": "udp-service", "f": "fwmark-service", "6": "ipv6"},
    **{"s": "scheduler", "p": "persistent", "M": "netmask", "r": "real-server"},
    **{"g": "gatewaying", "i": "ipip", "m": "masquerading", "w": "weight"},
    **{"x": "u-threshold", "y": "l-threshold", "b": "sched-flags", "o": "ops"},
    **{"n": "numeric", "c": "connection"},
}
COMMANDS: dict[str, Command] = {
    **{str(one): one for one in Command if one is not Command.CLEAR},
    "clear": Command.CLEAR,
}
VALUES = {"set": 3, "start-daemon": 1, "stop-daemon": 1}  # arguments of a command
PROTOCOLS = {"tcp-service": "tcp", "udp-service": "udp", "sctp-service": "sctp"}
VALUED = {  # options with an argument
    *PROTOCOLS,
    *("fwmark-service", "scheduler", "netmask", "real-server", "weight", "u-threshold"),
    *("l-threshold", "sched-flags", "pe", "tun-type", "tun-port", "syncid", "sync-maxlen"),
    *("mcast-interface", "mcast-group", "mcast-port", "mcast-ttl"),
}
LISTINGS = {"stats", "rate", "thresholds", "persistent-conn"}
_SERVICE = {*PROTOCOLS, "fwmark-service", "ipv6"}
_OF_SERVICE = {"scheduler", "persistent", "netmask", "pe", "sched-flags", "ops"}
_OF_SERVER = {"real-server", "gatewaying", "ipip", "masquerading", "weight", "u-threshold"}
_OF_SERVER |= {"l-threshold", "tun-type", "tun-port", "tun-nocsum", "tun-csum", "tun-remcsum"}
_OF_SYNC = {"mcast-interface", "syncid", "sync-maxlen", "mcast-group", "mcast-port", "mcast-ttl"}
ALLOWED: dict[Command, set[str]] = {
    Command.ADD: _SERVICE | _OF_SERVICE,
    Command.EDIT: _SERVICE | _OF_SERVICE,
    Command.DELETE: _SERVICE,
    Command.CLEAR: {"yes"},
    Command.RESTORE: set(),
    Command.SAVE: {"numeric"},
    Command.ADD_SERVER: _SERVICE | _OF_SERVER,
    Command.EDIT_SERVER: _SERVICE | _OF_SERVER,
    Command.DELETE_SERVER: _SERVICE | {"real-server", "force"},
    Command.LIST: _SERVICE
    | LISTINGS
    | {"numeric", "connection", "timeout", "daemon", "exact", "sort", "nosort"},
    Command.ZERO: _SERVICE,
    Command.SET: set(),
    Command.START_DAEMON: _OF_SYNC,
    Command.STOP_DAEMON: {"syncid"},
    Command.HELP: set(),
}
KNOWN = {"ipv6", *(name for names in ALLOWED.values() for name in names), *COMMANDS}
NEEDS_SERVICE = {
    *(Command.ADD, Command.EDIT, Command.DELETE),
    *(Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER),
}
NEEDS_SERVER = {Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER}


def parse(argv: Sequence[str]) -> Arguments:
    """Raises Misuse. No words at all: `-L`, as with ipvsadm."""
    command: Command | None = None
    options: dict[str, str] = {}
    values: tuple[str, ...] = ()
    words = list(argv)
    while words:
        word = words.pop(0)
        for name, given in _names(word):
            if name in COMMANDS:
                if command is not None:
                    raise Misuse("multiple commands specified")
                command = COMMANDS[name]
                count = VALUES.get(name, 0)
                values, words = tuple(words[:count]), words[count:]
                if len(values) < count:
                    raise Misuse(f"option --{name} needs {count} arguments")
                continue
            if name in options:
                raise Misuse(f"multiple '{name}' options specified")
            if name in VALUED:
                if given is None and not words:
                    raise Misuse(f"option --{name} needs an argument")
                given = words.pop(0) if given is None else given
            elif name == "persistent" and given is None and words and words[0][:1] != "-":
                given = words.pop(0)
            options[name] = given or ""
    return _checked(command or Command.LIST, options, values)


def _names(word: str) -> Iterator[tuple[str, str | None]]:
    """The options that a word names, by long name, with a value that is joined to it."""
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        if name not in KNOWN:
            raise Misuse(f"unknown option --{name}")
        yield name, value if equals else None
        return
    if len(word) < 2 or word[0] != "-":
        raise Misuse(f"unexpected argument {word}")
    for at, letter in enumerate(word[1:], 2):
        if letter not in SHORT:
            raise Misuse(f"unknown option -{letter}")
        name = SHORT[letter]
        if name in VALUED or (name == "persistent" and is_number(word[at:])):
            yield name, word[at:] or None
            return
        yield name, None


def _checked(command: Command, options: dict[str, str], values: tuple[str, ...]) -> Arguments:
    for name in options:
        if name not in ALLOWED[command]:
            shown = "service-address" if name in _SERVICE else name
            raise Misuse(f"Illegal '{shown}' option with the '{command}' command")
    services = [name for name in (*PROTOCOLS, "fwmark-service") if name in options]
    if len(services) > 1:
        raise Misuse("multiple service addresses specified")
    if not services and command in NEEDS_SERVICE:
        raise Misuse(f"You need to supply the 'service-address' option for the '{command}' command")
    if command in NEEDS_SERVER and "real-server" not in options:
        raise Misuse(f"You need to supply the 'real-server' option for the '{command}' command")
    conflict = sorted(LISTINGS & options.keys())
    if len(conflict) > 1:
        raise Misuse(f"The option '{conflict[1]}' conflicts with the '{conflict[0]}' option")
    service = _service(services[0], options) if services else ""
    return Arguments(command, service, options, values)


def _service(kind: str, options: dict[str, str]) -> str:
    text = options[kind]
    if kind == "fwmark-service":
        if not (is_number(text) and 0 < int(text) < 2**32):
            raise Misuse(f"illegal firewall mark {text}")
        return f"fwmark:{text}/{'ipv6' if 'ipv6' in options else 'ipv4'}"
    address, port = place(text)
    if port is None:
        raise Misuse(f"{text}: lbctl has no service for all ports (write {address}:PORT)")
    return f"{bracketed(address)}:{port}/{PROTOCOLS[kind]}"


def place(text: str) -> tuple[str, int | None]:
    """ADDRESS, ADDRESS:PORT, [ADDRESS]:PORT: the address and the port. Raises Misuse."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text, ""
    try:
        address = str(ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise Misuse(f"illegal address {text} (lbctl takes numbers, not names)") from None
    if not port or port == "0":
        return address, None
    if not (is_number(port) and int(port) < 65536):
        raise Misuse(f"illegal port in {text}")
    return address, int(port)


def is_number(text: str) -> bool:
    """Plain digits, and no more of them than any of ipvsadm's numbers has."""
    return len(text) <= 10 and text.isascii() and text.isdigit()


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
