"""The kernel's switches that lbctl sets for IPVS, and why. `settings` is pure; the rest
reads and writes /proc/sys, of the network namespace of its thread."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lbctl.dataplane.port import Switch
from lbctl.errors import DataPlaneError

ROOT = Path("/proc/sys/net")
VS = "ipv4/vs/"


@dataclass(frozen=True, slots=True)
class Setting:
    """One switch under /proc/sys/net, the value it must have and the reason shown."""

    name: str
    value: int
    reason: str

    @property
    def sysctl(self) -> str:
        """As `sysctl` writes it: `net.ipv4.vs.conntrack`."""
        return "net." + self.name.replace("/", ".")


ALWAYS = (
    Setting(
        VS + "expire_nodest_conn",
        1,
        "a connection whose server was removed ends at its next packet; by default its"
        " packets are dropped silently until it times out",
    ),
    Setting(
        VS + "expire_quiescent_template",
        1,
        "a persistent client moves on when its server drains; by default the old template"
        " keeps sending it new connections for as long as it asks",
    ),
    Setting(
        VS + "conn_reuse_mode",
        1,
        "a client that uses a port again is scheduled anew; at 0 it is sent to the server"
        " of the old connection, also when that server has drained or left",
    ),
)
PAIR = (
    Setting(
        VS + "sloppy_tcp",
        1,
        "after a hand-over this gateway sees connections from their middle; by default it"
        " drops every packet that is no SYN and has no entry",
    ),
    Setting(
        VS + "sloppy_sctp",
        1,
        "the same for SCTP: an association that is taken over has no INIT",
    ),
)
FULLNAT = (
    Setting(
        VS + "conntrack",
        1,
        "full NAT: without netfilter's entry for IPVS connections the source translation"
        " never matches",
    ),
)
ROUTED_IPV4 = (
    Setting("ipv4/ip_forward", 1, "NAT: servers' answers are routed through this gateway"),
)
ROUTED_IPV6 = (
    Setting(
        "ipv6/conf/all/forwarding",
        1,
        "NAT: servers' answers are routed through this gateway; an interface with accept_ra=1"
        " then takes no more router advertisements (2: it does)",
    ),
)


def settings(
    pair: bool = False, fullnat: bool = False, routed_ipv4: bool = False, routed_ipv6: bool = False
) -> tuple[Setting, ...]:
    """What must be set. pair: a virtual router can bring us a peer's connections."""
    return (
        *ALWAYS,
        *(PAIR if pair else ()),
        *(FULLNAT if fullnat else ()),
        *(ROUTED_IPV4 if routed_ipv4 else ()),
        *(ROUTED_IPV6 if routed_ipv6 else ()),
    )


def enforce(wanted: tuple[Setting, ...], root: Path = ROOT) -> dict[Setting, str]:
    """Set what differs; return what could not be set, with the cause."""
    refused = {}
    for setting in wanted:
        if _read(setting, root) in (None, setting.value):
            continue
        try:
            (root / setting.name).write_text(f"{setting.value}\n")
        except OSError as error:
            refused[setting] = error.strerror or str(error)
    return refused


def lacking(
    needed: tuple[Setting, ...], unset: Mapping[Setting, str], root: Path = ROOT
) -> DataPlaneError | None:
    """What keeps `needed` from being in force: `unset`, as `enforce` returned it, or a switch
    that this kernel was built without."""
    for setting in needed:
        if setting in unset:
            problem = f"{setting.sysctl}: cannot set {setting.value}: {unset[setting]}"
            return DataPlaneError(problem, setting.reason)
        if _read(setting, root) is None:
            problem = f"{setting.sysctl}: this kernel has no such switch"
            return DataPlaneError(problem, setting.reason)
    return None


def inspect(wanted: tuple[Setting, ...], root: Path = ROOT) -> list[Switch]:
    return [Switch(one.sysctl, one.value, _read(one, root), one.reason) for one in wanted]


def _read(setting: Setting, root: Path) -> int | None:
    try:
        return int((root / setting.name).read_text())
    except FileNotFoundError:
        return None
