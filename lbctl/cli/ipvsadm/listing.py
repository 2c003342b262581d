"""ipvsadm's output (1.31), byte for byte, from the daemon's `GET /v1/ipvs`.

Numbers only, as with `-n`. Where ipvsadm is odd, so is this: marks above 2^31 come out
negative, and addresses are ordered by their difference as a signed number.
"""

from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Network, ip_address
from typing import Any, TypeVar

from lbctl.cli.ipvsadm.argv import bracketed

Json = dict[str, Any]
T = TypeVar("T")

COLUMNS = {
    "": (
        "Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
    ),
    "stats": (
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
        "  -> RemoteAddress:Port",
    ),
    "rate": (
        "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
        "  -> RemoteAddress:Port",
    ),
    "thresholds": (
        "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ",
        "  -> RemoteAddress:Port",
    ),
    "persistent-conn": (
        "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ",
        "  -> RemoteAddress:Port",
    ),
}
FORWARDING = {"nat": "Masq", "fullnat": "Masq", "dr": "Route", "tun": "Tunnel"}
METHODS = {"nat": "-m", "fullnat": "-m", "dr": "-g", "tun": "-i"}
SERVICE_OPTIONS = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}


def show(answer: Json, kind: str = "", exact: bool = False, ordered: bool = True) -> Iterator[str]:
    """`-Ln`, and with a kind: `--stats`, `--rate`, `--thresholds`, `--persistent-conn`."""
    yield f"IP Virtual Server version {answer['version']} (size={answer['size']})"
    yield from show_services(answer["services"], kind, exact, ordered)


def show_services(
    services: Sequence[Json], kind: str = "", exact: bool = False, ordered: bool = True
) -> Iterator[str]:
    """The same without the version: what ipvsadm prints of one service."""
    yield from COLUMNS[kind]
    for service in _in_order(services, _compare_services) if ordered else services:
        counted = _numbers(service, kind, exact) if kind in ("stats", "rate") else ""
        name = f"{service['proto'].upper():<4} {_name(service)}"
        if service["proto"] == "fwmark":
            name = f"FWM  {_name(service)}{' IPv6' if service['family'] == 'ipv6' else ''}"
        yield f"{name:<33}{counted}" if counted else f"{name} {_flags(service)}"
        servers = service["servers"]
        for server in _in_order(servers, _compare_servers) if ordered else servers:
            yield _server(server, kind, exact)


def save(answer: Json) -> Iterator[str]:
    """`-Sn`: lines for `-R`."""
    for service in _in_order(answer["services"], _compare_services):
        where = _option(service)
        yield f"-A {where} {_service_options(service)}"
        for server in _in_order(service["servers"], _compare_servers):
            method = METHODS[server["mode"]]
            yield f"-a {where} -r {_place(server)} {method} -w {server['weight']}{_tunnel(server)}"


def _service_options(service: Json) -> str:
    words = ["-s", service["scheduler"]]
    if lasting := service["persistence"]:
        words += ["-p", str(lasting["timeout"])]
        if lasting["prefix"] != _width(service):
            words += ["-M", _mask(service)]
        if lasting["engine"]:
            words += ["--pe", lasting["engine"]]
    if service["oneshot"]:
        words.append("-o")
    if service["flags"]:
        words += ["-b", _flag_names(service)]
    return " ".join(words)


def _flags(service: Json) -> str:
    words = [service["scheduler"]]
    if service["flags"]:
        words.append(f"({_flag_names(service)})")
    if lasting := service["persistence"]:
        words.append(f"persistent {lasting['timeout']}")
        if lasting["prefix"] != _width(service):
            words.append(f"mask {_mask(service)}")
        if lasting["engine"]:
            words.append(f"pe {lasting['engine']}")
    if service["oneshot"]:
        words.append("ops")
    return " ".join(words)


def _flag_names(service: Json) -> str:
    """Of `sh` and `mh`, ipvsadm knows only the two flags that have names."""
    named = service["scheduler"] in ("sh", "mh")
    return ",".join(flag for flag in service["flags"] if not (named and flag == "flag-3"))


def _server(server: Json, kind: str, exact: bool) -> str:
    name = f"  -> {_place(server):<28}"
    counts = f"{server['active']:<10} {server['inactive']:<10}"
    match kind:
        case "stats" | "rate":
            return name + _numbers(server, kind, exact)
        case "thresholds":
            return f"{name} {server['upper']:<10} {server['lower']:<10} {counts}"
        case "persistent-conn":
            return f"{name} {server['weight']:<9} {server['persistent']:<11} {counts}"
        case _:
            way = FORWARDING[server["mode"]]
            return f"{name} {way:<7} {server['weight']:<6} {counts}"


def _numbers(one: Json, kind: str, exact: bool) -> str:
    return "".join(_large(n, exact) for n in one["counters" if kind == "stats" else "rates"])


def _large(value: int, exact: bool) -> str:
    """ipvsadm's print_largenum(): nine columns, and a unit from a hundred million on."""
    if exact:
        return f"{value:>9}" if value < 10**8 else f" {value}"
    for limit, divisor, unit in _UNITS:
        if value < limit:
            return f"{value // divisor:>{8 if unit else 9}}{unit}"
    return f"{value // 10**12:>8}T"


_UNITS = ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G"))


def _name(service: Json) -> str:
    if service["proto"] == "fwmark":
        return str(_signed(service["mark"]))
    return _place(service)


def _option(service: Json) -> str:
    if service["proto"] == "fwmark":
        return f"-f {_name(service)}{' -6' if service['family'] == 'ipv6' else ''}"
    return f"{SERVICE_OPTIONS[service['proto']]} {_place(service)}"


def _place(one: Json) -> str:
    return f"{bracketed(one['address'])}:{one['port']}"


def _width(service: Json) -> int:
    return 128 if service["family"] == "ipv6" else 32


def _mask(service: Json) -> str:
    prefix = service["persistence"]["prefix"]
    if service["family"] == "ipv6":
        return str(prefix)
    return str(IPv4Network((0, prefix)).netmask)


def _tunnel(server: Json) -> str:
    tunnel = server["tunnel"]
    if not tunnel:
        return ""
    words = f" --tun-type {tunnel['type']}"
    if tunnel["type"] == "ipip":
        return words
    if tunnel["type"] == "gue":
        words += f" --tun-port {tunnel['port']}"
    return words + "".join(f" --tun-{flag}" for flag in tunnel["flags"] or ["nocsum"])


# --- the order --------------------------------------------------------------------------


def _signed(number: int) -> int:
    """As C's int holds it."""
    return (number + 2**31) % 2**32 - 2**31


def _difference(left: str, right: str) -> int:
    """Of two addresses of one family, word by word."""
    packed = ip_address(left).packed, ip_address(right).packed
    for at in range(0, len(packed[0]), 4):
        one, other = (int.from_bytes(p[at : at + 4], "big") for p in packed)
        if one != other:
            return _signed(one - other)
    return 0


_FAMILIES = {"ipv4": 2, "ipv6": 10}
_PROTOCOLS = {"fwmark": 0, "tcp": 6, "udp": 17, "sctp": 132}


def _compare_services(left: Json, right: Json) -> int:
    return (
        _signed(left["mark"] - right["mark"])
        or _FAMILIES[left["family"]] - _FAMILIES[right["family"]]
        or _PROTOCOLS[left["proto"]] - _PROTOCOLS[right["proto"]]
        or (_difference(left["address"], right["address"]) if left["address"] else 0)
        or left["port"] - right["port"]
    )


def _compare_servers(left: Json, right: Json) -> int:
    left_is_6, right_is_6 = (":" in one["address"] for one in (left, right))
    if left_is_6 != right_is_6:
        return 1 if left_is_6 else -1
    return _difference(left["address"], right["address"]) or left["port"] - right["port"]


def _in_order(items: Sequence[T], compare: Callable[[T, T], int]) -> list[T]:
    """glibc's qsort(): a merge sort from the top. Not `sorted`: the differences overflow,
    so they are no order, and only the same algorithm gives the same result."""
    if len(items) < 2:
        return list(items)
    half = len(items) // 2
    left, right = _in_order(items[:half], compare), _in_order(items[half:], compare)
    merged: list[T] = []
    while left and right:
        merged.append(left.pop(0) if compare(left[0], right[0]) <= 0 else right.pop(0))
    return merged + left + right


# --- the other listings -----------------------------------------------------------------


def connections(lines: Sequence[str], engines: bool = False) -> Iterator[str]:
    """`-Lcn`, from the lines of /proc/net/ip_vs_conn. engines: with what a persistence engine
    knows each by, which is `--persistent-conn`."""
    yield "IPVS connection entries"
    title = "pro expire state       source             virtual            destination"
    yield f"{title:<80}{'pe name':<17}pe_data" if engines else title
    for line in lines[1:]:
        proto, *ends, state, expires = (words := line.split())[:9]
        client, virtual, server = (_end(ends[at], ends[at + 1]) for at in (0, 2, 4))
        left = f"{int(expires) // 60:02}:{int(expires) % 60:02}"
        shown = f"{proto:<3} {left:<6} {state:<11} {client:<18} {virtual:<18} "
        if engines and len(words) > 10:
            yield f"{shown}{server:<16} {words[9]:<18} {words[10]}"
        else:
            yield f"{shown}{server}"


def _end(address: str, port: str) -> str:
    """Both in hexadecimal; IPv6 addresses already have their colons."""
    if ":" in address:
        address = str(ip_address(address.strip("[]")))
    else:
        address = str(ip_address(int(address, 16)))
    return f"{bracketed(address)}:{int(port, 16)}"


def timeouts(answer: Json) -> str:
    numbers = answer["timeouts"]
    return f"Timeout (tcp tcpfin udp): {numbers['tcp']} {numbers['fin']} {numbers['udp']}"


def daemons(answer: Json) -> Iterator[str]:
    for one in answer["sync"]:
        yield (
            f"{one['role']} sync daemon (mcast={one['interface']}, syncid={one['id']}, "
            f"maxlen={one['maxlen']}, group={one['group']}, port={one['port']}, ttl={one['ttl']})"
        )
