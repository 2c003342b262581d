"""Packets that nobody should send: each ends in a verdict, none is rewritten wrongly."""

import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.packet import Packet, raw

from lbctl.dataplane.converge import converge
from lbctl.dataplane.xdp import bpf
from lbctl.dataplane.xdp.shape import Feature, Shape
from lbctl.model import Gateway, Listen, Table
from tests.bpf import test_icmp as errors
from tests.bpf import test_packets as four
from tests.bpf import test_packets6 as six
from tests.bpf.gateway import XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX, PacketGateway
from tests.bpf.rewrites import Judge
from tests.bpf.test_packets import reply, service, tcp

pytestmark = pytest.mark.kernel

TABLE = Table(
    {
        Listen.parse(four.WEB): service("mh", "198.51.100.11:8080"),
        Listen.parse(four.DNS): service("mh", "198.51.100.12:5353"),
        Listen.parse(four.RR): service("rr", "198.51.100.13:80", "198.51.100.14:80"),
        Listen.parse(four.SHARED): service("lc", "198.51.100.11:8080"),
        Listen.parse(f"[{six.VIP}]:80/tcp"): service("mh", "[2001:db8:1::11]:8080"),
        Listen.parse(f"[{six.VIP}]:53/udp"): service("rr", "[2001:db8:1::12]:5353"),
    }
)
DATA = bytes(range(64))
OPTIONS = [IPOption_NOP()] * 8


def seg6(port: int) -> Packet:
    return six.seg(port, "PA", DATA)


FRONT: list[Packet] = [
    four.client() / tcp("S"),
    four.client() / tcp("PA", DATA),
    four.client("192.0.2.11") / tcp("S"),
    four.client("192.0.2.11") / tcp("A", DATA),
    four.client("192.0.2.12") / tcp("S"),
    four.client(options=OPTIONS) / tcp("PA", DATA),
    four.client() / UDP(sport=4, dport=53) / DATA,
    four.client(flags="MF", id=7) / UDP(sport=4, dport=53) / DATA,
    four.client(frag=9, proto=17, id=7) / DATA,
    four.client() / ICMP() / DATA,
    errors.to_vip(errors.TOO_BIG, errors.web(104)[0]),
    errors.to_vip(errors.PORT, errors.web(28)[0]),
    errors.to_vip(errors.PORT, errors.DNS_IN[0]),
    errors.to_vip(errors.TOO_BIG, errors.web(60, options=OPTIONS)[0]),
    six.client() / six.seg(80, "S"),
    six.client() / seg6(80),
    six.client() / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / seg6(80),
    six.client() / UDP(sport=4, dport=53) / DATA,
    six.client() / IPv6ExtHdrFragment(m=1, id=8) / UDP(sport=4, dport=53) / DATA,
    six.client() / IPv6ExtHdrFragment(offset=9, id=8, nh=17) / DATA,
    six.client() / ICMPv6PacketTooBig() / errors.inside(IPv6(src=six.VIP) / errors.tcp(80, 4), 90),
]
BACK: list[Packet] = [
    four.server("198.51.100.11") / reply("SA"),
    four.server("198.51.100.11") / reply("PA", data=DATA),
    four.server("198.51.100.12") / UDP(sport=5353, dport=4) / DATA,
    four.server("198.51.100.12", flags="MF", id=9) / UDP(sport=5353, dport=4) / DATA,
    four.server("198.51.100.12", frag=9, proto=17, id=9) / DATA,
    errors.from_server(errors.PORT, errors.to_web(104)[0]),
    six.server(11) / six.answer(8080, "PA", DATA),
    six.server(12) / UDP(sport=5353, dport=4) / DATA,
]


class Fuzzer:
    """Sends frames, judges what comes out, and counts actions."""

    def __init__(self, gateway: PacketGateway) -> None:
        self.program = bpf.pinned(gateway.pins / "lb")
        self.gateway = gateway
        self.actions: Counter[int] = Counter()
        self.sent = 0

    def send(self, frame: bytes, interface: str) -> None:
        """The kernel takes no frame without an Ethernet header."""
        if len(frame) < 14:
            return
        run = bpf.run_program(self.program, frame, ifindex=self.gateway.ifindex[interface])
        self.sent += 1
        self.actions[run.action] += 1
        if run.action in (XDP_TX, XDP_REDIRECT):
            Judge(frame, run.data).check()
        else:
            assert run.action in (XDP_DROP, XDP_PASS)
            assert run.data == frame


@pytest.fixture(scope="module")
def gateway(shared_pins: Path) -> Iterator[PacketGateway]:
    direct = (ip_network("203.0.113.0/24"),)
    gateway = PacketGateway(Gateway("front", ("back",), direct=direct), shared_pins)
    gateway.plane._program.ensure(Shape(frozenset(Feature)))
    assert not converge(gateway.plane, TABLE).refused
    yield gateway
    gateway.close()


@pytest.fixture
def fuzzer(gateway: PacketGateway) -> Iterator[Fuzzer]:
    """Afterwards: every packet has counted under one verdict, and none under `broken`."""
    before = gateway.plane.stats().verdicts
    fuzzer = Fuzzer(gateway)
    yield fuzzer
    fuzzer.program.close()
    after = gateway.plane.stats().verdicts
    assert sum(after.values()) - sum(before.values()) == fuzzer.sent
    assert after["drop_broken"] == before["drop_broken"]


SEEDS = [(raw(one), "front") for one in FRONT] + [(raw(one), "back") for one in BACK]


def test_the_seeds_themselves(fuzzer: Fuzzer) -> None:
    for frame, interface in SEEDS:
        fuzzer.send(frame, interface)
    assert fuzzer.actions[XDP_REDIRECT] >= len(SEEDS) - 2


def test_cut_at_every_length(fuzzer: Fuzzer) -> None:
    for frame, interface in SEEDS:
        for length in range(14, len(frame)):
            fuzzer.send(frame[:length], interface)


def test_every_length_that_the_header_could_tell(fuzzer: Fuzzer) -> None:
    for frame, interface in SEEDS:
        at = 18 if frame[12:14] == b"\x86\xdd" else 16
        for length in (*range(128), 0x7FFF, 0x8000, 0xFFD7, 0xFFD8, 0xFFFF):
            fuzzer.send(frame[:at] + length.to_bytes(2, "big") + frame[at + 2 :], interface)


def test_every_value_of_every_header_byte_up_to_the_ports(fuzzer: Fuzzer) -> None:
    for frame, interface in SEEDS:
        for at in range(12, min(len(frame), 62)):
            for value in range(0, 256, 5):
                fuzzer.send(frame[:at] + bytes([value]) + frame[at + 1 :], interface)


ADDRESSES = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255", "192.0.2.255"]


ADDRESSES6 = ["::", "::1", "ff02::1", "ff0e::1", "::ffff:192.0.2.1", "fe80::1"]


# The last of each: a land attack.
@pytest.mark.parametrize("source", [*ADDRESSES, "192.0.2.10", *ADDRESSES6, six.VIP])
def test_sources_that_cannot_be(fuzzer: Fuzzer, source: str) -> None:
    """They are the server's to judge, as those of any packet; none is rewritten wrongly. But
    what would go round for ever is dropped."""
    packet = six.client(src=source) if ":" in source else four.client(src=source)
    for port in (0, 53, 80, 65535):
        for transport in (TCP(sport=port, dport=80, flags="S"), UDP(sport=port, dport=53)):
            fuzzer.send(raw(packet / transport), "front")
    rounds = source in ("192.0.2.10", six.VIP)
    assert fuzzer.actions == ({XDP_REDIRECT: 7, XDP_DROP: 1} if rounds else {XDP_REDIRECT: 8})


def test_port_0(fuzzer: Fuzzer) -> None:
    for transport in (TCP(sport=0, dport=0, flags="S"), UDP(sport=0, dport=0)):
        fuzzer.send(raw(four.client() / transport), "front")
        fuzzer.send(raw(six.client() / transport), "front")
        fuzzer.send(raw(four.server("198.51.100.11") / transport), "back")
    assert fuzzer.actions == {XDP_PASS: 6}


def _flip(frame: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        frame[chance.randrange(12, len(frame))] = chance.randrange(256)


def _length(frame: bytearray, chance: random.Random) -> None:
    at = 18 if frame[12:14] == b"\x86\xdd" else 16
    real = struct.unpack_from(">H", frame, at)[0]
    struct.pack_into(">H", frame, at, max(0, min(65535, real + chance.randint(-40, 40))))


def _cut(frame: bytearray, chance: random.Random) -> None:
    del frame[chance.randrange(14, len(frame)) :]


def _pad(frame: bytearray, chance: random.Random) -> None:
    frame += chance.randbytes(chance.randint(1, 40))


def _splice(frame: bytearray, chance: random.Random) -> None:
    other = chance.choice(SEEDS)[0]
    at = chance.randrange(14, min(len(frame), len(other)))
    frame[at:] = other[at:]


def _checksum(frame: bytearray, chance: random.Random) -> None:
    at = chance.randrange(14, len(frame) - 1)
    frame[at : at + 2] = chance.choice((b"\0\0", b"\xff\xff", chance.randbytes(2)))


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    *(_flip, _flip, _length, _cut, _pad, _splice, _checksum)
]


SHORTEST = 20  # bytes of a frame that every mutation can do something with


def mutated(chance: random.Random) -> tuple[bytes, str]:
    frame, interface = chance.choice(SEEDS)
    made = bytearray(frame)
    for _ in range(chance.randint(1, 3)):
        if len(made) >= SHORTEST:
            chance.choice(MUTATIONS)(made, chance)
    return bytes(made), interface


def _fuzz(fuzzer: Fuzzer, seed: int, count: int) -> None:
    chance = random.Random(seed)
    for number in range(count):
        frame, interface = mutated(chance)
        try:
            fuzzer.send(frame, interface)
        except (AssertionError, IndexError, struct.error) as error:
            raise AssertionError(f"seed {seed}, packet {number}: {frame.hex()}: {error}") from error


@pytest.mark.parametrize("seed", range(5))
def test_mutations(fuzzer: Fuzzer, seed: int) -> None:
    """A twentieth of a million."""
    _fuzz(fuzzer, seed, 10_000)
    assert fuzzer.actions[XDP_REDIRECT] > 1000, "most mutations should still be packets"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1020))
def test_a_million_mutations(fuzzer: Fuzzer, seed: int) -> None:
    _fuzz(fuzzer, seed, 50_000)
