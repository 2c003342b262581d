"""Runs the loaded program on a made-up packet, and says what it finds on its way.

What the program looks at is read from the same maps just before. The run itself is real: it
counts as a packet, and what begins a flow may take a turn and leave a record, a SYN's for
seconds. No SYN moves a flow that lives (bpf/transition.h); a RST or FIN made up for one whose
flow is remembered ends it, as its own would. What leaves goes nowhere.
"""

from collections.abc import Iterator

from lbctl.dataplane.madeup import Headers, MadeUp, Rewrite, Step, Trace, build, read
from lbctl.dataplane.xdp import abi, bpf
from lbctl.dataplane.xdp.abi import SchedulerCode, ServerState
from lbctl.dataplane.xdp.flows import Clock, FlowCache, Way
from lbctl.dataplane.xdp.maps import Maps
from lbctl.dataplane.xdp.program import Program
from lbctl.dataplane.xdp.registry import Registry, read_endpoint, read_listen
from lbctl.dataplane.xdp.rings import Span
from lbctl.errors import DataPlaneError
from lbctl.model import Endpoint, Listen
from lbctl.netlink import Link

STRANGER = bytes.fromhex("020000000001")  # the sender's MAC: nobody looks at it
ACTIONS = ("aborted", "drop", "pass", "tx", "redirect")
TRIES = 8  # runs until only one counter rose in all of them: other packets count, too


class Tracer:
    """tick: the program's clock now."""

    def __init__(
        self,
        maps: Maps,
        registry: Registry,
        flows: FlowCache,
        ports: tuple[Link, ...],
        clock: Clock,
        tick: int,
    ) -> None:
        self._maps, self._registry, self._flows = maps, registry, flows
        self._ports, self._clock, self._tick = ports, clock, tick

    def trace(self, packet: MadeUp, program: Program) -> Trace:
        """Raises DataPlaneError where no program is loaded, or on a wrong interface."""
        port = self._port(packet)
        frame = build(packet, port.mac, STRANGER)
        steps = [Step("interface", f"in on {port.name}, for its MAC {port.mac.hex(':')}")]
        steps += self._decisions(packet)
        verdict, run = self._run(program, _tagged(frame, port.vlan), port.wire)
        before, after = read(frame), read(_untagged(run.data))
        out = self._out(run.action, port, after)
        listen, server = self._whose(verdict, packet, after)
        return Trace(
            packet=str(packet),
            interface=port.name,
            steps=tuple(steps),
            verdict=verdict,
            action=ACTIONS[run.action] if run.action < len(ACTIONS) else str(run.action),
            out=out,
            listen=listen,
            server=server,
            headers=tuple(_rewrites(before, after)),
            wrong_checksums=after.wrong,
        )

    # --- the run ------------------------------------------------------------------------

    def _run(self, program: Program, frame: bytes, ifindex: int) -> tuple[str, bpf.Run]:
        """The verdict is the one counter of those that fit the action which every run
        raised."""
        possible: set[str] = set(abi.VERDICTS)
        for _ in range(TRIES):
            before = self._maps.counters.verdicts()
            run = program.run(frame, ifindex)
            after = self._maps.counters.verdicts()
            risen = {name for name in after if after[name] > before[name]}
            possible &= risen & _fitting(run, frame)
            if len(possible) == 1:
                break
        return " or ".join(sorted(possible)) or "unknown", run

    def _port(self, packet: MadeUp) -> Link:
        if packet.interface:
            for port in self._ports:
                if port.name == packet.interface:
                    return port
            names = " ".join(port.name for port in self._ports)
            raise DataPlaneError(
                f"{packet.interface}: no interface of this gateway", f"it has {names}"
            )
        server = self._server_of(packet)
        return self._ports[0 if server is None else self._maps.servers[server].out]

    def _out(self, action: int, port: Link, after: Headers) -> str:
        if action == bpf.XDP_TX:
            return port.name
        if action != bpf.XDP_REDIRECT:
            return ""
        mac = after.fields["source MAC"]
        return next((one.name for one in self._ports if one.mac.hex(":") == mac), "")

    def _whose(
        self, verdict: str, packet: MadeUp, after: Headers
    ) -> tuple[Listen | None, Endpoint | None]:
        fields = after.fields
        if verdict == "forward":
            port = fields["destination port"]
            return packet.to, _endpoint(fields["destination address"], port)
        if verdict == "return":
            listen = _endpoint(fields["source address"], fields["source port"])
            return Listen(listen.address, listen.port, packet.to.proto), packet.source
        return None, None

    # --- what it meets ------------------------------------------------------------------

    def _decisions(self, packet: MadeUp) -> Iterator[Step]:
        key = abi.key(packet.to.address, packet.to.port, packet.proto)
        way = self._registry.listen_index.get(key)
        if way is not None:
            record = self._maps.listens[way.number]
            scheduler = SchedulerCode(record.scheduler).name.lower()
            yield Step("listen", f"{packet.to} is ours, scheduler {scheduler}")
            yield from self._choice(packet, way.number, record)
            return
        yield Step("listen", f"no service listens on {packet.to}")
        server = self._server_of(packet)
        if server is None:
            yield Step("way back", f"{packet.source} is no server's: the kernel's stack takes it")
        else:
            yield from self._return(packet, server)

    def _choice(self, packet: MadeUp, number: int, record: abi.Listen) -> Iterator[Step]:
        hash_ = self._hash(packet, record)
        owner, old = self._slot(record, hash_)
        yield Step("ring", self._ring(record, hash_, owner, old))
        memory = bool(record.flags & abi.LISTEN_MEMORY)
        if not memory and old is None:
            return
        way = self._flows.find(abi.mix(hash_), self._tick, self._maps.gateway.timeout[:])
        yield Step("flow cache", self._record(way))
        if way is None and memory and (packet.to.proto == "udp" or packet.flags == "S"):
            yield from self._new(number, record, owner)

    def _ring(self, record: abi.Listen, hash_: int, owner: int, old: int | None) -> str:
        span = Span.of(record.ring)
        slots = 0 if span is None else len(span.slots)
        at = hash_ >> (record.ring >> abi.RING_SHIFT & 63)
        text = f"slot {at} of {slots}: {self._name(owner)}"
        if old is None:
            return text
        return f"{text}; it changes: flows without a record stay with {self._name(old)}"

    def _slot(self, record: abi.Listen, hash_: int) -> tuple[int, int | None]:
        """A slot's server and, if it changes, the old one."""
        at = hash_ >> (record.ring >> abi.RING_SHIFT & 63)
        page, at = divmod(at, abi.PAGE_SLOTS)
        page += record.ring & abi.RING_PAGE
        word = self._maps.ring_page(page).slot[at]
        if not word & abi.SLOT_CHANGING:
            return word, None
        return word & ~abi.SLOT_CHANGING, self._maps.old_page(page).slot[at].server & ~abi.OLD_KEPT

    def _record(self, way: Way | None) -> str:
        if way is None:
            return "no record of this flow"
        idle = ((self._tick - way.age) & (1 << abi.AGE_BITS) - 1) * self._clock.tick
        state = way.state.name.lower().replace("_", " ")
        return f"{state} with {self._name(way.server)}, last used {idle:.0f} s ago"

    def _new(self, number: int, record: abi.Listen, owner: int) -> Iterator[Step]:
        """Where a flow that begins is to go."""
        if record.persistence:
            yield Step("persistence", f"where this client's last flow went in {record.seconds} s")
        match SchedulerCode(record.scheduler):
            case SchedulerCode.RR | SchedulerCode.WRR:
                yield Step("turn", self._turn(number, record))
            case SchedulerCode.LC | SchedulerCode.WLC:
                yield Step("load", "the less loaded of two servers, picked by the flow's hash")
            case _:
                yield Step("slot", f"as the ring says: {self._name(owner)}")

    def _turn(self, number: int, record: abi.Listen) -> str:
        length = record.turns & abi.TURNS_HALF - 1
        if not length:
            return "no server takes new flows"
        half = 1 if record.turns & abi.TURNS_HALF else 0
        at = self._maps.cursors[number].next % length
        return f"turn {at + 1} of {length}: {self._name(self._maps.turns(number).server[half][at])}"

    def _return(self, packet: MadeUp, server: int) -> Iterator[Step]:
        record = self._maps.servers[server]
        listen = read_listen(self._maps.listens[record.listen])
        yield Step("way back", f"{packet.source} is a server of {listen}")
        way = self._registry.return_index.get(_triple(packet))
        if way is not None and way.flags & abi.WAY_SHARED:
            yield Step("shared", "several listens reach this server: a record says whose it is")
        yield Step("route", f"to {packet.to.address} by the kernel's routes, as {listen.address}")

    def _server_of(self, packet: MadeUp) -> int | None:
        way = self._registry.return_index.get(_triple(packet))
        return None if way is None else way.number

    def _name(self, number: int) -> str:
        """A server and how it stands."""
        record = self._maps.servers[number]
        if not number:
            return "nobody"
        state = ServerState(record.state)
        if state is ServerState.ALIVE:
            hop = bytes(record.dmac).hex(":")
            port = self._ports[record.out].name
            return f"{read_endpoint(record)} (weight {record.weight}, by {hop} on {port})"
        return f"{read_endpoint(record)} (dead)" if state is ServerState.DEAD else f"no. {number}"

    def _hash(self, packet: MadeUp, record: abi.Listen) -> int:
        """schedule.h, lb_hash_of."""
        key = self._maps.gateway.key[:]
        ends = (packet.source.address, packet.to.address)
        source, dest = (abi.fold_address(key, one) for one in ends)
        addresses = source << 32 | dest
        ports = abi.port(packet.to.port) << 16 | abi.port(packet.source.port)
        hash_ = abi.flow_hash(key, addresses, ports, packet.proto)
        if not record.flags & abi.LISTEN_SOURCE:
            return hash_
        client = abi.flow_hash(key, addresses, 0, 0)
        return client >> 48 << 48 | hash_ & (1 << 48) - 1


def _tagged(frame: bytes, vlan: int) -> bytes:
    """As it comes in on the interface that the VLAN lies on."""
    return frame[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + frame[12:] if vlan else frame


def _untagged(frame: bytes) -> bytes:
    return frame[:12] + frame[16:] if frame[12:14] == b"\x81\0" else frame


def _triple(packet: MadeUp) -> int:
    return abi.key(packet.source.address, packet.source.port, packet.proto)


def _fitting(run: bpf.Run, frame: bytes) -> set[str]:
    """Verdicts that end in such an action."""
    if run.action == bpf.XDP_PASS:
        return {name for name in abi.VERDICTS if name.startswith("pass_")}
    if run.action == bpf.XDP_DROP:
        return {name for name in abi.VERDICTS if name.startswith("drop_")}
    before, after = read(_untagged(frame)).fields, read(_untagged(run.data)).fields
    same = all(before[f"destination {one}"] == after[f"destination {one}"] for one in WHERE)
    return {"return"} if same else {"forward"}


WHERE = ("address", "port")


def _rewrites(before: Headers, after: Headers) -> Iterator[Rewrite]:
    for name, value in before.fields.items():
        if after.fields[name] != value:
            yield Rewrite(name, value, after.fields[name])


def _endpoint(address: str, port: str) -> Endpoint:
    return Endpoint.parse(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
