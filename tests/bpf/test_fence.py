"""The fence's programs on packets: what passes and what does not, by lease and direction."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, raw

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import bpf
from lbctl.ha.fence import Fence, Guarded
from lbctl.ha.loader import attach, detach
from lbctl.model import (
    Destination,
    Endpoint,
    Gateway,
    Listen,
    Mac,
    Router,
    Scheduler,
    Table,
    VirtualService,
)
from lbctl.netlink import Netlink
from tests.bpf.gateway import CLIENT, CLIENT_MAC, FRONT_MAC, SERVER_MAC, PacketGateway

pytestmark = pytest.mark.kernel

PASS, DROP = (1 << 32) - 1, 2
VIP, OTHER_VIP, VIP6, LOCAL6 = "192.0.2.10", "192.0.2.20", "2001:db8::10", "fe80::7"
VRID_MAC, VRID_MAC6 = "00:00:5e:00:01:07", "00:00:5e:00:02:07"
WEB = Router("web", "front", 7, (ip_address(VIP),), mac=Mac.VIRTUAL)
WEB6 = Router("web6", "front", 7, (ip_address(LOCAL6), ip_address(VIP6)), mac=Mac.VIRTUAL)
OTHER = Router("other", "front", 8, (ip_address(OTHER_VIP),), mac=Mac.OWN)


@pytest.fixture(scope="module")
def loaded(shared_pins: Path) -> Path:
    """The programs, pinned and on `front`."""
    command = [sys.executable, "-m", "lbctl.ha.loader", str(shared_pins), "front"]
    subprocess.run(command, check=True)
    return shared_pins


@pytest.fixture
def ifindex(loaded: Path) -> int:
    netlink = Netlink()
    link = netlink.link("front")
    netlink.close()
    assert link is not None
    return link.index


@pytest.fixture
def fence(loaded: Path, ifindex: int) -> Iterator[Fence]:
    fence = Fence(loaded)
    fence.guard({one.name: Guarded(one, ifindex) for one in (WEB, WEB6, OTHER)})
    yield fence
    fence.close()


def verdict(pins: Path, way: str, packet: Packet, ifindex: int) -> int:
    (program,) = pins.glob(f"fence_{way}-*")
    with bpf.opened(program) as opened:
        return bpf.run_classifier(opened, raw(packet).ljust(64, b"\0"), ifindex).action


def to_us(mac: str = FRONT_MAC) -> Ether:
    return Ether(src=CLIENT_MAC, dst=mac)


def from_us(mac: str = FRONT_MAC) -> Ether:
    return Ether(src=mac, dst=CLIENT_MAC)


WEB_IN = {
    "tcp": to_us() / IP(src=CLIENT, dst=VIP) / TCP(),
    "echo": to_us() / IP(src=CLIENT, dst=VIP) / ICMP(),
    "arp request": to_us("ff:ff:ff:ff:ff:ff") / ARP(op=1, psrc=CLIENT, pdst=VIP),
    "the virtual MAC": to_us(VRID_MAC) / IP(src=CLIENT, dst="203.0.113.9") / TCP(),
}
WEB_OUT = {
    "tcp": from_us() / IP(src=VIP, dst=CLIENT) / TCP(),
    "arp reply": from_us() / ARP(op=2, psrc=VIP, hwsrc=VRID_MAC, pdst=CLIENT),
    "gratuitous arp": from_us() / ARP(op=1, psrc=VIP, pdst=VIP),
    "the virtual MAC": from_us(VRID_MAC) / IP(src="192.0.2.1", dst="224.0.0.18", proto=112),
}
WEB6_IN = {
    "tcp6": to_us() / IPv6(src="2001:db8::64", dst=VIP6) / TCP(),
    "link-local": to_us() / IPv6(src="fe80::1", dst=LOCAL6) / TCP(),
    "solicitation": Ether(src=CLIENT_MAC, dst="33:33:ff:00:00:10")
    / IPv6(src="2001:db8::64", dst="ff02::1:ff00:10")
    / ICMPv6ND_NS(tgt=VIP6),
    "the virtual MAC": to_us(VRID_MAC6) / IPv6(dst="2001:db8:9::1") / TCP(),
}
WEB6_OUT = {
    "tcp6": from_us() / IPv6(src=VIP6, dst="2001:db8::64") / TCP(),
    "advertisement": from_us() / IPv6(src="fe80::99", dst="ff02::1") / ICMPv6ND_NA(tgt=VIP6),
}
NOT_OURS = {
    ("in", "another address"): to_us() / IP(src=CLIENT, dst="192.0.2.1") / TCP(),
    ("in", "from the virtual address"): to_us() / IP(src=VIP, dst="192.0.2.1") / TCP(),
    ("in", "the Active's announcement"): to_us("ff:ff:ff:ff:ff:ff") / ARP(psrc=VIP, pdst=CLIENT),
    ("in", "the Active's advert"): Ether(src=VRID_MAC, dst="01:00:5e:00:00:12")
    / IP(src="192.0.2.3", dst="224.0.0.18", proto=112),
    ("in", "another VRID"): to_us("00:00:5e:00:01:09") / IP(dst="192.0.2.1") / TCP(),
    ("in", "tagged"): to_us() / Dot1Q(vlan=5) / IP(src=CLIENT, dst=VIP) / TCP(),
    ("out", "to the virtual address"): from_us() / IP(src="192.0.2.1", dst=VIP) / TCP(),
    ("out", "asking for it"): from_us() / ARP(op=1, psrc="192.0.2.1", pdst=VIP),
    ("out", "our own neighbour"): from_us() / IPv6(dst="ff02::1") / ICMPv6ND_NA(tgt="2001:db8::1"),
    ("in", "too short"): Ether(src=CLIENT_MAC, dst=FRONT_MAC, type=0x0800),
}
CASES = [
    *(("web", "in", name, packet) for name, packet in WEB_IN.items()),
    *(("web", "out", name, packet) for name, packet in WEB_OUT.items()),
    *(("web6", "in", name, packet) for name, packet in WEB6_IN.items()),
    *(("web6", "out", name, packet) for name, packet in WEB6_OUT.items()),
]


@pytest.mark.parametrize(
    ("router", "way", "packet"),
    [(router, way, packet) for router, way, _, packet in CASES],
    ids=[f"{way}-{name}" for _, way, name, _ in CASES],
)
def test_a_lease_decides(
    loaded: Path, fence: Fence, ifindex: int, router: str, way: str, packet: Packet
) -> None:
    assert verdict(loaded, way, packet, ifindex) == DROP  # not Active yet
    fence.renew(router, 30.0)
    assert verdict(loaded, way, packet, ifindex) == PASS
    fence.renew(router, 0.0)
    assert verdict(loaded, way, packet, ifindex) == DROP
    fence.renew(router, 30.0)
    fence.end(router)
    assert verdict(loaded, way, packet, ifindex) == DROP


@pytest.mark.parametrize(
    ("way", "packet"),
    [(way, packet) for (way, _), packet in NOT_OURS.items()],
    ids=[f"{way}-{name}" for way, name in NOT_OURS],
)
def test_what_is_not_the_routers_passes(
    loaded: Path, fence: Fence, ifindex: int, way: str, packet: Packet
) -> None:
    assert verdict(loaded, way, packet, ifindex) == PASS


def test_each_router_has_its_own_lease(loaded: Path, fence: Fence, ifindex: int) -> None:
    other = to_us() / IP(src=CLIENT, dst=OTHER_VIP) / TCP()
    fence.renew("other", 30.0)
    assert verdict(loaded, "in", other, ifindex) == PASS
    assert verdict(loaded, "in", WEB_IN["tcp"], ifindex) == DROP
    for name in ("web", "web6"):
        fence.renew(name, 30.0)
    assert fence._leases.clear_until > 0  # all are ours: the quick way
    assert verdict(loaded, "in", WEB_IN["tcp"], ifindex) == PASS
    fence.end("web")
    assert verdict(loaded, "in", WEB_IN["tcp"], ifindex) == DROP
    assert verdict(loaded, "in", other, ifindex) == PASS


def test_a_router_on_another_interface_has_its_own_macs(
    loaded: Path, fence: Fence, ifindex: int
) -> None:
    assert verdict(loaded, "in", WEB_IN["the virtual MAC"], 1) == PASS


def test_a_process_that_starts_anew_starts_fenced(loaded: Path, ifindex: int) -> None:
    """Its predecessor was killed: the maps are as it left them."""
    killed = Fence(loaded)
    killed.guard({"web": Guarded(WEB, ifindex)})
    killed.renew("web", 30.0)
    assert verdict(loaded, "in", WEB_IN["tcp"], ifindex) == PASS
    successor = Fence(loaded)
    successor.guard({"other": Guarded(OTHER, ifindex), "web": Guarded(WEB, ifindex)})
    assert verdict(loaded, "in", WEB_IN["tcp"], ifindex) == DROP
    successor.guard({"other": Guarded(OTHER, ifindex)})
    assert verdict(loaded, "in", WEB_IN["tcp"], ifindex) == PASS  # nobody's any more
    successor.close()


def test_those_that_come_while_others_still_leave_wait_for_room(loaded: Path, ifindex: int) -> None:
    def some(first: int, count: int, addresses: int) -> dict[str, Guarded]:
        return {
            f"r{n}": Guarded(Router(f"r{n}", "front", n, tuple(
                ip_address(f"198.18.{n}.{i}") for i in range(1, addresses + 1))), ifindex)
            for n in range(first, first + count)
        }  # fmt: skip

    with closing(Fence(loaded)) as fence:
        old, new = some(1, 40, 1), some(41, 40, 1)
        assert fence.guard(old) == {}
        refused = fence.guard(new | old)
        assert set(refused) == {f"r{n}" for n in range(64, 81)}
        assert refused["r64"] == "the fence has room for 63 virtual routers"
        assert fence.guard(new) == {}
        assert set(fence._numbers) == set(new)
        full = some(1, 16, 254)
        assert fence.guard(full) == {}
        assert set(fence.guard(full | some(17, 1, 254))) == {"r17"}
        assert fence.guard(some(101, 16, 254)) == {}
        apart = {f"r{n}": Guarded(one.router, n) for n, one in enumerate(new.values(), 1)}
        assert len(fence.guard(apart)) == 32


def test_a_lease_is_rounded_down_to_jiffies(fence: Fence) -> None:
    fence.renew("web", 2.9 * fence._jiffy)
    assert fence._leases.until[fence._numbers["web"]] - fence._leases.now == 2


def test_the_hooks_are_filled_once_and_emptied(loaded: Path) -> None:
    for _ in range(2):
        attach(loaded, "front")
        assert [filters(hook) for hook in ("ingress", "egress")] == [1, 1]
    detach("front")
    detach("front")
    assert [filters(hook) for hook in ("ingress", "egress")] == [0, 0]


def filters(hook: str) -> int:
    done = subprocess.run(
        ["tc", "filter", "show", "dev", "front", hook], capture_output=True, text=True, check=True
    )
    return done.stdout.count("handle 0x76")


# --- in the packet program --------------------------------------------------------------


@pytest.fixture
def gateway(loaded: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",)), loaded)
    web = VirtualService(Scheduler("mh"), {Endpoint.parse("198.51.100.11:8080"): Destination(1)})
    assert not converge(gateway.plane, Table({Listen.parse(f"{VIP}:80/tcp"): web})).refused
    yield gateway
    gateway.close()


def test_the_packet_program_serves_only_with_a_lease(fence: Fence, gateway: PacketGateway) -> None:
    syn = IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="S")
    answer = IP(src="198.51.100.11", dst=CLIENT) / TCP(sport=8080, dport=40000, flags="SA")
    back = Ether(src=SERVER_MAC.format(11), dst="02:00:00:00:00:02") / answer
    strange = to_us("00:00:5e:00:01:09") / syn
    for lease, forward, comes_back in (
        (0.0, "drop_fenced", "drop_fenced"),
        (30.0, "forward", "return"),
    ):
        fence.renew("web", lease)
        assert gateway.send(to_us() / syn).verdict == forward
        assert gateway.send(to_us(VRID_MAC) / syn).verdict == forward
        assert gateway.send(back, "back").verdict == comes_back
        assert gateway.send(strange).verdict == "pass_foreign_mac"


def test_errors_and_pieces_are_served_only_with_a_lease(
    fence: Fence, gateway: PacketGateway
) -> None:
    """What leaves by redirection meets no hook on the way out."""
    sent = raw(IP(src=VIP, dst=CLIENT) / TCP(sport=80, dport=40000))
    received = raw(IP(src=CLIENT, dst="198.51.100.11") / TCP(sport=40000, dport=8080))
    behind = Ether(src=SERVER_MAC.format(11), dst="02:00:00:00:00:02")
    piece = to_us() / IP(src=CLIENT, dst=VIP, id=7, frag=50, proto=6) / (b"x" * 40)
    first = to_us() / IP(src=CLIENT, dst=VIP, id=7, flags="MF") / TCP(dport=80) / (b"x" * 380)
    packets = {
        "error to the VIP": (to_us() / IP(src="192.0.2.254", dst=VIP) / ICMP(type=3) / sent, ""),
        "error of a server": (
            behind / IP(src="198.51.100.11", dst=CLIENT) / ICMP(type=3, code=3) / received,
            "back",
        ),
        "a later piece": (piece, ""),
    }
    fence.renew("web", 30.0)
    assert gateway.send(first).verdict == "forward"
    for lease, wanted in ((30.0, {"forward", "return"}), (0.0, {"drop_fenced"})):
        fence.renew("web", lease)
        for name, (packet, interface) in packets.items():
            assert gateway.send(packet, interface or "front").verdict in wanted, name
