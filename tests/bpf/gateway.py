"""A gateway in a network namespace of its own, whose loaded program is run on packets.

No packet crosses a wire: BPF_PROG_TEST_RUN gives the program a frame and an interface it
seems to come in on, and the verdict is read from the counters.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scapy.layers.l2 import Ether
from scapy.packet import raw

from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.model import Gateway
from lbctl.netlink import Netlink

CLONE_NEWNET = 0x40000000

LINKS = ("front", "front-peer", "back", "back-peer")
FRONT_MAC = "02:00:00:00:00:01"
BACK_MAC = "02:00:00:00:00:02"
CLIENT_MAC = "02:00:00:00:02:64"
CLIENT = "192.0.2.100"
CLIENT6 = "2001:db8::64"
STRANGER = "192.0.2.77"  # on the front link, without a neighbour entry
SERVER_MAC = "02:00:00:00:01:{:02x}"

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def own_network_namespace() -> Iterator[None]:
    """This thread, and what it starts, in a new namespace; afterwards back in the old."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    try:
        yield
    finally:
        _libc.setns(before, CLONE_NEWNET)
        os.close(before)


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """This thread in the namespace of a descriptor."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    _libc.setns(namespace, CLONE_NEWNET)
    try:
        yield
    finally:
        _libc.setns(before, CLONE_NEWNET)
        os.close(before)


def make_links(own: str = "198.51.100.1", servers: Iterable[int] = range(11, 19)) -> None:
    """front and back, with their peers, and a client and servers as neighbours.

    own: the gateway's address on back. servers: last bytes of their addresses."""
    _ip(
        "link add front type veth peer name front-peer",
        "link add back type veth peer name back-peer",
    )
    for peer in ("front-peer", "back-peer"):
        # Their stacks would report multicast groups to ours, seconds later: MLD (RFC 3810).
        Path(f"/proc/sys/net/ipv6/conf/{peer}/disable_ipv6").write_text("1")
    _ip(
        "link set lo up",
        f"link set front address {FRONT_MAC}",
        f"link set back address {BACK_MAC}",
        # Without link-local addresses nobody solicits anything: only our packets are counted.
        *(f"link set {name} addrgenmode none" for name in LINKS),
        *(f"link set {name} up" for name in LINKS),
        "address add 192.0.2.1/24 dev front",
        f"address add {own}/24 dev back",
        "address add 2001:db8::1/64 dev front nodad",
        "address add 2001:db8:1::fe/64 dev back nodad",
        f"neighbour add {CLIENT6} lladdr {CLIENT_MAC} dev front",
        *(f"neighbour add 2001:db8:1::{n} lladdr {SERVER_MAC.format(n)} dev back" for n in servers),
        f"neighbour add {CLIENT} lladdr {CLIENT_MAC} dev front",
        *(f"neighbour add 198.51.100.{n} lladdr {SERVER_MAC.format(n)} dev back" for n in servers),
    )
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


@dataclass(frozen=True)
class Seen:
    """What became of a packet."""

    verdict: str
    action: int
    packet: Ether


class PacketGateway:
    def __init__(self, gateway: Gateway, pins: Path) -> None:
        self.netlink = Netlink()
        self.gateway = gateway
        self.pins = pins
        self.plane = XdpPlane(gateway, pins, self.netlink)
        links = {link.name: link.index for link in self.netlink.links()}
        self.ifindex = {name: links[name] for name in gateway.interfaces}

    def send(self, packet: Ether | bytes, interface: str = "front") -> Seen:
        frame = packet if isinstance(packet, bytes) else raw(packet)
        before = self.verdicts()
        with bpf.opened(self.pins / "lb") as program:
            run = bpf.run_program(program, frame, ifindex=self.ifindex[interface])
        after = self.verdicts()
        changed = [name for name in after if after[name] != before[name]]
        assert len(changed) == 1, f"one verdict for each packet, not {changed}"
        return Seen(changed[0], run.action, Ether(run.data))

    def verdicts(self) -> Mapping[str, int]:
        """From the counters alone: whoever asks the plane has the whole flow cache swept, and
        what a test sends is to be a moment, not a minute."""
        return self.plane._maps.counters.verdicts()

    def reopen(self) -> "PacketGateway":
        """As a process that starts anew would."""
        return PacketGateway(self.gateway, self.pins)

    def close(self) -> None:
        self.plane.close()
        self.netlink.close()


def remove_pins(pins: Path) -> None:
    for pin in pins.glob("*"):
        pin.unlink()
    if pins.exists():
        pins.rmdir()
