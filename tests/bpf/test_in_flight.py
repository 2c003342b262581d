"""Packets in flight while rings are written, by a thread of their own: no flow moves."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import bpf
from lbctl.model import Destination, Gateway, Scheduler, Table, VirtualService
from tests.bpf.gateway import CLIENT, XDP_REDIRECT, PacketGateway
from tests.bpf.program_path import ETHERNET, NAMES
from tests.histories.stand import ACK, PLACES, SYN, TCP_LISTEN, Packet, frame

pytestmark = pytest.mark.kernel

FLOWS, CHANGES = 300, 120


@pytest.fixture
def gateway(pins: Path) -> Iterator[PacketGateway]:
    gateway = PacketGateway(Gateway("front", ("back",), flow_cache=20000), pins)
    yield gateway
    gateway.close()


class Clients:
    """Flows that never rest. dead: servers whose flows may move and then begin anew, and the
    round in which they died."""

    def __init__(self, gateway: PacketGateway) -> None:
        self._program = bpf.pinned(gateway.pins / "lb")
        self._ifindex = gateway.ifindex["front"]
        self._ports = count(1024)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.dead: dict[str, int] = {}
        self.rounds = 0
        self.moved: list[str] = []
        self.packets = 0
        self.begun = self.cut = 0

    def send(self, port: int, flags: int, seq: int) -> str | None:
        data = frame(ETHERNET, CLIENT, TCP_LISTEN, Packet(port, flags, seq))
        run = bpf.run_program(self._program, data, ifindex=self._ifindex)
        self.packets += 1
        return NAMES[run.data[30:34]] if run.action == XDP_REDIRECT else None

    def _begin(self) -> tuple[int, str]:
        """One whose handshake a change did not meet."""
        while True:
            port = next(self._ports)
            server = self.send(port, SYN, 1)
            self.begun += 1
            if server is not None and server == self.send(port, ACK, 2):
                return port, server
            self.cut += server not in self.dead

    def _run(self) -> None:
        flows = [self._begin() for _ in range(FLOWS)]
        while not self._stop.is_set():
            for at, (port, server) in enumerate(flows):
                got = self.send(port, ACK, 3)
                if got != server:
                    if server not in self.dead:
                        self.moved.append(f"{port}: {server} -> {got}")
                    flows[at] = self._begin()
            self.rounds += 1

    def forgot(self, name: str) -> bool:
        """No flow is left that was of this server when it died."""
        return name not in self.dead or self.rounds > self.dead[name] + 1

    @contextmanager
    def talking(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            self._program.close()


@pytest.mark.parametrize("scheduler", ["mh", "rr"])
def test_no_flow_moves_while_rings_are_written(gateway: PacketGateway, scheduler: str) -> None:
    chance = random.Random(7)
    weights = dict.fromkeys(["s11", "s12", "s13", "s14"], 1)

    def apply() -> None:
        servers = {PLACES[name]: Destination(weight) for name, weight in weights.items()}
        table = Table({TCP_LISTEN: VirtualService(Scheduler(scheduler), servers)})
        assert not converge(gateway.plane, table).refused

    apply()
    clients = Clients(gateway)
    with clients.talking():
        for _ in range(CHANGES):
            name = chance.choice([*PLACES])
            others = sum(weight > 0 for one, weight in weights.items() if one != name)
            if name not in weights and not clients.forgot(name):
                continue
            if name not in weights:
                clients.dead.pop(name, None)
                weights[name] = 1
            elif others >= 2 and chance.random() < 0.3:
                clients.dead[name] = clients.rounds
                del weights[name]
            else:
                weights[name] = chance.choice((0, 1, 2, 3) if others >= 2 else (1, 2, 3))
            apply()
            if name in clients.dead:
                clients.dead[name] = clients.rounds  # until now flows could still begin there
            if chance.random() < 0.2:
                gateway.plane.tend()
    assert clients.moved == []
    assert clients.packets > 10 * FLOWS
    assert clients.begun > 2 * FLOWS
    assert clients.cut <= 3  # one in some hundred changes meets a handshake just so
