"""Can this interface carry an XDP program? Each no names the command that makes it a yes."""

import os
from collections.abc import Container, Iterable
from ctypes import CDLL
from pathlib import Path

from lbctl.dataplane.nics import Nic, Running
from lbctl.dataplane.xdp import ethtool
from lbctl.errors import DataPlaneError, NotPermitted
from lbctl.model import Frontend
from lbctl.netlink import Link

BPFFS = Path("/sys/fs/bpf")


def check_privilege() -> None:
    """Loading programs and changing links: root, in practice."""
    if os.geteuid() != 0:
        raise NotPermitted("the XDP data path needs root", "sudo lbctl daemon ...")


def check_forwarding(interfaces: Iterable[str]) -> None:
    """Replies are routed to clients as the kernel would, so it must be allowed to: by all
    interfaces (ip_forward sets them), and by each that packets come in on."""
    if _is_off("ipv4/ip_forward"):
        raise DataPlaneError(
            "IPv4 forwarding is off: replies could not be routed to clients",
            "sysctl -w net.ipv4.ip_forward=1",
        )
    for name in interfaces:
        if _is_off(f"ipv4/conf/{name}/forwarding"):
            raise DataPlaneError(
                f"{name}: IPv4 forwarding is off there: what comes in on it could not be routed",
                f"sysctl -w net.ipv4.conf.{name.replace('.', '/')}.forwarding=1",
            )


def _is_off(switch: str) -> bool:
    """Whether a sysctl under net/ is there and 0."""
    path = Path("/proc/sys/net", switch)
    return path.exists() and path.read_text().strip() == "0"


def check_forwarding6(frontend: Frontend, interfaces: Iterable[str]) -> None:
    """The same for the replies of an IPv6 listen."""
    if _is_off("ipv6/conf/all/forwarding"):
        raise DataPlaneError(
            f"{frontend}: IPv6 forwarding is off: replies could not be routed to clients",
            "sysctl -w net.ipv6.conf.all.forwarding=1",
        )
    for name in interfaces:
        if _is_off(f"ipv6/conf/{name}/forwarding"):
            raise DataPlaneError(
                f"{frontend}: IPv6 forwarding is off on {name}: what comes in on it could not be "
                "routed",
                f"sysctl -w net.ipv6.conf.{name.replace('.', '/')}.forwarding=1",
            )


def check_link(link: Link, lro: bool) -> None:
    """Before anything is made. lro: packets are merged."""
    if not link.up:
        raise DataPlaneError(f"{link.name}: is down", f"ip link set {link.name} up")
    if lro:
        raise DataPlaneError(
            f"{link.name}: LRO is on, and merges packets that XDP has to see one by one",
            f"ethtool -K {link.name} lro off",
        )


def wires(ports: Iterable[Link], links: Iterable[Link]) -> list[Link]:
    """The interfaces that the frames of `ports` come in on, each once. A VLAN on a VLAN has
    none that XDP could tell it by. Raises DataPlaneError."""
    known = {link.index: link for link in links}
    found: dict[int, Link] = {}
    for port in ports:
        wire = known.get(port.wire)
        if wire is None or wire.vlan:
            raise DataPlaneError(
                f"{port.name}: a VLAN on {'a VLAN' if wire else 'an interface elsewhere'}",
                "XDP knows one tag, on an interface of this namespace; `datapath: ipvs` can",
            )
        found[wire.index] = wire
    return list(found.values())


def check_vlan(port: Link, wires: Iterable[Link]) -> None:
    """A tag that the hardware takes off is not in the frame that XDP sees."""
    if not port.vlan:
        return
    if not port.up:
        raise DataPlaneError(f"{port.name}: is down", f"ip link set {port.name} up")
    for wire in wires:
        if wire.index == port.wire and ethtool.vlan_stripping(wire.name):
            raise DataPlaneError(
                f"{wire.name}: takes VLAN tags off before XDP sees them ({port.name})",
                f"ethtool -K {wire.name} rxvlan off",
            )


def check_hook(link: Link, ours: Container[int]) -> None:
    """ours: ids of lbctl's own programs."""
    if link.xdp_program and link.xdp_program not in ours:
        raise DataPlaneError(
            f"{link.name}: program {link.xdp_program} of somebody else is on its XDP hook",
            f"`bpftool prog show id {link.xdp_program}` says whose; "
            f"`ip link set {link.name} xdp off` takes it off, or `bpftool link detach` a link",
        )


def survey(link: Link, ours: Container[int]) -> Nic:
    """The interface as it is set now. ours: see check_hook()."""
    mode = Running.GENERIC if link.xdp_generic else Running.NATIVE
    receive, most = ethtool.queues(link.name) or (None, None)
    return Nic(
        link.name,
        ethtool.driver(link.name) or link.kind,
        mode if link.xdp_program in ours else Running.NONE,
        link.mtu,
        ethtool.lro(link.name),
        ethtool.gro(link.name),
        ethtool.vlan_stripping(link.name),
        receive,
        most,
    )


def ensure_bpffs(directory: Path) -> None:
    """Make the directory of pins, on a bpf file system; the usual one is mounted if it is
    not yet, as bpftool does."""
    root = next((p for p in (directory, *directory.parents) if p.exists()), Path("/"))
    if not _is_bpffs(root) and BPFFS in (directory, *directory.parents):
        CDLL(None).mount(b"bpf", bytes(BPFFS), b"bpf", 0, None)
        root = BPFFS
    if not _is_bpffs(root):
        raise DataPlaneError(
            f"{directory}: not on a bpf file system", "mount -t bpf bpf /sys/fs/bpf"
        )
    directory.mkdir(parents=True, exist_ok=True)


def _is_bpffs(path: Path) -> bool:
    """By the mount table: the nearest mount point above `path` is a bpf file system."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, fs, *_ = line.split()
        if Path(point) in (path, *path.parents) and len(point) >= len(best):
            best, kind = point, fs
    return kind == "bpf"
