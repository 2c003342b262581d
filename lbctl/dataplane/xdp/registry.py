"""Listens and servers as numbered records in the maps.

The maps are the truth; this keeps an index of them, built by reading them, so that a
process that starts anew knows what an earlier one wrote. A number is not used again while
a ring or a remembered flow may still name it: what is removed is first only *dead*.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from socket import IPPROTO_TCP, IPPROTO_UDP

from lbctl.dataplane.port import Counters
from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.abi import ModeCode, SchedulerCode, ServerState
from lbctl.dataplane.xdp.flows import Clock
from lbctl.dataplane.xdp.hops import NextHop
from lbctl.dataplane.xdp.index import Index
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.support import remembers
from lbctl.errors import DataPlaneError
from lbctl.model import (
    Address,
    Destination,
    Endpoint,
    Listen,
    Persistence,
    Proto,
    Scheduler,
    Table,
    VirtualService,
)

PROTO = {Proto.TCP: IPPROTO_TCP, Proto.UDP: IPPROTO_UDP}
PROTO_NAME = {number: proto for proto, number in PROTO.items()}


class Registry:
    """members: server number by endpoint, for each listen number."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.listen_index = Index(maps.listen_index)
        self.return_index = Index(maps.return_index)
        self.listens: dict[Listen, int] = {}
        self.gone: dict[Listen, int] = {}
        self.members: dict[int, dict[Endpoint, int]] = {}
        self.dead: dict[int, dict[Endpoint, int]] = {}
        self._triples: dict[int, list[int]] = {}  # key of a server's triple -> its numbers
        self._addresses: Counter[tuple[int, ...]] = Counter()  # servers at an address
        self._own = {key for key, value in self.listen_index.items() if value == abi.OWN}
        self._free_listens: list[int] = []
        self._free_servers: list[int] = []
        self._read()

    def _read(self) -> None:
        for number, record in enumerate(self._maps.listens):
            if record.family:
                listen = read_listen(record)
                (self.gone if record.flags & abi.LISTEN_GONE else self.listens)[listen] = number
                self.members[number], self.dead[number] = {}, {}
            else:
                self._free_listens.append(number)
        for number, record in enumerate(self._maps.servers):
            if record.state != ServerState.FREE:
                group = self.members if record.state == ServerState.ALIVE else self.dead
                group[record.listen][read_endpoint(record)] = number
                self._triples.setdefault(self._triple(record), []).append(number)
                self._addresses[tuple(record.addr.w)] += 1
            elif number:  # 0 is nobody
                self._free_servers.append(number)
        self._free_listens.reverse()
        self._free_servers.reverse()
        for numbers in self._triples.values():  # the one without a record is the oldest
            numbers.sort(key=lambda n: self._maps.servers[n].flags & abi.SERVER_RECORD)

    # --- listens ----------------------------------------------------------------------

    def add_listen(self, listen: Listen, service: VirtualService) -> int:
        """A record that no packet finds yet: see publish()."""
        number = self.gone.pop(listen, None)
        if number is None:
            if not self._free_listens:
                raise DataPlaneError(
                    f"all {abi.LISTENS} listens are in use", "fewer listens on this gateway"
                )
            number = self._free_listens.pop()
            self.members[number], self.dead[number] = {}, {}
        record = self._maps.listens[number]
        record.addr.w[:] = [*abi.words(listen.address)]
        record.port = abi.port(listen.port)
        record.proto = PROTO[listen.proto]
        self.set_listen(number, service)
        record.family = listen.address.version
        self.listens[listen] = number
        return number

    def set_listen(self, number: int, service: VirtualService) -> None:
        """How it chooses servers."""
        record = self._maps.listens[number]
        flags = record.flags & abi.LISTEN_HELD
        if service.oneshot:
            flags |= abi.LISTEN_ONESHOT
        if remembers(service):
            flags |= abi.LISTEN_MEMORY
        write_persistence(record, service.persistence)
        if service.scheduler.name == "sh":
            flags |= abi.LISTEN_SOURCE
        record.scheduler = SchedulerCode[service.scheduler.name.upper()]
        record.flags = flags

    def publish(self, listen: Listen) -> None:
        """From now on packets find it, with the ring and the flags that it has now; again
        after each change of these."""
        number = self.listens[listen]
        record = self._maps.listens[number]
        flags = record.flags & abi.LISTEN_IN_WAY
        try:
            if self.listen_index.get(address := abi.key(listen.address, 0, 0)) is None:
                self.listen_index.put(address, number)  # any listen's of the address will do
            self.listen_index.put(self._listen_key(listen), number, record.ring, flags)
        except DataPlaneError as error:
            raise DataPlaneError(f"{listen}: {error.message}", error.hint) from None

    def publish_again(self) -> None:
        """An earlier process may have been killed between writing a listen's ring and telling
        packets of it: until then they read one that would be given away."""
        for listen in self.listens:
            if self.listen_index.get(self._listen_key(listen)) is not None:
                self.publish(listen)

    def withdraw(self, listen: Listen) -> int:
        """From now on packets do not find it; its number stays until its servers are freed."""
        number = self.listens.pop(listen)
        self.gone[listen] = number
        self.listen_index.remove(self._listen_key(listen))
        if all(other.address != listen.address for other in self.listens):
            self.listen_index.remove(abi.key(listen.address, 0, 0))
        self._maps.listens[number].flags |= abi.LISTEN_GONE
        return number

    def free_listen(self, listen: Listen) -> None:
        number = self.gone.pop(listen)
        del self.members[number], self.dead[number]
        clear(self._maps.listens[number])
        clear(self._maps.past[number])
        self._free_listens.append(number)

    def set_own(self, addresses: Iterable[Address]) -> int:
        """Have packets find the gateway's own addresses; return how many changed."""
        wanted = {abi.key(address, 0, abi.PROTO_OWN) for address in addresses}
        changed = wanted ^ self._own
        for key in wanted - self._own:
            self.listen_index.put(key, abi.OWN)
        for key in self._own - wanted:
            self.listen_index.remove(key)
        self._own = wanted
        return len(changed)

    @staticmethod
    def _listen_key(listen: Listen) -> int:
        return abi.key(listen.address, listen.port, PROTO[listen.proto])

    # --- servers ----------------------------------------------------------------------

    def add_server(
        self, number: int, endpoint: Endpoint, destination: Destination, hop: NextHop
    ) -> None:
        """A server that packets find once a ring names it; one that died and was not freed
        yet comes back under its number, and its flows with it."""
        server = self.dead[number].pop(endpoint, None)
        fresh = server is None
        if server is None:
            if not self._free_servers:
                raise DataPlaneError(
                    f"all {abi.SERVERS - 1} servers are in use", "fewer servers on this gateway"
                )
            server = self._free_servers.pop()
            self._maps.counters.clear(server)
        record, listen = self._maps.servers[server], self._maps.listens[number]
        record.addr.w[:] = [*abi.words(endpoint.address)]
        record.family = endpoint.address.version
        record.port = abi.port(endpoint.port)
        record.listen = number
        record.mode = ModeCode.NAT
        record.weight = destination.weight
        record.max_connections = destination.max_connections
        if fresh:
            self._maps.loads[server].open = 0
        record.l3_delta, record.l4_delta = deltas(listen, endpoint)
        write_hop(record, hop)
        if fresh:
            try:
                self._own_triple(server, record)
            except DataPlaneError:
                clear(record)
                self._free_servers.append(server)
                raise
        record.state = ServerState.ALIVE
        self.members[number][endpoint] = server

    def _own_triple(self, server: int, record: abi.Server) -> None:
        """The first listen to reach a triple owns its unrecorded replies; the flows of
        those that come after are recorded. Nothing is left where there is no room."""
        key, numbers = self._triple(record), self._triples.get(self._triple(record), [])
        oldest = numbers[0] if numbers else server
        record.flags = abi.SERVER_RECORD if numbers else 0
        self._put_triple(key, oldest, shared=bool(numbers))
        try:
            self.return_index.put(self._address_key(record), oldest)
        except DataPlaneError:  # nobody else is at this address, so the triple is new, too
            self.return_index.remove(key)
            raise
        self._triples[key] = [*numbers, server]
        self._addresses[tuple(record.addr.w)] += 1

    def shares(self, number: int, endpoint: Endpoint) -> bool:
        """Would a server of this listen share its triple with another listen's?"""
        proto = self._maps.listens[number].proto
        key = abi.key(endpoint.address, endpoint.port, proto)
        mine = {*self.members[number].values(), *self.dead[number].values()}
        return any(server not in mine for server in self._triples.get(key, ()))

    def kill(self, number: int, endpoint: Endpoint) -> None:
        """Its flows are given up; replies that still come from it are still translated."""
        server = self.members[number].pop(endpoint)
        self.dead[number][endpoint] = server
        record = self._maps.servers[server]
        record.mtu = 0  # no packet is short enough for it
        record.state = ServerState.DEAD

    def kill_all(self, number: int) -> bool:
        """All of a listen; whether there were any."""
        endpoints = list(self.members[number])
        for endpoint in endpoints:
            self.kill(number, endpoint)
        return bool(endpoints)

    def free_server(self, number: int, endpoint: Endpoint, past: Counters) -> None:
        """Its number may be used again. past: what it had counted stays with the listen."""
        server = self.dead[number].pop(endpoint)
        record = self._maps.servers[server]
        key = self._triple(record)
        numbers = self._triples[key]
        numbers.remove(server)
        if numbers:
            self._put_triple(key, numbers[0], shared=len(numbers) > 1)
            self._maps.servers[numbers[0]].flags = 0
        else:
            del self._triples[key]
            self.return_index.remove(key)
        self._addresses[tuple(record.addr.w)] -= 1
        if not self._addresses[tuple(record.addr.w)]:
            self.return_index.remove(self._address_key(record))
        add_counters(self._maps.past[number], past)
        clear(record)
        self._free_servers.append(server)

    def _put_triple(self, key: int, oldest: int, *, shared: bool) -> None:
        self.return_index.put(key, oldest, flags=abi.WAY_SHARED if shared else 0)

    def _triple(self, record: abi.Server) -> int:
        proto = self._maps.listens[record.listen].proto
        return abi.key(abi.address(record.addr.w, record.family), abi.host_port(record.port), proto)

    @staticmethod
    def _address_key(record: abi.Server) -> int:
        return abi.key(abi.address(record.addr.w, record.family), 0, 0)

    # --- reading ----------------------------------------------------------------------

    def table(self) -> Table:
        """What the maps say, read from the maps."""
        return Table({listen: self._service(number) for listen, number in self.listens.items()})

    def _service(self, number: int) -> VirtualService:
        destinations = {
            endpoint: read_destination(self._maps.servers[server])
            for endpoint, server in self.members[number].items()
        }
        return replace(self.header(number), destinations=destinations)

    def header(self, number: int) -> VirtualService:
        """A listen without its servers."""
        record = self._maps.listens[number]
        scheduler = Scheduler(SchedulerCode(record.scheduler).name.lower())
        oneshot = bool(record.flags & abi.LISTEN_ONESHOT)
        return VirtualService(scheduler, {}, read_persistence(record), oneshot)

    def servers(self) -> Iterator[tuple[Listen, Endpoint, int]]:
        """Those alive."""
        for listen, number in self.listens.items():
            for endpoint, server in self.members[number].items():
                yield listen, endpoint, server


def read_destination(record: abi.Server) -> Destination:
    return Destination(record.weight, max_connections=record.max_connections)


def read_listen(record: abi.Listen) -> Listen:
    proto = PROTO_NAME[record.proto]
    return Listen(abi.address(record.addr.w, record.family), abi.host_port(record.port), proto)


def write_persistence(record: abi.Listen, persistence: Persistence | None) -> None:
    """Who is one client, and for how long it is remembered."""
    if persistence is None:
        record.persistence = record.seconds = 0
        return
    bits = 128 if persistence.prefix > 32 else 32
    mask = ((1 << persistence.prefix) - 1) << bits - persistence.prefix
    whole = mask.to_bytes(bits // 8, "big").ljust(16, b"\0")
    record.mask.w[:] = [*struct.unpack("<4I", whole)]
    record.seconds = persistence.timeout
    record.persistence = max(1, round(persistence.timeout / Clock.of_this_kernel().tick))


def read_persistence(record: abi.Listen) -> Persistence | None:
    if not record.persistence:
        return None
    prefix = sum(word.bit_count() for word in record.mask.w)
    return Persistence(record.seconds, prefix)


def read_endpoint(record: abi.Server) -> Endpoint:
    return Endpoint(abi.address(record.addr.w, record.family), abi.host_port(record.port))


def write_hop(record: abi.Server, hop: NextHop) -> None:
    record.dmac[:] = list(hop.dmac)
    record.smac[:] = list(hop.smac)
    record.out = hop.out
    record.mtu = hop.mtu


def read_hop(record: abi.Server) -> NextHop:
    return NextHop(bytes(record.dmac), bytes(record.smac), record.out, record.mtu)


def deltas(listen: abi.Listen, endpoint: Endpoint) -> tuple[int, int]:
    """Checksum deltas of listen -> server: of the address, and of address and port."""
    before = abi.address(listen.addr.w, listen.family).packed
    after = endpoint.address.packed
    port = int(listen.port).to_bytes(2, "little")
    return (
        abi.delta(before, after),
        abi.delta(before + port, after + endpoint.port.to_bytes(2, "big")),
    )


def clear(record: abi.Listen | abi.Server | abi.ServerStats) -> None:
    """Zero, the field that says it is in use first."""
    if isinstance(record, abi.Listen):
        record.family = 0
    elif isinstance(record, abi.Server):
        record.state = ServerState.FREE
    memoryview(record).cast("B")[:] = bytes(memoryview(record).nbytes)


def add_counters(total: abi.ServerStats, more: Counters) -> None:
    total.connections += more.connections
    total.packets_in += more.packets_in
    total.packets_out += more.packets_out
    total.bytes_in += more.bytes_in
    total.bytes_out += more.bytes_out
    total.refused += more.refused
