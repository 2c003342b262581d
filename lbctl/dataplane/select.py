"""Which data path a gateway gets, and why."""

from dataclasses import dataclass
from pathlib import Path

from lbctl.dataplane.port import DataPlane, VipAddresses
from lbctl.dataplane.vips import InterfaceVips
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.errors import Unsupported
from lbctl.model import Datapath, Gateway
from lbctl.netlink import Netlink


@dataclass(frozen=True, slots=True)
class Opened:
    """A data path that is ready. why: for a person."""

    plane: DataPlane
    vips: VipAddresses
    why: str


def open_dataplane(gateway: Gateway, pins: Path) -> Opened:
    """Open the data path that `gateway` asks for; what it holds is adopted as it is.

    Raises DataPlaneError or NotPermitted, with the command that mends it.
    """
    if gateway.datapath is Datapath.IPVS:
        raise Unsupported("datapath ipvs: not in this version", "say `datapath: xdp`")
    netlink = Netlink()
    why = "configured" if gateway.datapath is Datapath.XDP else "auto: XDP is all there is"
    plane = XdpPlane(gateway, pins, netlink)
    return Opened(plane, InterfaceVips(netlink, gateway.front), why)
