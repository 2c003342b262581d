"""A topology as Linux network namespaces: the file that knows ip, sysctl, ethtool, nsenter.

Each host is a namespace `LAB-HOST`; the switches are bridges in one more, `LAB-switch`.
Functions that return text or command lines are pure; the few that act say so.

Namespaces are entered by `nsenter --net`, never by `ip netns exec`: that one remounts
/sys, and everything pinned in a bpffs is gone inside.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from lbctl.errors import LbctlError, NotPermitted
from lbctl.lab.topology import Host, Nic, Role, Topology
from lbctl.lab.waiting import NeverHappened, eventually

NETNS = Path("/run/netns")
SWITCH = "switch"
ENDING = 3.0  # seconds between SIGTERM and SIGKILL
Identity = tuple[int, int]  # device and inode: what the kernel knows a namespace by


class LabError(LbctlError):
    """Something a lab could not do."""


# --- what to ask the kernel for ---------------------------------------------------------


def namespace(lab: str, host: str) -> str:
    return f"{lab}-{host}"


def namespaces(lab: str, topology: Topology) -> list[str]:
    return [namespace(lab, name) for name in [SWITCH, *(host.name for host in topology.hosts)]]


def links(lab: str, topology: Topology) -> str:
    """An `ip -batch` for the initial namespace: veth pairs, born where they belong."""
    switch = namespace(lab, SWITCH)
    return "".join(
        f"link add {nic.name} address {nic.mac} netns {namespace(lab, host.name)}"
        f" type veth peer name {port(host, nic)} netns {switch}\n"
        for host in topology.hosts
        for nic in host.nics
    )


def port(host: Host, nic: Nic) -> str:
    """The switch's end of a host's link."""
    return f"{host.name}-{nic.name}"


def bridges(topology: Topology) -> str:
    """An `ip -batch` for the switches' namespace, to be run before `links`.

    A veth whose index is by chance that of its peer (indices count per namespace) is
    taken for an ordinary device, and its carrier is announced up to a second late. The
    bridges take the low indices, so none is.
    """
    return "".join(f"link add {one} up type bridge mcast_snooping 0\n" for one in topology.segments)


def ports(topology: Topology) -> str:
    """An `ip -batch` for the switches' namespace, to be run after `links`."""
    return "".join(
        f"link set {port(host, nic)} master {nic.segment} up\n"
        for host in topology.hosts
        for nic in host.nics
    )


def addresses(host: Host) -> str:
    """An `ip -batch` for a host's namespace: addresses, links, routes."""
    lines = ["link set lo up"]
    for nic in host.nics:
        lines += [f"address add {one} dev {nic.name}" for one in nic.addresses]
        lines.append(f"link set {nic.name} up")
    lines += [f"route add {route.to} via {route.via}" for route in host.routes]
    return "\n".join(lines) + "\n"


def settings(host: Host | None) -> dict[str, int]:
    """Sysctls of a host, to be set before its links are there; None: the switches."""
    ipv6 = host is not None and host.ipv6
    values = {
        f"net.ipv6.conf.{which}.{key}": value
        for which in ("all", "default")
        for key, value in (
            ("disable_ipv6", int(not ipv6)),
            ("accept_ra", 0),
            ("autoconf", 0),
            ("accept_dad", 0),  # an address that first proves itself unique costs 1 s
        )
    }
    if host is not None and host.role is Role.GATEWAY:
        values |= {
            "net.ipv4.ip_forward": 1,
            "net.ipv4.conf.all.rp_filter": 0,
            "net.ipv4.conf.default.rp_filter": 0,
        }
        if ipv6:
            values |= {"net.ipv6.conf.all.forwarding": 1, "net.ipv6.conf.default.forwarding": 1}
    return values


def offloads(host: Host, nic: Nic) -> Iterator[tuple[str, list[str]]]:
    """What veth needs where XDP translates: (namespace's host, command) for a link.

    A sender that leaves checksums to hardware would send packets through XDP whose
    checksum nobody ever fills in. And a veth takes frames from XDP only if its peer
    listens for them (GRO on, or a program there); without, they vanish silently.
    """
    yield host.name, ["ethtool", "-K", nic.name, "tx", "off"]
    if host.role is Role.GATEWAY:
        yield SWITCH, ["ethtool", "-K", port(host, nic), "gro", "on"]


def inside(space: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a namespace. nsenter becomes the command, so
    its pid and exit code are the command's own."""
    return ["nsenter", f"--net={NETNS / space}", "--", *argv]


# --- acting -----------------------------------------------------------------------------


def build(lab: str, topology: Topology) -> None:
    """Make everything; on an error what was made so far stays (see `remove`)."""
    spaces = namespaces(lab, topology)
    _ip("".join(f"netns add {space}\n" for space in spaces))
    _sysctl(namespace(lab, SWITCH), settings(None))
    for host in topology.hosts:
        _sysctl(namespace(lab, host.name), settings(host))
    _ip(bridges(topology), namespace(lab, SWITCH))
    _ip(links(lab, topology))
    _ip(ports(topology), namespace(lab, SWITCH))
    for host in topology.hosts:
        _ip(addresses(host), namespace(lab, host.name))
        for nic in host.nics:
            for where, command in offloads(host, nic):
                call(inside(namespace(lab, where), command))


def remove(spaces: Sequence[str]) -> None:
    """Delete namespaces, and with them their links. Those that are gone already do not
    matter."""
    there = [space for space in spaces if exists(space)]
    _ip("".join(f"netns delete {space}\n" for space in there))


def exists(space: str) -> bool:
    return (NETNS / space).exists()


def _ip(batch: str, space: str | None = None) -> None:
    if batch:
        argv = ["ip", "-batch", "-"]
        call(argv if space is None else inside(space, argv), batch)


def _sysctl(space: str, values: dict[str, int]) -> None:
    # -e: a kernel without IPv6 has no such keys, and needs none.
    call(inside(space, ["sysctl", "-e", "-q", "-w", *(f"{k}={v}" for k, v in values.items())]))


def call(argv: Sequence[str], stdin: str = "") -> str:
    """Run a tool and return what it said. Raises LabError with its own words."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        tool = argv[0]
        raise LabError(f"{tool} is not installed", "make demo installs what is missing") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{' '.join(argv)}: {said or f'exit code {done.returncode}'}")
    return done.stdout


def must_be_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted("a lab makes network namespaces, which needs root", "use sudo")


# --- a bpffs of the lab's own -----------------------------------------------------------


def mount_bpffs(where: Path) -> None:
    """A bpffs that only this lab uses: all its pins go with it when it is unmounted."""
    where.mkdir(parents=True, exist_ok=True)
    call(["mount", "-t", "bpf", "bpf", str(where)])


def unmount(where: Path) -> None:
    while os.path.ismount(where):
        call(["umount", str(where)])


# --- processes --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Running:
    """A process that lives in a namespace of the lab."""

    pid: int
    command: str


def processes(space: str) -> list[Running]:
    """The processes of a namespace, as the kernel sees them: nothing to keep in step, and
    no pid file that could name somebody else's process."""
    home = identity(NETNS / space)
    return [] if home is None else living({home})


def living(spaces: Set[Identity]) -> list[Running]:
    """The processes of these namespaces, which need no name any more. One that has ended
    has left its namespace, also while nobody has waited for it."""
    found = (
        Running(int(entry.name), _command(Path(entry.path)))
        for entry in os.scandir("/proc")
        if entry.name.isdigit() and identity(Path(entry.path, "ns/net")) in spaces
    )
    return sorted((one for one in found if one.command), key=lambda one: one.pid)


def lives_in(space: str, pid: int) -> bool:
    home = identity(NETNS / space)
    return home is not None and identity(Path(f"/proc/{pid}/ns/net")) == home


def end(spaces: Sequence[str], timeout: float = ENDING) -> None:
    """End every process in these namespaces: politely, then not. Raises LabError if one
    survives even that."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for space in spaces:
            for process in processes(space):
                _signal(space, process.pid, number)
        try:
            eventually(lambda: not any(processes(space) for space in spaces), timeout)
        except NeverHappened:
            continue
        return
    left = ", ".join(f"{p.pid} ({p.command})" for space in spaces for p in processes(space))
    raise LabError(f"processes that do not end: {left}", "look at them, then try again")


def _signal(space: str, pid: int, number: signal.Signals) -> None:
    """Signal `pid` if it (still) is a process of this namespace: the pidfd holds on to
    the very process that was looked at, so a reused pid is never hit."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if lives_in(space, pid):
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def identity(path: Path) -> Identity | None:
    """What tells one namespace from another; None if it is gone, as a process may be."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _command(process: Path) -> str:
    """A process's command line, or its bare name in brackets where it has none: in the
    middle of an exec, while it ends, or because it was started so. Empty: it has ended."""
    try:
        words = (process / "cmdline").read_bytes()
        name = (process / "comm").read_text(errors="replace")
    except OSError:
        return ""
    line = words.replace(b"\0", b" ").decode(errors="replace")
    return re.sub(r"\s+", " ", line).strip() or f"[{name.strip()}]"
