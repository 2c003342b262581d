"""What an XDP data path leaves does not go on by itself once another one serves."""

import errno
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.fake import FakePlane, FakeVips
from lbctl.dataplane.select import Opened, open_dataplane
from lbctl.dataplane.xdp import bpf, loader
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.dataplane.xdp.program import PROGRAM
from lbctl.dataplane.xdp.withdraw import attached
from lbctl.errors import DataPlaneError
from lbctl.lab.waiting import eventually
from lbctl.model import Config, Datapath, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import Netlink

pytestmark = pytest.mark.kernel

FRONT = Gateway("front", ("back",))
TABLE = Table({Listen.parse("192.0.2.10:80/tcp"): VirtualService(Scheduler("mh"), {})})


@pytest.fixture
def left(pins: Path) -> Iterator[Netlink]:
    """An XDP data path at work, and no process that minds it."""
    with closing(Netlink()) as netlink:
        with closing(XdpPlane(FRONT, pins, netlink)) as plane:
            assert not converge(plane, TABLE).refused
        assert attached(pins) == ["back", "front"]
        yield netlink


def programs(netlink: Netlink) -> list[int]:
    return [link.xdp_program for link in netlink.links() if link.name in ("front", "back")]


def test_auto_does_not_leave_a_running_program_for_ipvs(left: Netlink, pins: Path, tmp_path: Path):
    subprocess.run(["ip", "link", "set", "back", "down"], check=True)
    with pytest.raises(DataPlaneError, match=r"back: is down \(ip link set back up\)"):
        open_dataplane(Config(FRONT), pins, tmp_path / "ipvs.json")
    assert all(programs(left))


def test_it_is_taken_down_once_ipvs_serves(left: Netlink, pins: Path, tmp_path: Path):
    ipvs = FakePlane()
    ipvs.name = Datapath.IPVS
    opened = Opened(ipvs, FakeVips(), "the file says so", pins, tmp_path / "ipvs.json")
    assert opened.retire() == "XDP, which was still on back, front"
    eventually(lambda: programs(left) == [0, 0])
    assert not pins.exists()
    assert opened.retire() == ""


def test_a_mistyped_interface_is_named_whatever_the_data_path(pins: Path, tmp_path: Path):
    with pytest.raises(DataPlaneError, match=r"interface nic9: not there \(`ip link`"):
        open_dataplane(Config(Gateway("nic9")), pins, tmp_path / "ipvs.json")


def test_a_link_that_takes_no_new_program_keeps_the_old(
    left: Netlink, pins: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(link: object, program: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    before = programs(left)
    monkeypatch.setattr(bpf, "replace_program", refuse)
    with (
        bpf.opened(pins / PROGRAM) as program,
        pytest.raises(DataPlaneError, match="back: cannot put the new program in the place of the"),
    ):
        loader._attach(program, pins, "back", 1, "auto")
    assert programs(left) == before
    assert attached(pins) == ["back", "front"]
