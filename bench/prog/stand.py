"""A gateway in a network namespace of its own, filled by the product's own data plane, and
the programs that are measured on it, all behind one wrapper (wrapper.c)."""

import ctypes
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

from bcc import BPF

from bench.prog.wrapped import Wrapped, map_of
from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import abi, bpf
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


class Stand(Wrapped):
    """Our program in its shapes, and the textbook's."""

    def __init__(self, plane: XdpPlane, pins: Path) -> None:
        super().__init__(socket.if_nametoindex("front"))
        self._plane = plane
        self._textbook = BPF(
            text=(HERE / "textbook.c").read_text() + (HERE / "operations.c").read_text()
        )
        self._maps = Maps(pins)
        self._cache = FlowCache(self._maps, self._maps.gateway.flow_mask + 1)
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
        for name in TEXTBOOK_PROGRAMS:
            self.add(name, self._textbook.load_func(name, BPF.XDP).fd)
        source = flatten(source_directory(), "lb.c")
        for name, shape in SHAPES.items():
            program = compile_program(source, "lb", self._maps.fds, shape)
            self.add(name, program.fd)
            program.close()

    def _fill_textbook(self) -> None:
        vips, backends = map_of(self._textbook, "vips"), map_of(self._textbook, "backends")
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

    # --- what the programs counted ------------------------------------------------------

    def verdicts(self) -> Mapping[str, int]:
        """Of our program, all packets since it was made."""
        return self._maps.counters.verdicts()

    def misses(self) -> int:
        """Packets whose flow the textbook did not know."""
        value = bpf.lookup(map_of(self._textbook, "misses"), bytes(4), 8 * possible_cpus())
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
        self._textbook.cleanup()
        super().close()


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
