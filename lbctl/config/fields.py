"""The words of the file: text to values, one parser for each kind.

Every parser raises ValueError with the value, what is wrong with it, and how to mend it.
"""

import re
import shlex
import warnings
from ipaddress import IPv6Address, ip_address, ip_interface, ip_network
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from lbctl.config.duration import seconds, show_duration
from lbctl.config.fault import did_you_mean, show
from lbctl.config.shorthand import Raw
from lbctl.model import (
    SCHEDULERS,
    Address,
    Endpoint,
    FirewallMark,
    Frontend,
    Listen,
    Network,
    Scheduler,
    parse_frontend,
)
from lbctl.model import (
    Interface as AddressInNetwork,
)

_FLAGS = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}
_LONGEST = 300  # characters of an address, a scheduler, ...: longer is not one


class HostPort(NamedTuple):
    """A server's place: without a port it takes that of each listen."""

    address: Address
    port: int | None


def _text(value: object, form: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"{show(value)} is not {form}")
    return value


def usable(address: Address) -> Address:
    """`address`, unless no single machine can have it."""
    if address.is_multicast:
        raise ValueError(f"'{address}' is a multicast address (use that of one machine)")
    if address.is_unspecified or (address.version == 4 and int(address) >> 24 == 0):
        raise ValueError(f"'{address}' is the unspecified address (write the address itself)")
    if str(address) == "255.255.255.255":
        raise ValueError(f"'{address}' is the broadcast address (use that of one machine)")
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"'{address}' names an interface (leave out %{address.scope_id})")
        if address.ipv4_mapped is not None:
            raise ValueError(f"'{address}' is an IPv4 address (write {address.ipv4_mapped})")
    return address


def address(value: object) -> Address:
    text = _text(value, "an address (write 198.51.100.11 or 2001:db8::11)")
    try:
        parsed = ip_address(text)
    except ValueError:
        text = show(value)
        raise ValueError(
            f"{text} is not an address (write 198.51.100.11 or 2001:db8::11; "
            "names are not resolved)"
        ) from None
    return usable(parsed)


def host_port(value: object) -> HostPort:
    form = "ADDRESS or ADDRESS:PORT (names are not resolved)"
    text = _text(value, form)
    try:
        parsed = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    else:
        return HostPort(usable(parsed), None)
    try:
        endpoint = Endpoint.parse(text)
    except ValueError as error:
        if "port" in str(error):
            raise
        raise ValueError(f"{show(value)} is not {form}") from None
    return HostPort(usable(endpoint.address), endpoint.port)


def frontend(value: object) -> Frontend:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} has no address (write ADDRESS:PORT/PROTO)")
    parsed = parse_frontend(_text(value, "ADDRESS:PORT/PROTO"))
    if isinstance(parsed, Listen):
        usable(parsed.address)
    return parsed


def beside(value: object) -> AddressInNetwork:
    """An address of one machine, with the length of its network's prefix."""
    text = _text(value, "an address and its prefix (write 198.51.100.9/24)")
    try:
        one = ip_interface(text)
    except ValueError:
        raise ValueError(f"'{text}' is no address and prefix (write 198.51.100.9/24)") from None
    if "/" not in text:
        raise ValueError(f"'{text}' has no prefix (write {text}/24)")
    usable(one.ip)
    return one


def network(value: object) -> Network:
    text = _text(value, "a network (write 198.51.100.0/24)")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        mended = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"'{text}' is not a network (write 198.51.100.0/24)") from None
    raise ValueError(f"'{text}' has bits set past its prefix (did you mean '{mended}'?)")


def scheduler(value: object) -> Scheduler:
    """`rr`, or a name and its flags: `mh mh-port mh-fallback`."""
    name, *flags = _text(value, f"a scheduler (one of {', '.join(SCHEDULERS)})").split() or [""]
    if name not in SCHEDULERS:
        hint = did_you_mean(name, SCHEDULERS) or f"one of {', '.join(SCHEDULERS)}"
        raise ValueError(f"{show(name)} is not a scheduler ({hint})")
    known = _FLAGS.get(name, ())
    for flag in flags:
        if flag not in known:
            hint = f"it knows {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{show(flag)} is not a flag of {name} ({hint})")
    return Scheduler(name, frozenset(flags))


def statuses(value: object) -> tuple[int, int]:
    """200, "200" or "200-299": an inclusive range."""
    match = re.fullmatch(r"([0-9]{3})(?:-([0-9]{3}))?", str(value))
    if match is None or isinstance(value, float):
        raise ValueError(f"{show(value)} is not an HTTP status (write 200 or 200-299)")
    low, high = int(match[1]), int(match[2] or match[1])
    if not 100 <= low <= high <= 599:
        raise ValueError(f"{show(value)} is not a range of HTTP statuses (100 to 599)")
    return low, high


def share(value: object) -> float:
    """`80%` or 0.8: a share, as a number from 0 to 1."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]+)?) ?%", value)):
        number = float(match[1]) / 100
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(f"{show(value)} is not a share (write 80%)")
    if not 0 <= number <= 1:
        raise ValueError(f"{show(value)} is not a share (write 0% to 100%)")
    return number


def command(value: object) -> tuple[str, ...]:
    """A command line, or a list of its words; the program by its whole path."""
    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"{show(value)} is not a command: {error}") from None
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{show(value)} is not a command (write it, or a list of its words)")
    if not words[0].startswith("/"):
        raise ValueError(f"{show(words[0])} has no whole path (write /usr/local/bin/...)")
    if any("\0" in word for word in words):
        raise ValueError(f"{show(value)} has a NUL in it")
    return tuple(words)


def _latin(value: str) -> str:
    if any(ord(character) > 255 for character in value):
        raise ValueError(f"{show(value)} has characters that are no bytes (write them as \\xNN)")
    return value


def regex(value: str) -> str:
    return _expression(value, value)


def byte_regex(value: str) -> str:
    """One that is matched with bytes; some escapes, such as \\u, are for text only."""
    return _expression(value, value.encode())


def _expression(value: str, pattern: str | bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a later Python reads otherwise
            re.compile(pattern)
    except (re.error, Warning, RecursionError, OverflowError) as error:
        raise ValueError(f"{show(value)} is not a regular expression: {error}") from None
    return value


def _matching(pattern: str, form: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"{show(value)} is not {form}")
        return value

    return AfterValidator(check)


def _listed(value: Raw) -> Raw:
    """One or several, as a list."""
    return [value] if isinstance(value, (str, int)) else value


def within(shortest: str, longest: str) -> AfterValidator:
    """A duration in these bounds, both included."""
    low, high = seconds(shortest), seconds(longest)

    def check(value: float) -> float:
        if low <= value <= high:
            return value
        wrong = "short" if value < low else "long"
        raise ValueError(f"{show_duration(value)} is too {wrong} ({shortest} to {longest})")

    return AfterValidator(check)


def _seconds(value: object) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        text = str(error)
        raise ValueError(f"{show(value)} {text}" if text.startswith("is ") else text) from None


NAME = r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?"

Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=63)]
Duration = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=str | float)]
HostAddress = Annotated[Address, PlainValidator(address, json_schema_input_type=str)]
Where = Annotated[HostPort, PlainValidator(host_port, json_schema_input_type=str)]
Front = Annotated[Listen | FirewallMark, PlainValidator(frontend, json_schema_input_type=str)]
Prefix = Annotated[Network, PlainValidator(network, json_schema_input_type=str)]
Scheduling = Annotated[Scheduler, PlainValidator(scheduler, json_schema_input_type=str)]
Status = Annotated[tuple[int, int], PlainValidator(statuses, json_schema_input_type=str | int)]
Interface = Annotated[
    str, _matching(r"(?!\.\.?$)[^/\s:\x00-\x1f]{1,15}", "an interface (at most 15 characters)")
]
Regex = Annotated[str, AfterValidator(regex)]
ByteRegex = Annotated[str, AfterValidator(byte_regex)]
UrlPath = Annotated[str, _matching(r"/[\x21-\x7e]*", "a path (write /health; encode spaces)")]
HttpHost = Annotated[str, _matching(r"[\x21-\x7e]*", "a host name")]
Method = Annotated[str, _matching(r"[A-Z]{1,20}", "a method (write GET)")]
HeaderName = Annotated[str, _matching(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", "a header's name")]
HeaderValue = Annotated[
    str, _matching(r"[\t\x20-\x7e\x80-\xff]*", "a header's value (one line of Latin-1)")
]

Share = Annotated[float, PlainValidator(share, json_schema_input_type=str | float)]
Command = Annotated[
    tuple[str, ...], PlainValidator(command, json_schema_input_type=str | list[str])
]
Bytes = Annotated[str, AfterValidator(_latin)]
File = Annotated[str, _matching(r"/[^\x00]{1,4000}", "a file (write its whole path)")]
DnsName = Annotated[
    str, _matching(r"(?=.{1,254}$)([a-zA-Z0-9_-]{1,63}\.)*[a-zA-Z0-9_-]{0,63}", "a DNS name")
]
User = Annotated[str, _matching(r"[a-z_][a-z0-9_-]{0,31}", "a user's name")]

Interfaces = Annotated[
    list[Interface], BeforeValidator(_listed, json_schema_input_type=Interface | list[Interface])
]
Prefixes = Annotated[
    list[Prefix], BeforeValidator(_listed, json_schema_input_type=Prefix | list[Prefix])
]
Neighbour = Annotated[AddressInNetwork, PlainValidator(beside, json_schema_input_type=str)]
Beside = Annotated[
    list[Neighbour], BeforeValidator(_listed, json_schema_input_type=Neighbour | list[Neighbour])
]
Fronts = Annotated[
    list[Front], BeforeValidator(_listed, json_schema_input_type=Front | list[Front])
]
Statuses = Annotated[
    list[Status], BeforeValidator(_listed, json_schema_input_type=Status | list[Status])
]
