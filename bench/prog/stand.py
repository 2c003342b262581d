"""A gateway in a network namespace of its own, filled by the product's own data plane, and
the programs that are measured on it, all behind one wrapper (wrapper.c)."""

import ctypes
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from bcc import BPF

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.dataplane.xdp.flows import FlowCache
from lbctl.dataplane.xdp.loader import compile_program
from lbctl.dataplane.xdp.maps import Maps, possible_cpus
from lbctl.dataplane.xdp.plane import XdpPlane
from lbctl.dataplane.xdp.shape import Feature, Shape, flatten, source_directory
from lbctl.ha.fence import FOR_EVER
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from lbctl.netlink import Netlink

HERE = Path(__file__).parent
GATEWAY_MAC, CLIENT_MAC = "02:00:00:00:00:01", "02:00:00:00:02:64"
SERVERS = {f"192.0.2.{n}": f"02:00:00:00:01:{n:02x}" for n in range(121, 125)}

SERVERS6 = {f"2001:db8::{n}": f"02:00:00:00:01:{n:02x}" for n in range(121, 125)}

MH, UDP, RR = "192.0.2.10:80/tcp", "192.0.2.10:53/udp", "192.0.2.11:80/tcp"
SIX, CHANGING = "[2001:db8::10]:80/tcp", "192.0.2.12:80/tcp"
# Sixteen listens, with IPv6 and one whose slots all change.
LISTENS = {MH: "mh", UDP: "mh", RR: "rr", SIX: "mh", CHANGING: "mh"} | {
    f"192.0.2.{n}:443/tcp": "mh" for n in range(20, 31)
}
MANY = 1024  # services, from this address on
FIRST_OF_MANY = "198.51.0.0"
MANY_PORT = 8200  # of their servers: service n has 8200 + n

# The shapes that are measured: what a configuration of `mh` services needs, what one of
# `rr` services needs, and everything there is: the full-featured shape of all targets.
SHAPES = {
    "lean": Shape(),
    "flows": Shape(frozenset({Feature.FLOWS})),
    "all": Shape(frozenset(Feature)),
}
OPERATIONS = ("op_vip", "op_flow", "op_backend", "op_vip_stats", "op_backend_stats", "op_all")
TEXTBOOK_PROGRAMS = ("textbook", *OPERATIONS, "op_insert")
VIP_KEY, VIP, BACKEND = struct.Struct("=4s2sBx"), struct.Struct("=III"), struct.Struct("=4s2s6s6s")
ENDLESS = 1 << 32  # flows: none comes twice
TEMPLATE = struct.Struct("=80sIIIIII")


def first_port(listen: str) -> int:
    """Each service's servers listen on a port of their own: none is shared."""
    return 8000 + list(LISTENS).index(listen)


def table(weights: tuple[int, ...] = (1, 1, 0, 0)) -> Table:
    """weights: of the servers of CHANGING; the others weigh the same."""
    services = {}
    for listen, scheduler in LISTENS.items():
        port, mine = first_port(listen), weights if listen == CHANGING else (1, 1, 1, 1)
        places = [f"[{a}]:{port}" for a in SERVERS6] if listen == SIX else None
        places = places or [f"{a}:{port}" for a in SERVERS]
        members = {
            Endpoint.parse(place): Destination(weight)
            for place, weight in zip(places, mine, strict=True)
        }
        services[Listen.parse(listen)] = VirtualService(Scheduler(scheduler), members)
    for number in range(MANY):
        listen = Listen.parse(f"{many(number)}:80/tcp")
        members = {Endpoint.parse(f"{a}:{MANY_PORT + number}"): Destination(1) for a in SERVERS}
        services[listen] = VirtualService(Scheduler("mh"), members)
    return Table(services)


def many(number: int) -> str:
    """The address of service `number` of MANY."""
    return str(ip_address(FIRST_OF_MANY) + number)


def make_links() -> None:
    """One interface, front, on which clients (behind a router) and servers are. Without
    link-local addresses, whose solicitations would be counted as packets."""
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    lines = [
        "link set lo up",
        "link add front type veth peer name peer",
        f"link set front address {GATEWAY_MAC}",
        "link set front addrgenmode none",
        "link set peer addrgenmode none",
        "link set front up",
        "link set peer up",
        "address add 192.0.2.1/24 dev front",
        f"neighbour add 192.0.2.100 lladdr {CLIENT_MAC} dev front",
        "route add 198.18.0.0/15 via 192.0.2.100",
        "address add 2001:db8::1/64 dev front nodad",
        *(
            f"neighbour add {ip} lladdr {mac} dev front"
            for ip, mac in (*SERVERS.items(), *SERVERS6.items())
        ),
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


@dataclass(frozen=True, slots=True)
class Packets:
    """What a wrapper makes. frame: 64 bytes (80 of IPv6 and ICMP), its client 198.18.0.0 (or
    ::) with port 0. flows: a power of two, or ENDLESS. reply: the client is the destination.
    services: how many addresses from the frame's on are destinations."""

    frame: bytes
    flows: int = 1
    reply: bool = False
    services: int = 1

    @property
    def proto(self) -> int:
        return self.frame[23]

    @property
    def wrapper(self) -> str:
        if len(self.frame) == 80:
            return "wrapper6"
        return "wrapper" if self.services == 1 else "wrapper_spread"


class Stand:
    """Programs by name in `candidates`; `run()` sends packets through one of them."""

    def __init__(self, plane: XdpPlane, pins: Path) -> None:
        self._plane = plane
        self._wrapper = BPF(text=(HERE / "wrapper.c").read_text())
        self._mains = {
            name: self._wrapper.load_func(name, BPF.XDP).fd
            for name in ("wrapper", "wrapper6", "wrapper_spread")
        }
        self._templates = _map(self._wrapper, "templates")
        self._slots = _map(self._wrapper, "candidates")
        self._textbook = BPF(
            text=(HERE / "textbook.c").read_text() + (HERE / "operations.c").read_text()
        )
        self._ifindex = socket.if_nametoindex("front")
        self._maps = Maps(pins)
        self._cache = FlowCache(self._maps, self._maps.gateway.flow_mask + 1)
        self._fresh = 0  # number of the next flow that no packet has had yet
        self.candidates: dict[str, int] = {}
        self._hold_leases(pins)
        self._compile()
        self._fill_textbook()

    @staticmethod
    def _hold_leases(pins: Path) -> None:
        """As the VRRP process of an Active leaves the fence: no lease is past."""
        leases = bpf.pinned(pins / "leases")
        memory = bpf.map_memory(leases, ctypes.sizeof(abi.Fence))
        abi.Fence.from_buffer(memory).clear_until = FOR_EVER
        leases.close()

    def _compile(self) -> None:
        self._add("nothing", self._wrapper.load_func("nothing", BPF.XDP).fd)
        for name in TEXTBOOK_PROGRAMS:
            self._add(name, self._textbook.load_func(name, BPF.XDP).fd)
        source = flatten(source_directory(), "lb.c")
        for name, shape in SHAPES.items():
            program = compile_program(source, "lb", self._maps.fds, shape)
            self._add(name, program.fd)
            program.close()

    def _add(self, name: str, fd: int) -> None:
        number = self.candidates[name] = len(self.candidates)
        bpf.update(self._slots, number.to_bytes(4, "little"), fd.to_bytes(4, "little"))

    def _fill_textbook(self) -> None:
        vips, backends = _map(self._textbook, "vips"), _map(self._textbook, "backends")
        source = bytes.fromhex(GATEWAY_MAC.replace(":", ""))
        for number in range(MANY):
            key = VIP_KEY.pack(ip_address(many(number)).packed, (80).to_bytes(2, "big"), 6)
            bpf.update(vips, key, VIP.pack(2 + number, 0, len(SERVERS)))
        for number, text in enumerate((MH, UDP)):
            listen = Listen.parse(text)
            proto = 6 if listen.proto == "tcp" else 17
            key = VIP_KEY.pack(listen.address.packed, listen.port.to_bytes(2, "big"), proto)
            bpf.update(vips, key, VIP.pack(number, number * len(SERVERS), len(SERVERS)))
            for i, (address, mac) in enumerate(SERVERS.items(), number * len(SERVERS)):
                server = Endpoint.parse(f"{address}:{first_port(text)}")
                port, dest = server.port.to_bytes(2, "big"), bytes.fromhex(mac.replace(":", ""))
                value = BACKEND.pack(server.address.packed, port, dest, source)
                bpf.update(backends, i.to_bytes(4, "little"), value)

    # --- running ----------------------------------------------------------------------

    def run(self, candidate: str, packets: Packets, count: int) -> float:
        """CPU nanoseconds per packet, wrapper included. The flows' order starts anew, but
        for packets that never repeat. Raises AssertionError if the last was not sent."""
        start = 0
        if packets.flows == ENDLESS:
            start, self._fresh = self._fresh, (self._fresh + count) % ENDLESS
        self._write_template(candidate, packets, start)
        started = time.thread_time_ns()
        main = Descriptor(self._mains[packets.wrapper])
        done = bpf.run_program(main, packets.frame, repeat=count, ifindex=self._ifindex)
        spent = time.thread_time_ns() - started
        assert done.action == 3, f"{candidate}: action {done.action}, not XDP_TX"
        return spent / count

    def one(self, candidate: str, packets: Packets, flow: int) -> bytes:
        """The frame that comes out for packet number `flow`."""
        self._write_template(candidate, packets, flow)
        main = Descriptor(self._mains[packets.wrapper])
        return bpf.run_program(main, packets.frame, ifindex=self._ifindex).data

    def _write_template(self, candidate: str, packets: Packets, start: int) -> None:
        check = 50 if packets.proto == 6 else 40
        number = self.candidates[candidate]
        mask = packets.flows - 1
        frame, spread = packets.frame.ljust(80, b"\0"), packets.services - 1
        value = TEMPLATE.pack(frame, start, mask, number, packets.reply, check, spread)
        bpf.update(self._templates, bytes(4), value)

    # --- what the programs counted ------------------------------------------------------

    def verdicts(self) -> Mapping[str, int]:
        """Of our program, all packets since it was made."""
        return self._maps.counters.verdicts()

    def misses(self) -> int:
        """Packets whose flow the textbook did not know."""
        value = bpf.lookup(_map(self._textbook, "misses"), bytes(4), 8 * possible_cpus())
        return sum(struct.unpack(f"={possible_cpus()}Q", value))

    def forget_flows(self) -> None:
        """Empty our flow cache."""
        sets = self._maps.gateway.flow_mask + 1
        memory = self._maps.flow_memory(sets)
        memory[:] = bytes(len(memory))
        memory.close()

    def remembered(self, state: abi.FlowState) -> int:
        return sum(way.state is state for way in self._cache)

    def close(self) -> None:
        self._maps.close()
        self._wrapper.cleanup()
        self._textbook.cleanup()


def _map(module: BPF, name: str) -> Descriptor:
    return Descriptor(module[name].map_fd)


@contextmanager
def stand() -> Iterator[Stand]:
    """In a network namespace that is ours alone (`bench.prog` starts itself in one)."""
    make_links()
    pins = Path(f"/sys/fs/bpf/lbctl-bench-{secrets.token_hex(4)}")
    netlink = Netlink()
    settings = Gateway("front", direct=(ip_network("203.0.113.0/24"),))
    plane = XdpPlane(settings, pins, netlink)
    try:
        for weights in ((1, 1, 0, 0), (0, 0, 1, 1)):
            report = converge(plane, table(weights))
            assert not report.refused, report.refused
        made = Stand(plane, pins)
        yield made
        made.close()
    finally:
        plane.close()
        netlink.close()
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()
