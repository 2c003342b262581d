"""What stands in the way of the XDP data path is named, with the command that mends it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.port import RemoveServer, SetServer
from lbctl.dataplane.xdp import abi, bpf, compiler, nic
from lbctl.dataplane.xdp.headers import VARIABLE, find_headers
from lbctl.dataplane.xdp.plane import XdpPlane, _key_of
from lbctl.dataplane.xdp.ports import write_ports
from lbctl.errors import DataPlaneError
from lbctl.lab.waiting import eventually
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import Link, Netlink
from tests.bpf.gateway import remove_pins

pytestmark = pytest.mark.kernel

FRONT = Gateway("front", ("back",))
WEB = Listen.parse("192.0.2.10:80/tcp")
TWO = {Endpoint.parse(f"198.51.100.1{n}:80"): Destination(1) for n in (1, 2)}
FIRST = next(iter(TWO))


@pytest.fixture
def netlink(links: None) -> Iterator[Netlink]:
    with closing(Netlink()) as netlink:
        yield netlink


def table(scheduler: str) -> Table:
    return Table({WEB: VirtualService(Scheduler(scheduler), TWO)})


def test_an_interface_that_is_missing(pins: Path, netlink: Netlink) -> None:
    with pytest.raises(DataPlaneError, match=r"interface nic9: not there \(`ip link` shows"):
        XdpPlane(Gateway("nic9"), pins, netlink)


def test_an_interface_that_is_down(pins: Path, netlink: Netlink) -> None:
    subprocess.run(["ip", "link", "set", "back", "down"], check=True)
    with pytest.raises(DataPlaneError, match=r"back: is down \(ip link set back up\)"):
        XdpPlane(FRONT, pins, netlink)


def test_forwarding_that_is_off(pins: Path, netlink: Netlink) -> None:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    with pytest.raises(DataPlaneError, match=r"sysctl -w net.ipv4.ip_forward=1"):
        XdpPlane(FRONT, pins, netlink)


def test_ipv6_forwarding_that_is_off_on_one_interface(pins: Path, netlink: Netlink) -> None:
    """The FIB asks the interface that a reply came in on, and no other."""
    six = Listen.parse("[2001:db8::10]:80/tcp")
    Path("/proc/sys/net/ipv6/conf/back/forwarding").write_text("0")
    with closing(XdpPlane(Gateway("front", ("back",)), pins, netlink)) as plane:
        table = Table({six: VirtualService(Scheduler("mh"), {})})
        (refusal,) = converge(plane, table).refused
        assert "IPv6 forwarding is off on back" in refusal.error.message
        assert refusal.error.hint == "sysctl -w net.ipv6.conf.back.forwarding=1"
        Path("/proc/sys/net/ipv6/conf/back/forwarding").write_text("1")
        assert not converge(plane, table).refused


def test_more_prefixes_than_there_is_room_for(pins: Path, netlink: Netlink) -> None:
    many = tuple(ip_network(f"198.18.{n // 256}.{n % 256}/32") for n in range(1025))
    with pytest.raises(DataPlaneError, match="direct: cannot write 1025 prefixes of IPv4: No sp"):
        XdpPlane(Gateway("front", ("back",), direct=many), pins, netlink)


def test_more_interfaces_than_there_is_room_for() -> None:
    ports = [Link(n, f"eth{n}", bytes(6), 1500, True, "veth", 0) for n in range(9)]
    with pytest.raises(DataPlaneError, match="XDP has room for 8 interfaces, not for 9"):
        write_ports(abi.Gateway(), ports)


def test_servers_that_return_together_cost_one_sweep(pins: Path, netlink: Netlink) -> None:
    """Of the whole flow cache, so that their numbers are free of the flows they had."""
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert not converge(plane, table("rr")).refused
        nobody = Table({WEB: VirtualService(Scheduler("rr"), {})})
        for _ in range(2):
            assert not converge(plane, nobody).refused
            before = plane.sweeps
            assert not converge(plane, table("rr")).refused
            assert plane.sweeps - before == 1


def test_forwarding_that_is_off_on_one_interface(pins: Path, netlink: Netlink) -> None:
    Path("/proc/sys/net/ipv4/conf/back/forwarding").write_text("0")
    with pytest.raises(DataPlaneError, match=r"back: .*sysctl -w net.ipv4.conf.back.forwarding=1"):
        XdpPlane(FRONT, pins, netlink)


def test_what_is_not_as_configured_is_remarked(pins: Path, netlink: Netlink) -> None:
    subprocess.run(["ip", "link", "add", "slow", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", "slow", "up"], check=True)
    with closing(
        XdpPlane(Gateway("front", ("back", "slow"), flow_cache=5120), pins, netlink)
    ) as plane:
        assert refusals(plane, "rr") == ""
        assert [said.partition(",")[0] for said in plane.remarks()] == ["slow: generic XDP"]
    larger = Gateway("front", ("back", "slow"), flow_cache=10240)
    with closing(XdpPlane(larger, pins, netlink)) as plane:
        assert [said.partition(" ")[0] for said in plane.remarks()] == ["slow:", "flow_cache:"]


def test_a_pairs_secret_makes_one_key_and_is_not_changed_under_flows(
    pins: Path, netlink: Netlink
) -> None:
    secret, other = (Gateway("front", ("back",), flow_key=letter * 16) for letter in "ab")
    with closing(XdpPlane(secret, pins, netlink)) as plane:
        key = [*plane._maps.gateway.key]
        assert key == _key_of("a" * 16)
        assert plane.remarks() == []
    with closing(XdpPlane(other, pins, netlink)) as plane:
        assert [*plane._maps.gateway.key] == key
        assert [said.partition(":")[0] for said in plane.remarks()] == ["flow_key"]


def test_lro() -> None:
    link = Link(1, "eth7", b"\2\0\0\0\0\1", 1500, True, "", 0)
    with pytest.raises(DataPlaneError, match=r"eth7: LRO is on.*ethtool -K eth7 lro off"):
        nic.check_link(link, lro=True)


def test_pins_that_are_on_no_bpf_file_system(tmp_path: Path, netlink: Netlink) -> None:
    with pytest.raises(DataPlaneError, match="not on a bpf file system"):
        XdpPlane(FRONT, tmp_path / "pins", netlink)


def test_maps_of_another_version_are_not_touched(pins: Path, netlink: Netlink) -> None:
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        plane._maps.meta.abi = 99
        with pytest.raises(DataPlaneError, match=r"another version of lbctl \(layout 99"):
            XdpPlane(FRONT, pins, netlink)
        plane._maps.meta.abi = 0


def test_headers_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(DataPlaneError, match=r"no kernel headers there.*apt install linux-headers"):
        find_headers("6.1.0")


def refusals(plane: XdpPlane, scheduler: str) -> str:
    return "; ".join(str(refusal.error) for refusal in converge(plane, table(scheduler)).refused)


def test_without_a_compiler_the_old_program_goes_on(
    pins: Path, netlink: Netlink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(compiler.VARIABLE, str(tmp_path / "programs"))  # compiled once: kept
    broken = tmp_path / "bcc"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libbcc.so.0 is not there')")
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        with monkeypatch.context() as without:
            without.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
            assert "apt install python3-bpfcc" in refusals(plane, "mh")
            assert plane.observe() == Table()
        assert refusals(plane, "mh") == ""
        running = plane._program.program_id()
        with monkeypatch.context() as without:
            without.setenv(VARIABLE, str(tmp_path))
            assert "no kernel headers there" in refusals(plane, "rr")  # rr wants another shape
        assert plane.observe() == table("mh")
        assert plane._program.program_id() == running
        with pytest.raises(DataPlaneError, match=r"front: program \d+ of somebody else"):
            XdpPlane(FRONT, pins.with_name(pins.name + "-second"), netlink)
        remove_pins(pins.with_name(pins.name + "-second"))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No program that was compiled before either."""
    monkeypatch.setenv(compiler.VARIABLE, str(tmp_path / "programs"))
    monkeypatch.setenv(VARIABLE, str(tmp_path))  # no headers
    return tmp_path


def test_an_upgrade_without_a_compiler_goes_on_with_the_old_program(
    pins: Path, netlink: Netlink, request: pytest.FixtureRequest
) -> None:
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        plane._maps.meta.shape[0] ^= 1  # as if made of another source
        running = plane._program.program_id()
    request.getfixturevalue("no_compiler")
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert "no kernel headers there" in " ".join(plane.remarks())
        assert plane._program.program_id() == running
        loads = plane._program.loads
        assert plane.apply([SetServer(WEB, FIRST, Destination(0))]) == []
        assert plane._program.loads == loads  # a verdict does not wait for a loader
        assert "no kernel headers there" in refusals(plane, "rr")


def test_an_interface_that_is_gone_costs_no_loading(pins: Path, netlink: Netlink) -> None:
    subprocess.run(["ip", "link", "add", "brief", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", "brief", "up"], check=True)
    with closing(XdpPlane(Gateway("front", ("back", "brief")), pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        loads = plane._program.loads
        subprocess.run(["ip", "link", "del", "brief"], check=True)
        assert plane.apply([SetServer(WEB, FIRST, Destination(2))]) == []
        assert plane._program.loads == loads
        assert any(said.startswith("brief: there is no") for said in plane.remarks())


def test_what_is_dead_is_freed_though_the_program_cannot_be_put_back(
    pins: Path, netlink: Netlink, request: pytest.FixtureRequest
) -> None:
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        plane.apply([RemoveServer(WEB, FIRST)])
        plane._maps.meta.shape[0] ^= 1
        plane._program.loaded = None
        request.getfixturevalue("no_compiler")
        for _ in range(2):
            with pytest.raises(DataPlaneError, match="no kernel headers there"):
                plane.tend()
        assert not any(plane._registry.dead.values())


def test_the_program_leaves_an_interface_that_is_no_longer_the_gateways(
    pins: Path, netlink: Netlink
) -> None:
    subprocess.run(["ip", "link", "add", "former", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", "former", "up"], check=True)
    with closing(XdpPlane(Gateway("front", ("back", "former")), pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        assert program_on(netlink, "former") != 0
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        eventually(lambda: program_on(netlink, "former") == 0)
        assert program_on(netlink, "back") == plane._program.program_id()


def test_a_program_that_was_taken_off_is_put_back(pins: Path, netlink: Netlink) -> None:
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        (pins / "link_back").unlink()
        eventually(lambda: program_on(netlink, "back") == 0)
        plane.tend()
        assert program_on(netlink, "back") == plane._program.program_id() != 0


def program_on(netlink: Netlink, name: str) -> int:
    link = netlink.link(name)
    assert link is not None
    return link.xdp_program


def test_a_change_that_was_cut_off_is_ended_by_the_next_process(
    pins: Path, netlink: Netlink
) -> None:
    """As after SIGKILL between the records and the ring, and before the listen is found."""
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        number = plane._registry.listens[WEB]
        page = plane._rings.span(number).first
        whole = plane._maps.ring_page(page).slot[:]
        plane._maps.ring_page(page).slot[0] = 0
        plane._registry.listen_index.remove(abi.key(WEB.address, WEB.port, 6))
        plane._maps.meta.unsettled = 1
    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert plane.observe() == table("mh")
        assert plane._maps.ring_page(page).slot[:] == whole
        assert plane._registry.listen_index.get(abi.key(WEB.address, WEB.port, 6)) is not None


def test_another_shape_replaces_the_program_and_keeps_maps_and_links(
    pins: Path, netlink: Netlink
) -> None:
    def ids(*names: str) -> list[int]:
        return [bpf.identity(bpf.pinned(pins / name)) for name in names]

    with closing(XdpPlane(FRONT, pins, netlink)) as plane:
        assert refusals(plane, "mh") == ""
        kept = ids("servers", "flows", "link_front", "link_back")
        program = ids("lb")
        assert refusals(plane, "rr") == ""
        assert ids("lb") != program
        assert ids("servers", "flows", "link_front", "link_back") == kept


def test_without_root_it_says_so(tmp_path: Path) -> None:
    code = "from lbctl.dataplane.xdp.nic import check_privilege as c; c()"
    command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "NotPermitted: the XDP data path needs root" in done.stderr
