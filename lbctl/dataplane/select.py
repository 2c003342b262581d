"""Which data path a gateway gets, and why."""

from dataclasses import dataclass
from pathlib import Path

from lbctl.dataplane.capabilities import choose
from lbctl.dataplane.ipvs.plane import IpvsPlane
from lbctl.dataplane.port import DataPlane, VipAddresses
from lbctl.dataplane.vips import InterfaceVips
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.errors import DataPlaneError
from lbctl.model import Config, Datapath
from lbctl.netlink import Netlink


@dataclass(frozen=True, slots=True)
class Opened:
    """A data path that is ready. why: for a person."""

    plane: DataPlane
    vips: VipAddresses
    why: str


def open_dataplane(config: Config, pins: Path, intent: Path) -> Opened:
    """Open the data path that `config` asks for; what it holds is adopted as it is.

    pins: where XDP's maps and programs are. intent: the file of what is ours in IPVS.
    `auto` that meets an obstacle goes on to the next. Raises DataPlaneError or
    NotPermitted, with the command that mends it.
    """
    netlink = Netlink()
    obstacles: dict[Datapath, str] = {}
    while True:
        choice = choose(config, obstacles)
        try:
            plane = _open(choice.datapath, config, pins, intent, netlink)
        except DataPlaneError as error:
            if config.gateway.datapath is not Datapath.AUTO:
                raise
            obstacles[choice.datapath] = str(error)
        else:
            return Opened(plane, InterfaceVips(netlink, config.gateway.front), choice.why)


def _open(
    datapath: Datapath, config: Config, pins: Path, intent: Path, netlink: Netlink
) -> DataPlane:
    if datapath is Datapath.IPVS:
        return IpvsPlane(intent, pair=bool(config.routers))
    return XdpPlane(config.gateway, pins, netlink)
