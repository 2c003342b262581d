"""The XDP data path behind the port.

Order is what keeps it hitless: a server's record is whole before a ring names it, a ring
is whole before packets find its listen, and a server dies only when no ring names it.
"""

import hashlib
import secrets
import select
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from ctypes import sizeof
from pathlib import Path
from socket import IPPROTO_UDP
from typing import assert_never

from lbctl.dataplane.madeup import MadeUp, Trace
from lbctl.dataplane.nics import Nic
from lbctl.dataplane.port import (
    Active,
    AddServer,
    AddService,
    Counters,
    Flow,
    FlowChanges,
    Kept,
    Near,
    Op,
    Refusal,
    RemoveServer,
    RemoveService,
    RingCopy,
    SetServer,
    SetService,
    Stats,
)
from lbctl.dataplane.xdp import abi, bpf, ethtool, maps, nic
from lbctl.dataplane.xdp.abi import FlowState, SchedulerCode
from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.dataplane.xdp.counters import counters_of
from lbctl.dataplane.xdp.flows import Clock, FlowCache, Way
from lbctl.dataplane.xdp.hops import NextHops
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.ports import write_ports
from lbctl.dataplane.xdp.program import Program
from lbctl.dataplane.xdp.registry import Registry, read_hop, write_hop
from lbctl.dataplane.xdp.rings import Rings
from lbctl.dataplane.xdp.shape import Feature, Shape, features_of, limits_of
from lbctl.dataplane.xdp.sharing import Sharing
from lbctl.dataplane.xdp.support import (
    BY_LOAD,
    check_destination,
    check_same_hash,
    check_service,
    remembers,
)
from lbctl.dataplane.xdp.trace import Tracer
from lbctl.dataplane.xdp.wanted import Wishes
from lbctl.errors import DataPlaneError
from lbctl.model import (
    WEIGHTLESS,
    Endpoint,
    Frontend,
    Gateway,
    Listen,
    Proto,
    Table,
    VirtualService,
    XdpMode,
)
from lbctl.netlink import TAG, Netlink

KEPT = {FlowState.RETURN: Kept.BACK, FlowState.CLIENT: Kept.CLIENT}
STATES = {kept: state for state, kept in KEPT.items()}
NO_FLOWS = {*KEPT, FlowState.FRAGMENT, FlowState.RETURN_NEW}
WISHES = 64  # neighbours of clients that are asked for at a time


class XdpPlane:
    """One gateway's XDP program and its maps. Needs root, in the gateway's namespace."""

    name = "xdp"

    def __init__(
        self, gateway: Gateway, pins: Path, netlink: Netlink, fenced: bool = False
    ) -> None:
        """Open what is pinned, or make the maps. fenced: virtual routers run here. Raises
        DataPlaneError, NotPermitted."""
        nic.check_privilege()
        nic.check_forwarding(gateway.interfaces)
        nic.ensure_bpffs(pins)
        self.writes: Counter[str] = Counter()
        self.sweeps = 0  # of the whole flow cache, for flows of dead servers
        self._netlink = netlink
        self._gateway = gateway
        self._fenced = fenced
        self._hops = NextHops(netlink, gateway.interfaces)
        wires = nic.wires(self._hops.ports, netlink.links())
        for wire in wires:
            nic.check_link(wire, bool(ethtool.lro(wire.name)))
        for port in self._hops.ports:
            nic.check_vlan(port, wires)
        self.writes["maps"] += maps.create(pins, maps.sets_for(gateway.flow_cache))
        self._maps = Maps(pins)
        names = tuple(wire.name for wire in wires)
        self._tagged = self._sees_tags()  # asked of the cards, so not for each verdict
        self._program = Program(self._maps, netlink, names, gateway.xdp_mode)
        ours = self._program.ours()
        for wire in wires:
            nic.check_hook(wire, ours)
        self._clock = Clock.of_this_kernel()
        self._registry = Registry(self._maps)
        self._write_gateway()
        self._rings = Rings(self._maps)
        self._flows = FlowCache(self._maps, self._maps.gateway.flow_mask + 1)
        self._wanted = Wishes(self._maps.fds["wanted"])
        self._suspected: set[int] = set()  # numbers of servers that refuse
        self._sharing = Sharing(self._maps, self._registry, self._rings, self._clock)
        self._waiting = False  # a server was refused for want of a neighbour
        self._swept: set[tuple[int, Endpoint]] = set()  # dead when the last sweep ran
        self._needed: set[Feature] = set()  # of listens and servers; at least what they need
        self._registry.publish_again()
        if self._maps.meta.unsettled:
            self._settle_all()
        if self._registry.listens:
            self._renew()
        self._program.leave_others()
        self._epoll = select.epoll()
        self._epoll.register(netlink.fileno(), select.EPOLLIN)
        self._epoll.register(self._wanted.fileno(), select.EPOLLIN)

    # --- the port ---------------------------------------------------------------------

    def observe(self) -> Table:
        return self._registry.table()

    def apply(self, ops: Sequence[Op]) -> list[Refusal]:
        """Do `ops`, then settle each listen once: its ring, its place in the index, its
        dead."""
        self._hops.prepare(op.endpoint.address for op in ops if isinstance(op, AddServer))
        batch = _Batch()
        shape = self._shape(ops)
        needed = any(isinstance(op, AddService | SetService) for op in ops)
        if not needed and shape == self._program.lacks:
            batch.no_program = self._program.failure  # a verdict does not wait for a loader
        else:
            try:
                self._program.ensure(shape)
            except DataPlaneError as error:
                batch.no_program = error
        self._maps.meta.unsettled = 1
        for op in ops:
            try:
                self._do(op, batch)
            except DataPlaneError as error:
                batch.refused.append(Refusal(op, error))
            else:
                self.writes["operations"] += 1
                batch.last[op.frontend] = op
        self._settle(batch)
        self._maps.meta.unsettled = 0
        return batch.refused

    def stats(self) -> Stats:
        self._sweep()
        servers: dict[tuple[Frontend, Endpoint], Counters] = {}
        active: dict[tuple[Frontend, Endpoint], Active] = {}
        for listen, endpoint, number in self._registry.servers():
            servers[listen, endpoint] = self._maps.counters.of_server(number)
            active[listen, endpoint] = self._active(listen, number)
        past: dict[Frontend, Counters] = {
            listen: counters_of(self._maps.past[number])
            for listen, number in self._registry.listens.items()
        }
        writes = {**self.writes, "programs": self._program.loads}
        unrest: dict[Frontend, float] = {
            listen: self._rings.unrest(number)
            for listen, number in self._registry.listens.items()
            if number in self._rings.changing
        }
        return Stats(servers, active, self._maps.counters.verdicts(), writes, past, unrest)

    def export_flows(self) -> Iterator[Flow]:
        yield from self._named(way for way in self._flows if way.state not in NO_FLOWS)

    def flow_changes(self, whole: bool = False) -> FlowChanges:
        fresh, gone = self._flows.changes(whole)
        return FlowChanges([*self._named(fresh)], gone)

    def _named(self, ways: Iterable[Way]) -> Iterator[Flow]:
        """Those whose server lives."""
        where = {number: (listen, e) for listen, e, number in self._registry.servers()}
        tick = self._tick()
        for way in ways:
            if way.server in where:
                listen, endpoint = where[way.server]
                idle = ((tick - way.age) & (1 << abi.AGE_BITS) - 1) * self._clock.tick
                confirmed = way.state is not FlowState.EMBRYONIC
                kept = KEPT.get(way.state, Kept.FLOW)
                yield Flow(listen, way.key, endpoint, confirmed, idle, kept)

    def import_flows(self, flows: Iterable[Flow]) -> int:
        numbers: dict[tuple[Frontend, Endpoint], int] = {
            (listen, e): number for listen, e, number in self._registry.servers()
        }
        tick, taken = self._tick(), 0
        for flow in flows:
            number = numbers.get((flow.frontend, flow.server))
            if number is not None and isinstance(flow.frontend, Listen):
                age = tick - round(flow.idle / self._clock.tick)
                lives = FlowState.UDP if flow.frontend.proto is Proto.UDP else FlowState.ESTABLISHED
                state = lives if flow.confirmed else FlowState.EMBRYONIC
                state = STATES.get(flow.kept, state)
                taken += self._flows.put(flow.key, number, state, age & (1 << abi.AGE_BITS) - 1)
        return taken

    def hash_key(self) -> bytes:
        return self._sharing.hash_key()

    def take_hash_key(self, key: bytes) -> None:
        self._sharing.take_hash_key(key)

    def export_ring(self, frontend: Frontend) -> RingCopy:
        return self._sharing.export_ring(frontend, self._tick())

    def import_ring(self, frontend: Frontend, copy: RingCopy) -> int:
        written = self._sharing.import_ring(frontend, copy, self._tick())
        self.writes["slots"] += written
        return written

    def own_rings(self, frontends: Iterable[Frontend]) -> None:
        self._sharing.own_rings(frontends)

    def hold_unknown(self, frontends: Iterable[Frontend], held: bool) -> None:
        for frontend in frontends:
            number = self._registry.listens.get(frontend) if isinstance(frontend, Listen) else None
            if number is not None:
                record = self._maps.listens[number]
                others = record.flags & ~abi.LISTEN_HELD
                record.flags = others | (abi.LISTEN_HELD if held else 0)

    def forget_flows(self, places: Iterable[bytes]) -> None:
        for place in places:
            self._flows.forget(place)

    def near(self) -> Set[Near]:
        return self._hops.near()

    def meet(self, wanted: Iterable[Near]) -> None:
        self._hops.meet(wanted)

    def fileno(self) -> int | None:
        return self._epoll.fileno()

    def catch_up(self) -> bool:
        """Neighbours that moved are written into their servers' records."""
        wishes = set(self._wanted.take())
        self._suspected.update(number for address, number in wishes if address is None)
        neighbours = [(address, n) for address, n in wishes if address is not None]
        for address, ifindex in neighbours[:WISHES]:
            self._hops.want(address, ifindex)
        self._hops.refresh(routes_changed=self._netlink.take_news())
        self._write_gateway()
        for _, endpoint, number in self._registry.servers():
            self._follow(endpoint, number)
        waiting, self._waiting = self._waiting, False
        return waiting

    def suspects(self) -> set[tuple[Frontend, Endpoint]]:
        """Servers that refused since this was last called."""
        numbers, self._suspected = self._suspected, set()
        servers = self._registry.servers() if numbers else ()
        return {(listen, endpoint) for listen, endpoint, n in servers if n in numbers}

    def tend(self) -> None:
        """Age remembered flows; free the numbers of what has been dead for a whole sweep;
        put a program that was taken off back on. Raises DataPlaneError where that fails."""
        self._sweep()
        dead = {(n, e) for n, group in self._registry.dead.items() for e in group}
        for number, endpoint in dead & self._swept:
            past = self._maps.counters.of_server(self._registry.dead[number][endpoint])
            self._registry.free_server(number, endpoint, past)
        self._swept = dead
        for listen, number in list(self._registry.gone.items()):
            if not self._registry.dead[number]:
                self._rings.release(number)
                self._sharing.replicas.discard(number)
                self._registry.free_listen(listen)
        self._rings.tidy()
        self._tagged = self._sees_tags()
        if self._registry.listens:
            self._program.ensure(Shape(frozenset(self._features_in_maps())))

    def _renew(self) -> None:
        """Have today's program run. If there is none to be had, for want of a compiler say,
        one of an earlier lbctl goes on."""
        try:
            self._program.ensure(Shape(frozenset(self._features_in_maps())))
        except DataPlaneError:
            if not self._program.fits():
                raise

    def _sweep(self) -> None:
        """Age what is remembered, count the rest anew, and settle slots. Records of slots
        that were settled mean nothing any more: they are swept at once."""
        sweep = self._program.sweep()
        if sweep is None:
            return
        before = {n: self._maps.loads[n].open for _, n in self._loaded()}
        self._flows.sweep(sweep)
        self._correct_loads(before)
        own = self._rings.changing - self._sharing.replicas  # a peer settles the others
        settled = sum(self._settle_ring(sweep, number) for number in own)
        if settled:
            self._flows.drop(sweep)

    def _loaded(self) -> Iterator[tuple[int, int]]:
        """Servers whose flows are counted as they come and go: (listen, server)."""
        for listen, _, server in self._registry.servers():
            number = self._registry.listens[listen]
            by_load = self._scheduler(number).name.lower() in BY_LOAD
            if by_load or self._maps.servers[server].max_connections:
                yield number, server

    def _correct_loads(self, before: Mapping[int, int]) -> None:
        """lc, wlc and limits miss flows that just fall silent. What came and went during the
        sweep is kept, though it may have met it: until the next one, some count twice. Who is
        full gets no turn: the program looks at a few others only."""
        limited = set[int]()
        for number, server in self._loaded():
            load = self._maps.loads[server]
            load.open = max(0, self._flows.open(server) + load.open - before[server])
            if self._maps.servers[server].max_connections:
                limited.add(number)
        for number in limited:
            self._rings.follow_room(
                number, self._registry.members[number], weighted=self._weighted(number)
            )

    def _drop_dead(self) -> None:
        """Flows of dead servers are forgotten."""
        if (sweep := self._program.sweep()) is not None:
            self._flows.drop(sweep)
            self.sweeps += 1

    def _settle_ring(self, sweep: Descriptor, number: int) -> int:
        """Returns how many slots stopped changing."""
        record = self._maps.listens[number]
        state = FlowState.UDP if record.proto == IPPROTO_UDP else FlowState.ESTABLISHED
        idle = self._maps.gateway.timeout[state]
        found = self._flows.settle(sweep, self._rings.span(number).slots, idle)
        if not found.changing:
            self._rings.changing.discard(number)
        records = self._registry.members.get(number, {}).values()
        counts = (self._maps.flow_counts[server].in_state[FlowState.UDP] for server in records)
        self._maps.cursors[number].udp_records = sum(counts)
        return found.settled

    def trace(self, packet: MadeUp) -> Trace:
        """What the loaded program does with it, and why."""
        tracer = Tracer(
            self._maps, self._registry, self._flows, self._hops.ports, self._clock, self._tick()
        )
        return tracer.trace(packet, self._program)

    def nics(self) -> list[Nic]:
        """The gateway's interfaces, as they are set now."""
        ours = self._program.ours()
        links = (self._netlink.link(name) for name in self._gateway.interfaces)
        return [nic.survey(link, ours) for link in links if link is not None]

    def remarks(self) -> list[str]:
        """An interface whose driver has no XDP, or that is not there; a program that could not
        be replaced; a flow cache that keeps its old size."""
        found = [
            f"{name}: there is no such interface (`ip link` shows those that are)"
            for name in self._gateway.interfaces
            if self._netlink.link(name) is None
        ]
        if (failure := self._program.failure) is not None:
            found.append(f"the packet program is not the one that is wanted: {failure}")
        found += [
            f"{link.name}: generic XDP, which is slow: the driver takes no XDP program "
            f"(`ethtool -i {link.name}` names it)"
            for link in self._hops.ports
            if self._gateway.xdp_mode is XdpMode.AUTO and self._generic(link.name)
        ]
        if (key := _key_of(self._gateway.flow_key)) and [*self._maps.gateway.key] != key:
            found.append(
                "flow_key: another one has been in use since the maps were made, and the peer "
                "sends flows elsewhere: stop lbctl and lbctl-vrrp, "
                f"`rm -r {self._maps.directory}`, start both (connections are cut once)"
            )
        sets, wanted = self._maps.gateway.flow_mask + 1, maps.sets_for(self._gateway.flow_cache)
        if sets != wanted:
            found.append(
                f"flow_cache: room for {sets * abi.FLOW_WAYS} flows as when it was made, not for "
                f"{wanted * abi.FLOW_WAYS}: stop lbctl and lbctl-vrrp, "
                f"`rm -r {self._maps.directory}`, start both (connections are cut once)"
            )
        return found

    def _generic(self, name: str) -> bool:
        link = self._netlink.link(name)
        return link is not None and link.xdp_generic

    def close(self) -> None:
        self._epoll.close()
        self._wanted.close()
        self._program.close()
        self._maps.close()

    # --- one operation ----------------------------------------------------------------

    def _do(self, op: Op, batch: "_Batch") -> None:
        if isinstance(op, AddService):
            self._add_service(op, batch)
            return
        listen = self._listen(op)
        number = self._registry.listens[listen]
        match op:
            case SetService(_, service):
                check_service(listen, service)
                self._need_same_hash(op, number)
                self._need_program(op, batch)
                batch.services[number] = service
                batch.settle[number] = listen
            case RemoveService():
                self._registry.withdraw(listen)
                batch.killed |= self._registry.kill_all(number)
                batch.dropped = False
                batch.forget(number)
            case AddServer():
                self._need_limits(op, number, batch)
                self._add_server(op, number, batch)
                batch.settle[number] = listen
            case SetServer(_, endpoint, destination):
                self._need_limits(op, number, batch)
                record = self._maps.servers[self._member(op, number, endpoint, batch)]
                record.weight = destination.weight
                record.max_connections = destination.max_connections
                batch.settle[number] = listen
            case RemoveServer(_, endpoint):
                self._member(op, number, endpoint, batch)
                batch.dying.add((number, endpoint))
                batch.settle[number] = listen
            case _:
                assert_never(op)

    def _add_service(self, op: AddService, batch: "_Batch") -> None:
        listen = check_service(op.frontend, op.service)
        if listen in self._registry.listens:
            raise DataPlaneError(f"{op}: File exists")
        self._need_program(op, batch)
        try:
            number = self._registry.add_listen(listen, op.service)
            self._open_ring(listen, number)
        except DataPlaneError as error:
            raise DataPlaneError(f"{op}: {error.message}", error.hint) from None
        batch.settle[number] = listen

    def _open_ring(self, listen: Listen, number: int) -> None:
        """A listen for which there is no ring is not kept: nothing could follow it."""
        try:
            self._rings.open(number)
        except DataPlaneError:
            self._registry.withdraw(listen)
            self._registry.kill_all(number)
            raise

    def _scheduler(self, number: int) -> SchedulerCode:
        return SchedulerCode(self._maps.listens[number].scheduler)

    def _weighted(self, number: int) -> bool:
        return self._scheduler(number).name.lower() not in WEIGHTLESS

    def _add_server(self, op: AddServer, number: int, batch: "_Batch") -> None:
        if op.endpoint in self._registry.members[number]:
            if (number, op.endpoint) not in batch.dying:
                raise DataPlaneError(f"{op}: File exists")
            self._registry.kill(number, op.endpoint)  # taken away before in this batch
            batch.dying.discard((number, op.endpoint))
            batch.dropped = False
        try:
            hop = self._hops.resolve(op.endpoint.address)
        except DataPlaneError as error:
            self._waiting = True
            raise DataPlaneError(f"{op}: {error.message}", error.hint) from None
        if op.endpoint in self._registry.dead[number] and not batch.dropped:
            self._drop_dead()  # its number comes back, the flows that it had do not
            batch.dropped = True
        try:
            self._registry.add_server(number, op.endpoint, op.destination, hop)
        except DataPlaneError as error:
            raise DataPlaneError(f"{op}: {error.message}", error.hint) from None

    def _listen(self, op: Op) -> Listen:
        if isinstance(op.frontend, Listen) and op.frontend in self._registry.listens:
            return op.frontend
        raise DataPlaneError(f"{op}: No such service")

    def _member(self, op: Op, number: int, endpoint: Endpoint, batch: "_Batch") -> int:
        known = endpoint in self._registry.members[number]
        if not known or (number, endpoint) in batch.dying:
            raise DataPlaneError(f"{op}: No such destination")
        return self._registry.members[number][endpoint]

    def _need_limits(self, op: AddServer | SetServer, number: int, batch: "_Batch") -> None:
        """The same, of what a server asks for."""
        service = batch.services.get(number)
        scheduler = service.scheduler.name if service else self._scheduler(number).name.lower()
        check_destination(op.frontend, op.destination, scheduler)
        shares = isinstance(op, AddServer) and self._registry.shares(number, op.endpoint)
        records = {Feature.FLOWS} if shares else set[Feature]()
        needed = Shape(frozenset(limits_of(op.destination.max_connections) | records))
        error = batch.no_program
        if error is not None and needed.features and not self._program.covers(needed):
            raise DataPlaneError(f"{op}: {error.message}", error.hint)

    def _need_same_hash(self, op: SetService, number: int) -> None:
        """A listen without servers has no flows, one without a memory of any (oneshot) none
        that could move."""
        record = self._maps.listens[number]
        oneshot = op.service.oneshot and record.flags & abi.LISTEN_ONESHOT
        if self._registry.members[number] and not oneshot:
            before = self._scheduler(number).name.lower()
            check_same_hash(op.frontend, before, op.service.scheduler.name)

    def _need_program(self, op: AddService | SetService, batch: "_Batch") -> None:
        """Refuse what the program that runs, for want of a better one, cannot do."""
        six = isinstance(op.frontend, Listen) and op.frontend.address.version == 6
        if six:
            nic.check_forwarding6(op.frontend, self._gateway.interfaces)
        needed = Shape(frozenset(features_of(op.service) | ({Feature.IPV6} if six else set())))
        if (error := batch.no_program) is not None and not self._program.covers(needed):
            raise DataPlaneError(f"{op}: {error.message}", error.hint)

    # --- settling ---------------------------------------------------------------------

    def _settle(self, batch: "_Batch") -> None:
        tick = self._tick()  # before anything is written: it may fail
        dying: dict[int, set[Endpoint]] = {}
        for number, endpoint in batch.dying:
            dying.setdefault(number, set()).add(endpoint)
        for number, listen in list(batch.settle.items()):
            if number in batch.services:
                self._change_service(number, batch.services[number], tick)
            self._write_ring(number, dying.get(number, set()), tick)
            try:
                self._registry.publish(listen)
            except DataPlaneError as error:
                self._registry.withdraw(listen)
                self._registry.kill_all(number)
                batch.forget(number)
                batch.refused.append(Refusal(batch.last[listen], error))
        for number, endpoint in batch.dying:
            self._registry.kill(number, endpoint)
        if batch.dying or batch.killed:
            self._drop_dead()

    def _settle_all(self) -> None:
        """An earlier process was killed in the middle of a change: make every ring follow
        its records, and every listen be found. Only what differs is written. A listen for
        which there is no room goes; that it is missing is found, and told, as ever."""
        tick = self._tick()
        for listen, number in list(self._registry.listens.items()):
            with suppress(DataPlaneError):
                self._open_ring(listen, number)
                self._write_ring(number, set(), tick)
                self._registry.publish(listen)
                continue
            if listen in self._registry.listens:
                self._registry.withdraw(listen)
                self._registry.kill_all(number)
        self._drop_dead()
        self._maps.meta.unsettled = 0

    def _change_service(self, number: int, service: VirtualService, tick: int) -> None:
        record = self._maps.listens[number]
        if record.flags & abi.LISTEN_MEMORY and not remembers(service):
            self._rings.hold(number, tick)
        self._registry.set_listen(number, service)

    def _write_ring(self, number: int, dying: set[Endpoint], tick: int) -> None:
        living = {e: n for e, n in self._registry.members[number].items() if e not in dying}
        self.writes["slots"] += self._rings.write(
            number, living, weighted=self._weighted(number), tick=tick
        )

    def _shape(self, ops: Sequence[Op]) -> Shape:
        """The features in use once `ops` are done."""
        features: set[Feature] = set()
        triples: dict[tuple[Endpoint, str], Frontend] = {}
        for op in ops:
            if isinstance(op, AddService | SetService):
                features |= features_of(op.service)
            if isinstance(op.frontend, Listen) and op.frontend.address.version == 6:
                features.add(Feature.IPV6)
            if isinstance(op, AddServer | SetServer):
                features |= limits_of(op.destination.max_connections)
            if isinstance(op, AddServer) and isinstance(op.frontend, Listen):
                triple = (op.endpoint, op.frontend.proto)
                number = self._registry.listens.get(op.frontend)
                shared = number is not None and self._registry.shares(number, op.endpoint)
                if shared or triples.setdefault(triple, op.frontend) != op.frontend:
                    features.add(Feature.FLOWS)
        if any(not isinstance(op, RemoveServer | SetServer) for op in ops):
            self._needed = self._features_in_records()
        # What else would be looked for in every record, only a new one can bring.
        self._needed |= features
        return Shape(frozenset(self._needed | self._features_around()))

    def _features_in_maps(self) -> set[Feature]:
        """What the maps hold already needs."""
        self._needed = self._features_in_records()
        return self._needed | self._features_around()

    def _features_around(self) -> set[Feature]:
        """What interfaces and virtual routers need."""
        found = {Feature.DIRECT} if self._gateway.direct else set()
        if any(port.vlan for port in self._hops.ports) or self._tagged:
            found.add(Feature.VLAN)
        if self._fenced or any(bpf.keys(self._maps.fds["fence_keys"], sizeof(abi.FenceKey))):
            found.add(Feature.FENCE)
        return found

    def _features_in_records(self) -> set[Feature]:
        """What listens and servers need; looks at all of them."""
        found: set[Feature] = set()
        for number in self._registry.listens.values():
            found |= features_of(self._registry.header(number))
        records = [self._maps.servers[number] for _, _, number in self._registry.servers()]
        if any(record.flags for record in records):
            found.add(Feature.FLOWS)
        found |= limits_of(max((record.max_connections for record in records), default=0))
        if any(listen.address.version == 6 for listen in self._registry.listens):
            found.add(Feature.IPV6)
        return found

    def _sees_tags(self) -> bool:
        """Frames may come with a tag that only tells the priority: to us all the same."""
        return any(ethtool.vlan_stripping(name) is False for name in self._gateway.interfaces)

    # --- the gateway itself -----------------------------------------------------------

    def _write_gateway(self) -> None:
        """Interfaces, own addresses and clock: written only where they differ."""
        fresh = abi.Gateway.from_buffer_copy(self._maps.gateway)
        if not any(fresh.key):
            random = [secrets.randbits(64) for _ in fresh.key]
            fresh.key[:] = [*(_key_of(self._gateway.flow_key) or random)]
            fresh.flow_mask = maps.sets_for(self._gateway.flow_cache) - 1
        fresh.tick_shift = self._clock.shift
        fresh.timeout[:] = [*self._clock.timeouts()]
        fresh.udp_records = maps.sets_for(self._gateway.flow_cache) * abi.FLOW_WAYS // 4
        mine = {a for a, tag in self._netlink.addresses() if tag != TAG and not a.is_loopback}
        self.writes["own"] += self._registry.set_own(mine)
        write_ports(fresh, self._hops.ports)
        if bytes(fresh) != bytes(self._maps.gateway):
            memoryview(self._maps.gateway).cast("B")[:] = bytes(fresh)
            self.writes["gateway"] += 1
        self._write_ports()
        self._write_direct()

    def _write_ports(self) -> None:
        """The device map that redirects go through."""
        for i, link in enumerate(self._hops.ports):
            key, value = i.to_bytes(4, "little"), link.wire.to_bytes(4, "little")
            try:
                present = bpf.lookup(self._maps.fds["tx_ports"], key, 4)
            except FileNotFoundError:
                present = b""
            if present != value:
                try:
                    bpf.update(self._maps.fds["tx_ports"], key, value)
                except OSError as error:
                    raise DataPlaneError(
                        f"{link.name}: cannot be sent from: {error.strerror}",
                        f"`ip link show {link.name}` says whether it is there still",
                    ) from None
                self.writes["ports"] += 1

    def _write_direct(self) -> None:
        for version, name in ((4, "direct4"), (6, "direct6")):
            trie = self._maps.fds[name]
            prefixes = [one for one in self._gateway.direct if one.version == version]
            wanted = {
                prefix.prefixlen.to_bytes(4, "little") + prefix.network_address.packed
                for prefix in prefixes
            }
            present = set(bpf.keys(trie, 8 if version == 4 else 20))
            for key in present - wanted:
                bpf.delete(trie, key)
            for key in wanted - present:
                try:
                    bpf.update(trie, key, b"\1\0\0\0")
                except OSError as error:
                    raise DataPlaneError(
                        f"direct: cannot write {len(wanted)} prefixes of IPv{version}: "
                        f"{error.strerror}",
                        "fewer and shorter ones; there is room for 1024 of each family",
                    ) from None
            self.writes["direct"] += len(wanted ^ present)

    def _follow(self, endpoint: Endpoint, number: int) -> None:
        """Write a next hop that moved; one that is gone stays: health decides."""
        try:
            hop = self._hops.resolve(endpoint.address)
        except DataPlaneError:
            return
        record = self._maps.servers[number]
        if read_hop(record) != hop:
            write_hop(record, hop)
            self.writes["neighbours"] += 1

    # --- numbers ----------------------------------------------------------------------

    def _active(self, listen: Listen, server: int) -> Active:
        if self._maps.listens[self._registry.listens[listen]].flags & abi.LISTEN_MEMORY:
            return self._flows.active(server)
        if self._maps.servers[server].weight == 0:
            return self._flows.estimate(server, self._tick(), self._clock.tick)
        return Active(None, "nobody")

    def _tick(self) -> int:
        """As the program counts now."""
        sweep = self._program.sweep()
        return self._flows.tick(sweep) if sweep is not None else 0


class _Batch:
    """What one apply() has to settle."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []
        self.settle: dict[int, Listen] = {}  # by number
        self.services: dict[int, VirtualService] = {}
        self.last: dict[Frontend, Op] = {}  # what was last done to each
        self.dying: set[tuple[int, Endpoint]] = set()
        self.killed = False
        self.dropped = False  # whoever is dead has lost its flows
        self.no_program: DataPlaneError | None = None

    def forget(self, number: int) -> None:
        """The listen is gone: nothing of it is left to settle."""
        self.settle.pop(number, None)
        self.services.pop(number, None)
        self.dying = {(n, endpoint) for n, endpoint in self.dying if n != number}


def _key_of(secret: str) -> list[int]:
    """The flow hash's four words; empty without a secret."""
    return [*struct.unpack("<4Q", hashlib.sha256(secret.encode()).digest())] if secret else []
