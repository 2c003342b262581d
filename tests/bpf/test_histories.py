"""Random histories through the loaded program and the model: every verdict is compared,
and no flow changes its server while that server lives."""

import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lbctl.dataplane import ring
from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.abi import FlowState
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from tests.bpf.gateway import CLIENT, CLIENT_MAC, FRONT_MAC, XDP_REDIRECT, PacketGateway
from tests.bpf.histories import Model, Slot, Times

pytestmark = pytest.mark.kernel

TCP_LISTEN, UDP_LISTEN = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.10:53/udp")
PLACES = {f"s{n}": Endpoint.parse(f"198.51.100.{n}:80") for n in range(11, 19)}
NAMES = {socket.inet_aton(str(e.address)): name for name, e in PLACES.items()}
SLOTS = 1 << abi.PAGE_BITS
SYN, ACK = 0x02, 0x10
BY_PLACE = {str(endpoint): name for name, endpoint in PLACES.items()}
ETHERNET = bytes.fromhex((FRONT_MAC + CLIENT_MAC).replace(":", "")) + b"\x08\x00"


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=1), shared_pins)
    yield gateway
    gateway.close()


class Stand:
    """One listen on the program and in the model, with a clock that only the test moves."""

    def __init__(self, gateway: PacketGateway, listen: Listen, scheduler: str = "mh") -> None:
        self.gateway, self.listen, self.scheduler = gateway, listen, scheduler
        self.udp = listen.proto == "udp"
        self.maps = gateway.plane._maps
        self.maps.gateway.tick_shift = 63
        self.maps.gateway.udp_records = 1 << 30
        self.weights: dict[str, int] = {}
        for table in (Table(), self._table()):  # nothing of an earlier history is left
            assert not converge(gateway.plane, table).refused
            gateway.plane.tend()
            gateway.plane.tend()
        timeout = self.maps.gateway.timeout
        state = FlowState.UDP if self.udp else FlowState.ESTABLISHED
        times = Times(timeout[FlowState.EMBRYONIC], timeout[state])
        slots = [Slot() for _ in range(SLOTS)]
        self.model = Model(slots, times, self.place, abi.FLOW_WAYS, self.udp)
        self.program = bpf.pinned(gateway.pins / "lb")
        self._places: dict[int, tuple[int, int]] = {}

    def _table(self) -> Table:
        servers = {PLACES[name]: Destination(weight) for name, weight in self.weights.items()}
        return Table({self.listen: VirtualService(Scheduler(self.scheduler), servers)})

    @property
    def now(self) -> int:
        return int(self.maps.gateway.tick_ahead)

    def pass_time(self, ticks: int) -> None:
        self.maps.gateway.tick_ahead += ticks

    def change(self, weights: dict[str, int]) -> None:
        """weights: of all that live; 0 drains."""
        self.weights = weights
        assert not converge(self.gateway.plane, self._table()).refused
        shares = {str(PLACES[name]): weight for name, weight in weights.items()}
        names = [BY_PLACE[one] for one in ring.maglev(shares, SLOTS)]
        self.model.change(names or [None] * SLOTS, weights.keys(), self.now)

    def sweep(self) -> None:
        self.gateway.plane.tend()
        self.model.sweep(self.now)

    def place(self, port: int) -> tuple[int, int]:
        """The slot and the flow set of a client's port."""
        if port not in self._places:
            addresses = _word(CLIENT) << 32 | abi.word4(self.listen.address)
            ports = abi.port(self.listen.port) << 16 | abi.port(port)
            proto = 17 if self.udp else 6
            hash_ = abi.flow_hash(self.maps.gateway.key, addresses, ports, proto)
            sets = self.maps.gateway.flow_mask
            self._places[port] = hash_ >> 64 - abi.PAGE_BITS, abi.mix(hash_) & sets
        return self._places[port]

    def send(self, port: int, flags: int, seq: int, payload: bytes = b"") -> str | None:
        """Which server the program sends it to; None: dropped."""
        frame = self._frame(port, flags, seq, payload)
        run = bpf.run_program(self.program, frame, ifindex=self.gateway.ifindex["front"])
        return NAMES[run.data[30:34]] if run.action == XDP_REDIRECT else None

    def _frame(self, port: int, flags: int, seq: int, payload: bytes) -> bytes:
        to = self.listen.port
        if self.udp:
            l4 = struct.pack(">HHHH", port, to, 8 + len(payload), 0) + payload
        else:
            l4 = struct.pack(">HHIIBBHHH", port, to, seq, 0, 0x50, flags, 1024, 0, 0) + payload
        proto = 17 if self.udp else 6
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0, 64, proto, 0)
        ends = socket.inet_aton(CLIENT) + self.listen.address.packed
        return ETHERNET + ip + ends + l4

    def packet(self, port: int, flags: int, seq: int, payload: bytes = b"") -> str | None:
        """The server of a packet, on which program and model agree."""
        seq %= 1 << 32
        syn = flags == SYN and not self.udp
        wanted = self.model.packet(port, self.now, syn=syn, seq=seq, payload=bool(payload))
        got = self.send(port, flags, seq, payload)
        slot = self.model.slots[self.place(port)[0]]
        assert got == wanted, f"port {port} at {self.now}, {slot}: {got}, not {wanted}"
        return got

    def close(self) -> None:
        self.program.close()


def _word(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


@dataclass
class Live:
    """A flow with packets to come. server: the one that holds its connection."""

    server: str
    seq: int
    used: int


@dataclass
class Tally:
    flows: int = 0
    packets: int = 0
    handshakes: int = 0
    broken: int = 0


@dataclass(frozen=True)
class Trouble:
    """flood: SYNs from nowhere before each step. forge: SYNs on tuples that live."""

    flood: int = 0
    forge: float = 0.0


class History:
    """Flows, packets, additions, drains, crashes, returns and sweeps, at random."""

    def __init__(self, stand: Stand, seed: int, trouble: Trouble) -> None:
        self.stand, self.trouble = stand, trouble
        self.random = random.Random(seed)
        self.live: dict[int, Live] = {}
        self.tally = Tally()
        self.ports = self.random.sample(range(1024, 65536), 60000)
        count = self.random.randint(2, 5)
        self.stand.change(dict.fromkeys(self.random.sample([*PLACES], count), 1))

    def run(self, steps: int) -> Tally:
        acts = [self.begin, self.go_on, self.end, self.add, self.leave, self.back, self.settle]
        odds = [40, 46, 6, 1, 2, 1, 4]
        for act in self.random.choices(acts, odds, k=steps):
            if self.random.random() < 0.4:
                self.stand.pass_time(self.random.choice((0, 1, 1, 2, 40)))
            for _ in range(self.trouble.flood):
                self.packet(self.ports.pop(), SYN, self.random.getrandbits(32))
            if self.live and self.random.random() < self.trouble.forge:
                self.packet(self.pick(), SYN, self.random.getrandbits(32))
            act()
        return self.tally

    def packet(self, port: int, flags: int, seq: int, payload: bytes = b"") -> str | None:
        self.tally.packets += 1
        return self.stand.packet(port, flags, seq, payload)

    def pick(self) -> int:
        return self.random.choice([*self.live])

    def begin(self) -> None:
        port, isn = self.ports.pop(), self.random.getrandbits(32)
        self.tally.flows += 1
        if self.stand.udp:
            server = again = self.packet(port, 0, 0)
        else:
            data = b"fast" if self.random.random() < 0.05 else b""
            server = self.packet(port, SYN, isn, data)
            again = self.packet(port, ACK, isn + 1 + len(data))
        if server is None or server != again:
            self.tally.handshakes += 1
        else:
            self.live[port] = Live(server, isn + 5, self.stand.now)

    def go_on(self) -> None:
        if not self.live:
            return
        port = self.pick()
        flow = self.live[port]
        flow.seq += self.random.randrange(1, 1460)
        server = self.packet(port, ACK, flow.seq)
        if server == flow.server:
            flow.used = self.stand.now
            return
        idle = self.stand.model.times.idle
        alive = flow.server in self.stand.model.alive
        self.tally.broken += alive and self.stand.now - flow.used <= idle
        del self.live[port]

    def end(self) -> None:
        if self.live:
            del self.live[self.pick()]

    def add(self) -> None:
        if absent := [name for name in PLACES if name not in self.stand.weights]:
            self.stand.change({**self.stand.weights, self.random.choice(absent): 1})

    def leave(self) -> None:
        """Drain, or die; sometimes the last."""
        name = self.random.choice([*self.stand.weights])
        weights = dict(self.stand.weights)
        if self.random.random() < 0.5:
            weights[name] = 0
        elif len(weights) > 1:
            del weights[name]
            self.live = {port: flow for port, flow in self.live.items() if flow.server != name}
        self.stand.change(weights)

    def back(self) -> None:
        """A weight that rises: from a drain, or to another share."""
        name = self.random.choice([*self.stand.weights])
        self.stand.change({**self.stand.weights, name: self.random.randint(1, 3)})

    def settle(self) -> None:
        self.stand.sweep()


TROUBLES = {
    "plain": Trouble(),
    "flood": Trouble(flood=8),
    "forged": Trouble(forge=0.5),
    "flood and forged": Trouble(flood=8, forge=0.5),
}


def histories(
    gateway: PacketGateway, listen: Listen, trouble: Trouble, seeds: range, steps: int
) -> Tally:
    total = Tally()
    for seed in seeds:
        stand = Stand(gateway, listen)
        try:
            tally = History(stand, seed, trouble).run(steps)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            stand.close()
        total = Tally(*(getattr(total, f) + getattr(tally, f) for f in Tally.__annotations__))
    return total


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_no_tcp_flow_leaves_a_server_that_lives(gateway: PacketGateway, trouble: Trouble) -> None:
    tally = histories(gateway, TCP_LISTEN, trouble, range(5), 1000)
    assert tally.broken == 0, tally
    assert tally.flows > 1000


def test_no_udp_flow_leaves_a_server_that_lives(gateway: PacketGateway) -> None:
    tally = histories(gateway, UDP_LISTEN, Trouble(), range(5), 1000)
    assert tally.flows > 1000


def test_a_draining_server_is_counted_by_its_slots(gateway: PacketGateway) -> None:
    stand = Stand(gateway, TCP_LISTEN)
    stand.change({"s11": 1, "s12": 1})
    ports = [port for port in range(20000, 20400) if stand.send(port, ACK, 1) == "s11"]
    stand.change({"s11": 0, "s12": 1})

    def active() -> int:
        stand.sweep()
        number = gateway.plane.stats().active[TCP_LISTEN, PLACES["s11"]]
        assert number.source == "estimate"
        return number.established or 0

    stand.pass_time(100)
    assert active() == 0
    for port in ports:
        stand.packet(port, ACK, 2)
    assert abs(active() - len(ports)) <= 0.15 * len(ports)
    stand.pass_time(10)
    assert active() == 1  # quiet, but not for long enough
    stand.pass_time(10)
    assert active() == 0
    stand.close()
