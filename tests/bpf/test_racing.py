"""Two CPUs at the same set of the flow cache at the same time.

Two processes, each on a CPU of its own, run the loaded program on packets of flows that all
hash to one set, in lockstep: for each packet both wait until the other is there. More flows
than the set has ways, so that some find room and the others are placed by the ring.
"""

import ctypes
import mmap
import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import abi, bpf
from lbctl.model import Destination, Endpoint, Gateway, Listen, Scheduler, Table, VirtualService
from tests.bpf.gateway import CLIENT, XDP_REDIRECT, PacketGateway
from tests.bpf.program_path import ETHERNET
from tests.histories.stand import ACK, SYN, Packet, frame

pytestmark = pytest.mark.kernel

TCP, UDP = Listen.parse("192.0.2.10:80/tcp"), Listen.parse("192.0.2.10:53/udp")
CHANGING = Listen.parse("192.0.2.11:80/tcp")  # mh: flows that are new are recorded
SERVERS = tuple(Endpoint.parse(f"198.51.100.{n}:80") for n in range(11, 19))
FLOWS = 2 * abi.FLOW_WAYS  # of one set: as many again as it has room for
ROUNDS = 150
AGES = 300  # ticks between rounds: all that was remembered is past its time
SPINS = 2000  # looks at the other's progress before one goes on alone
LOOKS = 10**6  # of one that is ready for the other

Answers = list[int]  # the server of each packet, by its address's last byte


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=1), pins)
    held = {endpoint: Destination(1) for endpoint in SERVERS}
    turning = {listen: VirtualService(Scheduler("rr"), held) for listen in (TCP, UDP)}
    others = [replace(endpoint, port=81) for endpoint in SERVERS]  # none is shared
    for half in (others[:4], others[4:]):
        weights = {endpoint: Destination(int(endpoint in half)) for endpoint in others}
        table = Table({**turning, CHANGING: VirtualService(Scheduler("mh"), weights)})
        assert not converge(gateway.plane, table).refused
    yield gateway
    gateway.close()


class Set:
    """Flows of one listen that all hash to one set of the cache."""

    def __init__(self, gateway: PacketGateway, listen: Listen, number: int) -> None:
        self.gateway, self.listen, self.number = gateway, listen, number
        self.cache = gateway.plane._flows
        self.ports = [*islice(self._ports(), FLOWS)]

    def _hash(self, port: int) -> int:
        client = int.from_bytes(socket.inet_aton(CLIENT), "little")
        addresses = client << 32 | abi.word4(self.listen.address)
        ports = abi.port(self.listen.port) << 16 | abi.port(port)
        proto = 17 if self.listen.proto == "udp" else 6
        return abi.flow_hash(self.gateway.plane._maps.gateway.key, addresses, ports, proto)

    def _ports(self) -> Iterator[int]:
        mask = self.cache.sets - 1
        return (p for p in range(1024, 65536) if abi.mix(self._hash(p)) & mask == self.number)

    def by_ring(self, port: int) -> int:
        """Where the ring has the flow: with its old server, while the slot changes."""
        registry, maps = self.gateway.plane._registry, self.gateway.plane._maps
        number = registry.listens[self.listen]
        slots, olds, _ = self.gateway.plane._rings.read(number)
        at = self._hash(port) >> 64 - (len(slots).bit_length() - 1)
        server = olds[at] or slots[at]
        return bytes(maps.servers[server].addr)[3]

    def remembered(self) -> dict[int, list[int]]:
        """By port: servers that the set has for it, of ways that are not past their time."""
        tick = self.gateway.plane._tick()
        timeouts = self.gateway.plane._maps.gateway.timeout
        maps = self.gateway.plane._maps
        found: dict[int, list[int]] = {port: [] for port in self.ports}
        for word in self.cache._cells[self.number].way:
            age = (tick - word) & (1 << abi.AGE_BITS) - 1
            state = word >> abi.STATE_SHIFT & abi.STATE_MASK
            if not word or age > timeouts[state]:
                continue
            server = maps.servers[word >> abi.SERVER_SHIFT & abi.SERVER_MASK]
            for port in self.ports:
                if not (word ^ abi.mix(self._hash(port))) >> abi.TAG_SHIFT:
                    found[port].append(bytes(server.addr)[3])
        return found

    def frames(self, flags: str, seq: int) -> list[bytes]:
        bits = {"S": SYN, "A": ACK, "": 0}[flags]
        packets = (Packet(port, bits, seq) for port in self.ports)
        return [frame(ETHERNET, CLIENT, self.listen, packet) for packet in packets]


def race(gateway: PacketGateway, mine: Sequence[bytes], theirs: Sequence[bytes]) -> list[Answers]:
    """Both run their packets on CPUs of their own, the n-th of each at the same time."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    steps, ready = ((ctypes.c_uint64 * 2).from_buffer(shared, at) for at in (0, 64))

    def run(who: int, frames: Sequence[bytes]) -> Answers:
        os.sched_setaffinity(0, {cpus[who]})
        with bpf.opened(gateway.pins / "lb") as program:
            ready[who] = 1
            for _ in range(LOOKS):  # a child that could not begin is told of by its status
                if ready[1 - who]:
                    break
                os.sched_yield()
            return [*_answers(program, frames, gateway.ifindex["front"], steps, who)]

    child = _forked(lambda: run(1, theirs))
    before = os.sched_getaffinity(0)
    try:
        found = run(0, mine)
    finally:
        os.sched_setaffinity(0, before)
    return [found, child()]


def _answers(
    program: bpf.Descriptor,
    frames: Sequence[bytes],
    ifindex: int,
    steps: "ctypes.Array[ctypes.c_uint64]",
    who: int,
) -> Iterator[int]:
    for number, data in enumerate(frames, 1):
        steps[who] = number
        for _ in range(SPINS):
            if steps[1 - who] >= number:
                break
        done = bpf.run_program(program, data, ifindex=ifindex)
        assert done.action == XDP_REDIRECT
        yield done.data[33]


def _forked(work: Callable[[], Answers]) -> Callable[[], Answers]:
    """In a child process; the answer waits for it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.write(writing, pickle.dumps(work()))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)

    def answer() -> Answers:
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(pid, 0)
        assert status == 0, "the other process failed"
        found: Answers = pickle.loads(data)
        return found

    return answer


@pytest.fixture(autouse=True)
def two_cpus() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: nothing can race")


def rounds(gateway: PacketGateway, listen: Listen) -> Iterator[Set]:
    """Sets in turn; what they held before is past its time, and is still there."""
    for number in range(ROUNDS):
        gateway.plane._maps.gateway.tick_ahead += AGES
        yield Set(gateway, listen, number % gateway.plane._flows.sets)


@pytest.mark.parametrize("listen", [TCP, CHANGING], ids=["rr", "mh in transition"])
def test_the_same_tcp_flows(gateway: PacketGateway, listen: Listen) -> None:
    """SYNs, then what confirms them, then SYNs again: a flow that lives stays, what found no
    room is the ring's, and none is remembered twice."""
    for flows in rounds(gateway, listen):
        syns, acks = flows.frames("S", 1000), flows.frames("A", 1001)
        opened = race(gateway, syns, syns)
        held = flows.remembered()
        assert all(len(servers) <= 1 for servers in held.values()), f"twice: {held}"
        assert sum(map(len, held.values())) == abi.FLOW_WAYS
        stays = {p: held[p][0] if held[p] else flows.by_ring(p) for p in flows.ports}
        for answers in opened:
            for port, server in zip(flows.ports, answers, strict=True):
                # Of two SYNs in one moment the later may miss the earlier's ISN (flows.h).
                assert server in (stays[port], flows.by_ring(port))
        wanted = [*stays.values()]
        assert race(gateway, acks, acks[::-1]) == [wanted, wanted[::-1]]
        assert race(gateway, flows.frames("S", 5000), acks) == [wanted, wanted]
        assert flows.remembered() == held


def test_the_same_udp_flows(gateway: PacketGateway) -> None:
    """Nothing but the cache says where such a flow went: both are told the same."""
    for flows in rounds(gateway, UDP):
        data = flows.frames("", 0)
        opened = race(gateway, data, data)
        held = flows.remembered()
        assert all(len(servers) <= 1 for servers in held.values()), f"twice: {held}"
        stays = [held[p][0] if held[p] else flows.by_ring(p) for p in flows.ports]
        assert opened == [stays, stays]
        assert race(gateway, data, data[::-1]) == [stays, stays[::-1]]


def test_two_cpus_with_flows_of_their_own(gateway: PacketGateway) -> None:
    """They race for ways, not for flows: five find room, whoever they are."""
    shared = Counter[int]()
    for flows in rounds(gateway, TCP):
        syns, half = flows.frames("S", 1000), FLOWS // 2
        first, second = race(gateway, syns[:half], syns[half:])
        held = flows.remembered()
        assert sorted(map(len, held.values())) == [0] * abi.FLOW_WAYS + [1] * abi.FLOW_WAYS
        stays = [held[p][0] if held[p] else flows.by_ring(p) for p in flows.ports]
        assert first + second == stays
        shared[sum(1 for port in flows.ports[:half] if held[port])] += 1
    assert len(shared) > 1, "one of the two was always first: they did not race"
