"""The port: what every data path must do, and the operations it is asked for.

Three implementations: `fake` (memory, with the kernel's manners), `xdp` and `ipvs`. The
same contract tests run on all of them (tests/contract).

`apply` takes a batch, in order, and refuses one operation at a time: a data path can
then build each ring once, or send all messages in one go, and what it refuses does not
stop the rest (ADR 0001).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol, runtime_checkable

from lbctl.dataplane.madeup import MadeUp, Trace
from lbctl.dataplane.nics import Nic
from lbctl.errors import DataPlaneError
from lbctl.model import Address, Destination, Endpoint, Frontend, Table, VirtualService

# --- operations -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddService:
    """A new listen, without destinations (`service.destinations` is empty)."""

    frontend: Frontend
    service: VirtualService

    def __str__(self) -> str:
        return f"{self.frontend}: add service ({self.service.scheduler})"


@dataclass(frozen=True, slots=True)
class SetService:
    """Another scheduler or persistence; destinations stay."""

    frontend: Frontend
    service: VirtualService

    def __str__(self) -> str:
        return f"{self.frontend}: set scheduler {self.service.scheduler}"


@dataclass(frozen=True, slots=True)
class RemoveService:
    """The listen and everything behind it."""

    frontend: Frontend

    def __str__(self) -> str:
        return f"{self.frontend}: remove service"


@dataclass(frozen=True, slots=True)
class AddServer:
    frontend: Frontend
    endpoint: Endpoint
    destination: Destination

    def __str__(self) -> str:
        return f"{self.frontend}: add {self.endpoint} weight {self.destination.weight}"


@dataclass(frozen=True, slots=True)
class SetServer:
    frontend: Frontend
    endpoint: Endpoint
    destination: Destination

    def __str__(self) -> str:
        return f"{self.frontend}: set {self.endpoint} weight {self.destination.weight}"


@dataclass(frozen=True, slots=True)
class RemoveServer:
    """The server counts as dead: its flows go to others, or end."""

    frontend: Frontend
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"{self.frontend}: remove {self.endpoint}"


Op = AddService | SetService | RemoveService | AddServer | SetServer | RemoveServer


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation that was not done, and why."""

    op: Op
    error: DataPlaneError


# --- numbers ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the server or service was added. in: from clients; out: to them.
    refused: packets that say that the server refuses (XDP; IPVS does not look)."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    refused: int = 0

    def __add__(self, other: "Counters") -> "Counters":
        return Counters(
            self.connections + other.connections,
            self.packets_in + other.packets_in,
            self.packets_out + other.packets_out,
            self.bytes_in + other.bytes_in,
            self.bytes_out + other.bytes_out,
            self.refused + other.refused,
        )

    def __sub__(self, other: "Counters") -> "Counters":
        return Counters(
            self.connections - other.connections,
            self.packets_in - other.packets_in,
            self.packets_out - other.packets_out,
            self.bytes_in - other.bytes_in,
            self.bytes_out - other.bytes_out,
            self.refused - other.refused,
        )


@dataclass(frozen=True, slots=True)
class Active:
    """Connections now open through one server.

    source says where the number comes from: "records" (the data path remembers each
    flow), "agent" or "estimate"; `None` where nobody can know. silent: seconds since the last
    packet of a flow that nobody remembers; None where there is none such.
    """

    established: int | None
    source: str
    embryonic: int = 0
    closing: int = 0
    silent: float | None = None

    def after(self, quiet: float) -> int | None:
        """Those in full swing, if who has sent nothing for `quiet` seconds is taken to be gone:
        until then, there is one at least."""
        if self.established is None or self.silent is None or self.silent > quiet:
            return self.established
        return max(1, self.established)


@dataclass(frozen=True)
class Stats:
    """A snapshot of a data path's counters.

    verdicts: packets by the verdict that each ended in; empty where the data path has
    none (IPVS). writes: what this process changed in the kernel since it started, by kind.
    past: what servers that are gone had counted, so that a service's totals never fall.
    unrest: the share of each ring's slots that are in transition, where any is.
    """

    servers: Mapping[tuple[Frontend, Endpoint], Counters] = field(default_factory=dict)
    active: Mapping[tuple[Frontend, Endpoint], Active] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)
    writes: Mapping[str, int] = field(default_factory=dict)
    past: Mapping[Frontend, Counters] = field(default_factory=dict)
    unrest: Mapping[Frontend, float] = field(default_factory=dict)

    def service(self, frontend: Frontend) -> Counters:
        present = (c for (f, _), c in self.servers.items() if f == frontend)
        return sum(present, self.past.get(frontend, Counters()))


# --- flows ------------------------------------------------------------------------------


class Kept(IntEnum):
    """What is remembered: a flow; the way back of one, because listens share its server; or
    where a client's next flow goes (persistence)."""

    FLOW = 0
    BACK = 1
    CLIENT = 2


@dataclass(frozen=True, slots=True)
class Flow:
    """One remembered flow, for a peer that is to go on with it.

    key: opaque to all but the data path that wrote it; two gateways that replicate share
    the hash key that it was made with. idle: seconds since its last packet.
    """

    frontend: Frontend
    key: bytes
    server: Endpoint
    confirmed: bool
    idle: float
    kept: Kept = Kept.FLOW

    @property
    def place(self) -> bytes:
        """What stays the same of the key for as long as the flow lives."""
        return self.key[:PLACE]


PLACE = 12  # bytes


@dataclass(frozen=True, slots=True)
class RingCopy:
    """A listen's ring, for a peer whose packets find the same slots.

    servers: those that it names. slots, old: for each slot 1 + the place of its server, and
    of its old one while it changes; 0: nobody. idle: seconds since an unrecorded packet last
    reached the old server, by slot that changes.
    """

    servers: tuple[Endpoint, ...] = ()
    slots: tuple[int, ...] = ()
    old: tuple[int, ...] = ()
    idle: Mapping[int, float] = field(default_factory=dict)

    def same(self, other: "RingCopy") -> bool:
        """Whether packets find the same servers in both."""
        return (self.servers, self.slots, self.old) == (other.servers, other.slots, other.old)


@dataclass(frozen=True, slots=True)
class FlowChanges:
    """What is remembered now that was not, and places (`Flow.place`) of what is not any more."""

    fresh: Sequence[Flow] = ()
    gone: Sequence[bytes] = ()


NEAR = 256  # a kernel keeps 512 neighbours before it clears up (neigh/default/gc_thresh2)


class Near(NamedTuple):
    """A machine on a network of the gateway's. at: which of its interfaces, `front` first."""

    at: int
    address: Address


class DataPlane(Protocol):
    """A packet path that can be programmed. Not thread-safe: one caller at a time."""

    name: str

    def observe(self) -> Table:
        """What the kernel holds of ours, read back from the kernel itself."""
        ...

    def apply(self, ops: Sequence[Op]) -> list[Refusal]:
        """Do `ops` in order; return those that could not be done."""
        ...

    def stats(self) -> Stats: ...

    def export_flows(self) -> Iterator[Flow]:
        """Remembered flows; none where the data path remembers none."""
        ...

    def import_flows(self, flows: Iterable[Flow]) -> int:
        """Take flows over from a peer; those that find no room or no server are left out.
        Returns how many were taken."""
        ...

    def fileno(self) -> int | None:
        """Readable when the kernel has news (a neighbour moved, a link went away)."""
        ...

    def catch_up(self) -> bool:
        """Take the kernel's news in. True: operations refused before deserve a new try."""
        ...

    def tend(self) -> None:
        """Housekeeping, wanted about every ten seconds: remembered flows age here."""
        ...

    def close(self) -> None:
        """Let go of handles. What was programmed stays."""
        ...


@dataclass(frozen=True, slots=True)
class Switch:
    """A sysctl that a data path depends on. found: None where this kernel has none such."""

    name: str
    wanted: int
    found: int | None
    reason: str


@runtime_checkable
class SharesKernel(Protocol):
    """A data path in a table that other tools write, too, and that hangs on the kernel's
    switches: IPVS."""

    def foreign(self) -> Table:
        """What was there at the last `observe()` and is not ours; never touched."""
        ...

    def shared(self, frontend: Frontend) -> bool:
        """Whether a service in `foreign()` is ours, and only its servers there are not."""
        ...

    def switches(self) -> Sequence[Switch]:
        """As they are now."""
        ...


@runtime_checkable
class Suspects(Protocol):
    """A data path that sees servers refuse."""

    def suspects(self) -> Set[tuple[Frontend, Endpoint]]:
        """Those that did since this was last called; to be asked after `catch_up()`."""
        ...


@runtime_checkable
class Remarks(Protocol):
    """A data path that may have to run otherwise than it was told to."""

    def remarks(self) -> Sequence[str]:
        """What is not as the configuration says, why, and what mends it."""
        ...


@runtime_checkable
class ShowsPackets(Protocol):
    """A data path of our own program, which can be asked how it runs: XDP."""

    def trace(self, packet: MadeUp) -> Trace:
        """What it does with a packet. Raises DataPlaneError."""
        ...

    def nics(self) -> Sequence[Nic]:
        """The interfaces that it runs on."""
        ...


@runtime_checkable
class Replicates(Protocol):
    """A data path whose choices another gateway can take over: rings and remembered flows
    mean the same wherever the hash key is the same."""

    def hash_key(self) -> bytes:
        """What flows are hashed with, and into how many places."""
        ...

    def take_hash_key(self, key: bytes) -> None:
        """Hash as the peer does from now on: what was remembered is not found any more.
        Raises DataPlaneError where there is another number of places."""
        ...

    def export_ring(self, frontend: Frontend) -> RingCopy:
        """Raises DataPlaneError."""
        ...

    def import_ring(self, frontend: Frontend, copy: RingCopy) -> int:
        """Have every slot as in `copy`; nothing settles there until `own_rings`. Returns how
        many were written. Raises DataPlaneError where a server is missing."""
        ...

    def own_rings(self, frontends: Iterable[Frontend]) -> None:
        """From now on these rings change by themselves again."""
        ...

    def hold_unknown(self, frontends: Iterable[Frontend], held: bool) -> None:
        """Whether TCP of flows that nobody remembers is dropped, where a scheduler remembers:
        a server would reset it."""
        ...

    def flow_changes(self, whole: bool = False) -> FlowChanges:
        """What changed since this was last asked; whole: all that is remembered."""
        ...

    def forget_flows(self, places: Iterable[bytes]) -> None: ...

    def near(self) -> Set[Near]:
        """Clients, and the routers before them, whose MAC is known; NEAR of them at most."""
        ...

    def meet(self, wanted: Iterable[Near]) -> None:
        """Learn the MACs of those that are not known here: a packet to one is dropped while
        its MAC is asked for."""
        ...


class VipAddresses(Protocol):
    """The VIPs that lbctl put on the front interface; it sees and touches only those it
    tagged itself."""

    def held(self) -> set[Address]: ...

    def add(self, address: Address) -> None:
        """As a /32 or /128. Raises DataPlaneError; an address that is there untagged is
        somebody else's, and an error."""
        ...

    def remove(self, address: Address) -> None: ...
