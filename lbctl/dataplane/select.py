"""Which data path a gateway gets, and why."""

from dataclasses import dataclass
from pathlib import Path

from lbctl.dataplane.capabilities import choose
from lbctl.dataplane.ipvs.intent import IntentFile
from lbctl.dataplane.ipvs.plane import IpvsPlane, SyncPlace
from lbctl.dataplane.ipvs.sysctls import ROOT
from lbctl.dataplane.port import DataPlane, RemoveService, VipAddresses
from lbctl.dataplane.vips import InterfaceVips
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.dataplane.xdp.withdraw import attached, withdraw
from lbctl.errors import DataPlaneError
from lbctl.model import Config, Datapath
from lbctl.netlink import Netlink


@dataclass(frozen=True, slots=True)
class Opened:
    """A data path that is ready. why: for a person. pins, intent: where each keeps what
    outlives the process."""

    plane: DataPlane
    vips: VipAddresses
    why: str
    pins: Path
    intent: Path

    def follow(self, config: Config) -> None:
        """Run as a gateway with these virtual routers does."""
        if isinstance(self.plane, IpvsPlane):
            self.plane.join(bool(config.routers), sync_place(config))

    def retire(self) -> str:
        """Take down what the *other* data path of ours left, once this one serves. Returns
        what that was, for a person; "" where there was nothing."""
        if self.plane.name == Datapath.IPVS:
            interfaces = attached(self.pins)
            if interfaces:
                withdraw(self.pins)
            return f"XDP, which was still on {', '.join(interfaces)}" if interfaces else ""
        left = IntentFile(self.intent).owned
        if left.services or left.sync:
            _empty(self.intent)
        return f"IPVS, which still had {len(left.services)} listens" if left.services else ""


def _empty(intent: Path, sysctls: Path = ROOT) -> None:
    """Take what is ours out of IPVS; opened as no gateway of a pair, it stops the sync daemon."""
    plane = IpvsPlane(intent, sysctls=sysctls)
    try:
        plane.apply([RemoveService(frontend) for frontend in plane.observe().services])
    finally:
        plane.close()


def open_dataplane(config: Config, pins: Path, intent: Path) -> Opened:
    """Open the data path that `config` asks for; what it holds is adopted as it is.

    pins: where XDP's maps and programs are. intent: the file of what is ours in IPVS.
    `auto` that meets an obstacle goes on to the next; but not from XDP while a program of
    ours is on an interface, which would go on by what it was last told. Raises
    DataPlaneError or NotPermitted, with the command that mends it.
    """
    netlink = Netlink()
    try:
        return _choose_and_open(config, pins, intent, netlink)
    except BaseException:
        netlink.close()
        raise


def _choose_and_open(config: Config, pins: Path, intent: Path, netlink: Netlink) -> Opened:
    for name in config.gateway.interfaces:
        if netlink.link(name) is None:
            raise DataPlaneError(f"interface {name}: not there", "`ip link` shows those that are")
    vips = InterfaceVips(netlink, config.gateway.front)
    obstacles: dict[Datapath, str] = {}
    while True:
        choice = choose(config, obstacles)
        try:
            plane = _open(choice.datapath, config, pins, intent, netlink)
        except DataPlaneError as error:
            running = choice.datapath is Datapath.XDP and attached(pins)
            if config.gateway.datapath is not Datapath.AUTO or running:
                raise
            obstacles[choice.datapath] = str(error)
        else:
            return Opened(plane, vips, choice.why, pins, intent)


def _open(
    datapath: Datapath, config: Config, pins: Path, intent: Path, netlink: Netlink
) -> DataPlane:
    if datapath is Datapath.IPVS:
        return IpvsPlane(intent, pair=bool(config.routers), sync=sync_place(config))
    return XdpPlane(config.gateway, pins, netlink, fenced=bool(config.routers))


def sync_place(config: Config) -> SyncPlace | None:
    """Where a pair's gateways tell each other of connections: behind, where servers are, if a
    virtual router is there, else beside the first one."""
    routers = [*config.routers.values()]
    behind = [one for one in routers if one.interface in config.gateway.back]
    return next((SyncPlace(one.interface, one.vrid) for one in behind + routers), None)
