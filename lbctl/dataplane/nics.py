"""What an interface is to a packet program: what stands in its way, and what would be
faster. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

# A frame has to fit one page beside XDP's headroom and the kernel's own record of it, unless
# a driver can do with several (linux/bpf.h, XDP_PACKET_HEADROOM).
NATIVE_MTU = 3498


class Running(StrEnum):
    """How the program runs there. none: it is not attached."""

    NATIVE = "native"
    GENERIC = "generic"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Nic:
    """An interface as it is set. None: it has no such thing, or does not say. queues: that
    receive; most_queues: that it could have."""

    name: str
    driver: str
    mode: Running
    mtu: int
    lro: bool | None = None
    gro: bool | None = None
    vlan_stripping: bool | None = None
    queues: int | None = None
    most_queues: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """in_the_way: packets are lost or handled wrongly; otherwise it only costs time. mend:
    the command."""

    in_the_way: bool
    says: str
    mend: str


def findings(nic: Nic, cpus: int) -> Iterator[Finding]:
    """cpus: of this machine."""
    if nic.lro:
        yield Finding(
            True,
            "LRO merges packets that the program has to see one by one",
            f"ethtool -K {nic.name} lro off",
        )
    if nic.vlan_stripping:
        yield Finding(
            True,
            "VLAN tags are cut off before the program sees them: in the way where frames "
            "come tagged",
            f"ethtool -K {nic.name} rxvlan off",
        )
    if nic.driver == "veth":
        yield Finding(
            True,
            "a veth takes frames from XDP only where its peer has GRO on or a program, and "
            "whoever sends into it must fill in checksums itself",
            f"at {nic.name}'s peer: ethtool -K PEER gro on; at senders: ethtool -K IFACE tx off",
        )
    yield from _slow(nic, cpus)


def _slow(nic: Nic, cpus: int) -> Iterator[Finding]:
    if nic.mode is Running.GENERIC and nic.mtu > NATIVE_MTU:
        yield Finding(
            False,
            f"generic mode: most drivers take a program only up to an MTU of {NATIVE_MTU}",
            f"ip link set {nic.name} mtu 1500, and start lbctl again",
        )
    elif nic.mode is Running.GENERIC:
        yield Finding(
            False,
            f"generic mode: driver {nic.driver or 'unknown'} runs no program itself, and every "
            "packet costs an allocation first",
            "a NIC whose driver has XDP (ice, i40e, ixgbe, mlx5_core, bnxt_en, virtio_net, ...)",
        )
    if nic.queues is not None and nic.most_queues is not None:
        wanted = min(cpus, nic.most_queues)
        if nic.queues < wanted:
            yield Finding(
                False,
                f"{nic.queues} receive queue{'' if nic.queues == 1 else 's'} for {cpus} "
                f"processors: only so many share the work",
                f"ethtool -L {nic.name} combined {wanted}",
            )
