"""One listen in the model and in data paths, which must agree on every packet."""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from lbctl.dataplane import ring
from lbctl.dataplane.converge import converge
from lbctl.dataplane.fake import FakeKernel, FakePlane
from lbctl.dataplane.faketraffic import FakePacket, FakeRoom, FakeTraffic
from lbctl.dataplane.port import DataPlane
from lbctl.model import Destination, Endpoint, Listen, Scheduler, Table, VirtualService
from tests.histories.model import Model, Slot, Times

TCP_LISTEN, UDP_LISTEN = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.10:53/udp")
TCP6_LISTEN = Listen.parse("[2001:db8::10]:80/tcp")
PLACES = {f"s{n}": Endpoint.parse(f"198.51.100.{n}:80") for n in range(11, 19)}
PLACES6 = {f"s{n}": Endpoint.parse(f"[2001:db8:1::{n}]:80") for n in range(11, 19)}
NAMES = {e: name for places in (PLACES, PLACES6) for name, e in places.items()}
BY_PLACE = {str(endpoint): name for endpoint, name in NAMES.items()}
TURNS = 1024
TURNING = ("rr", "wrr")
SYN, RST, ACK = 0x02, 0x04, 0x10


@dataclass(frozen=True)
class Packet:
    """From a client's port."""

    port: int
    flags: int = ACK
    seq: int = 0
    payload: bytes = b""


class Path(Protocol):
    """A data path that packets can be sent through."""

    plane: DataPlane

    def pass_time(self, ticks: int) -> None: ...

    def send(self, packet: Packet) -> str | None:
        """The server that gets it; None: nobody."""
        ...


class FakePath:
    """The data path in memory."""

    def __init__(self, listen: Listen, room: FakeRoom) -> None:
        self.listen, self.traffic = listen, FakeTraffic(room)
        self.plane = FakePlane(kernel=FakeKernel(traffic=self.traffic))

    def pass_time(self, ticks: int) -> None:
        self.traffic.pass_time(ticks)

    def send(self, packet: Packet) -> str | None:
        syn = packet.flags == SYN and self.listen.proto == "tcp"
        reset = packet.flags == RST and self.listen.proto == "tcp"
        sent = FakePacket(packet.port, syn, packet.seq, bool(packet.payload), reset)
        server = self.plane.packet(self.listen, sent)
        return None if server is None else NAMES[server]


class Stand:
    """A clock that only the test moves, servers with weights, and who is asked."""

    def __init__(self, listen: Listen, room: FakeRoom, paths: Sequence[Path]) -> None:
        self.listen, self.room, self.paths = listen, room, paths
        self.udp = listen.proto == "udp"
        self.places = PLACES6 if listen.address.version == 6 else PLACES
        self.now = 0
        self.weights: dict[str, int] = {}
        self.scheduler = "mh"
        self.changes = 0
        slots = [Slot() for _ in range(room.slots)]
        times = Times(room.embryonic, room.idle)
        self.model = Model(slots, times, room.place, room.ways, self.udp)

    def pass_time(self, ticks: int) -> None:
        self.now += ticks
        for path in self.paths:
            path.pass_time(ticks)

    def change(self, weights: dict[str, int], scheduler: str = "") -> None:
        """weights: of all that live; 0 drains."""
        self.changes += 1
        self.weights, self.scheduler = weights, scheduler or self.scheduler
        for path in self.paths:
            assert not converge(path.plane, self.table()).refused
        counted = {n: min(w, 1) if self.scheduler == "rr" else w for n, w in weights.items()}
        shares = {str(self.places[name]): weight for name, weight in counted.items()}
        turns = [BY_PLACE[one] for one in ring.turns(shares, TURNS)]
        self.model.schedule(turns if self.scheduler in TURNING else None, self.now)
        names = [BY_PLACE[one] for one in ring.maglev(shares, self.room.slots)]
        self.model.change(names or [None] * self.room.slots, weights.keys(), self.now)

    def table(self) -> Table:
        servers = {self.places[name]: Destination(weight) for name, weight in self.weights.items()}
        return Table({self.listen: VirtualService(Scheduler(self.scheduler), servers)})

    def sweep(self) -> None:
        for path in self.paths:
            path.plane.tend()
        self.model.sweep(self.now)

    def packet(self, packet: Packet) -> str | None:
        """The server of a packet, on which the model and all paths agree."""
        wanted = self.model.packet(
            packet.port,
            self.now,
            syn=packet.flags == SYN and not self.udp,
            seq=packet.seq,
            payload=bool(packet.payload) and not self.udp,
            reset=packet.flags == RST and not self.udp,
        )
        for path in self.paths:
            got = path.send(packet)
            if got != wanted:
                slot = self.model.slots[self.room.place(packet.port)[0]]
                where = f"{path.plane.name}: {packet} at {self.now}, {slot}"
                raise AssertionError(f"{where}: {got}, not {wanted}")
        return wanted


def frame(ethernet: bytes, client: str, listen: Listen, packet: Packet) -> bytes:
    """The packet as it comes from a wire; checksums are not looked at on the way."""
    if listen.proto == "udp":
        l4 = struct.pack(">HHHH", packet.port, listen.port, 8 + len(packet.payload), 0)
    else:
        fields = (packet.port, listen.port, packet.seq, 0, 0x50, packet.flags, 1024, 0, 0)
        l4 = struct.pack(">HHIIBBHHH", *fields)
    l4 += packet.payload
    proto = 17 if listen.proto == "udp" else 6
    if listen.address.version == 6:
        six = struct.pack(">IHBB", 6 << 28, len(l4), proto, 64)
        ends = ip_address(client).packed + listen.address.packed
        return ethernet[:12] + b"\x86\xdd" + six + ends + l4
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0, 64, proto, 0)
    return ethernet + ip + socket.inet_aton(client) + listen.address.packed + l4
