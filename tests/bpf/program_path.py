"""The loaded program as a data path that random histories go through."""

from ipaddress import ip_address

from lbctl.dataplane.converge import converge
from lbctl.dataplane.faketraffic import FakeRoom
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.model import Listen, Table
from tests.bpf.gateway import CLIENT_MAC, FRONT_MAC, XDP_REDIRECT, PacketGateway
from tests.histories.history import Kind, Tally, histories
from tests.histories.stand import PLACES, PLACES6, FakePath, Packet, Stand, frame

NAMES = {e.address.packed: name for places in (PLACES, PLACES6) for name, e in places.items()}
ETHERNET = bytes.fromhex((FRONT_MAC + CLIENT_MAC).replace(":", "")) + b"\x08\x00"


def client_of(port: int, version: int = 4) -> str:
    """The one of two hundred clients that uses this port."""
    number = port % 200 + 1
    return f"198.18.0.{number}" if version == 4 else f"2001:db8:9::{number:x}"


class ProgramPath:
    """One listen on the loaded program; nothing of an earlier one is left."""

    def __init__(self, gateway: PacketGateway, listen: Listen) -> None:
        self.gateway, self.listen = gateway, listen
        self.plane = gateway.plane
        self.values = gateway.plane._maps.gateway
        self.values.tick_shift = 63
        self.values.udp_records = 1 << 30
        assert not converge(self.plane, Table()).refused
        self.plane.tend()
        self.plane.tend()
        self._places: dict[int, tuple[int, int]] = {}
        self._program: bpf.Descriptor | None = None

    @property
    def room(self) -> FakeRoom:
        state = FlowState.UDP if self.listen.proto == "udp" else FlowState.ESTABLISHED
        times = self.values.timeout
        slots = 1 << abi.PAGE_BITS
        return FakeRoom(self.place, slots, abi.FLOW_WAYS, times[FlowState.EMBRYONIC], times[state])

    def pass_time(self, ticks: int) -> None:
        self.values.tick_ahead += ticks

    def place(self, port: int) -> tuple[int, int]:
        """The slot and the flow set of a client's port."""
        if port not in self._places:
            client = ip_address(client_of(port, self.listen.address.version))
            source = abi.fold_address(self.values.key, client)
            addresses = source << 32 | abi.fold_address(self.values.key, self.listen.address)
            ports = abi.port(self.listen.port) << 16 | abi.port(port)
            proto = 17 if self.listen.proto == "udp" else 6
            hash_ = abi.flow_hash(self.values.key, addresses, ports, proto)
            sets = self.values.flow_mask
            if self._by_client:
                alone = abi.flow_hash(self.values.key, addresses, 0, 0)
                hash_ = alone >> 48 << 48 | hash_ & (1 << 48) - 1
            self._places[port] = hash_ >> 64 - abi.PAGE_BITS, abi.mix(hash_) & sets
        return self._places[port]

    @property
    def _by_client(self) -> bool:
        number = self.plane._registry.listens[self.listen]
        return bool(self.plane._maps.listens[number].flags & abi.LISTEN_SOURCE)

    def send(self, packet: Packet) -> str | None:
        with bpf.opened(self.gateway.pins / "lb") as program:
            version = self.listen.address.version
            data = frame(ETHERNET, client_of(packet.port, version), self.listen, packet)
            run = bpf.run_program(program, data, ifindex=self.gateway.ifindex["front"])
        to = run.data[30:34] if version == 4 else run.data[38:54]
        return NAMES[to] if run.action == XDP_REDIRECT else None


def stand(gateway: PacketGateway, listen: Listen) -> Stand:
    path = ProgramPath(gateway, listen)
    number = path.plane._registry.listens.get(listen)
    assert number is None
    made = Stand(listen, path.room, [FakePath(listen, path.room), path])
    # The program remembers flows from here on, and the ring has its size for good.
    made.change(dict.fromkeys(PLACES, 1), "rr")
    made.change({})
    path.plane.tend()
    path.plane.tend()
    cursor = path.plane._maps.cursors[path.plane._registry.listens[listen]]
    cursor.next = 0
    return made


def run(gateway: PacketGateway, listen: Listen, kind: Kind, seeds: range, steps: int) -> Tally:
    return histories(lambda: stand(gateway, listen), kind, seeds, steps)
