"""The shapes of the API's answers. Times are wall clock, in seconds since the epoch, where
nothing else is said."""

from collections.abc import Mapping

import msgspec

from lbctl.desired import Rule
from lbctl.world import Admin


class ServerView(msgspec.Struct, frozen=True):
    """state: one word for a table; refused: the data path does not take it. weight: null: not
    in the data path. configured: the weight that the file and the overrides give.
    admin_until: when `admin` ends by itself; null: when somebody lifts it. connections: open
    now; null: nobody knows. problems: what the data path refused."""

    name: str
    address: str
    state: str
    admin: Admin
    health: str
    weight: int | None
    configured: int
    rule: Rule
    because: str
    evidence: str
    connections: int | None
    connections_from: str
    since: float | None
    problems: tuple[str, ...]
    admin_until: float | None = None


class ServiceView(msgspec.Struct, frozen=True):
    """state: serving, overloaded, without quorum, last resort, down. scheduled: servers that
    take new flows."""

    name: str
    listens: tuple[str, ...]
    scheduler: str
    mode: str
    check: str
    state: str
    because: str
    servers: int
    scheduled: int
    connections: int | None
    problems: tuple[str, ...]


class AgentView(msgspec.Struct, frozen=True):
    """What a server's agent says. state: speaks, silent, unheard. cpu, memory, disk: shares
    in use; null: it does not measure that. words: what it wants of its server. weight: as
    in ServerView. eighths: of its weight that load leaves it."""

    server: str
    address: str
    speaks: str
    state: str
    cpu: float | None
    memory: float | None
    disk: float | None
    words: str
    connections: int | None
    out: bool
    eighths: int
    weight: int | None
    evidence: str


class HookView(msgspec.Struct, frozen=True):
    """A run of a hook that ended. output: the last of what it said."""

    server: str
    hook: str
    at: float
    took: float
    passed: bool
    result: str
    output: str


class ProbeView(msgspec.Struct, frozen=True):
    """One probe that was asked for. steps: [seconds since its start, what was waited for]."""

    asked: str
    target: str
    health: str
    evidence: str
    took: float
    steps: tuple[tuple[float, str], ...]


class OverrideView(msgspec.Struct, frozen=True):
    """stale: what it speaks of is gone; it does nothing until that is back."""

    id: int
    change: str
    path: tuple[str, ...]
    value: object
    by: str
    reason: str
    since: float
    until: float | None
    stale: bool


class Sums(msgspec.Struct, frozen=True):
    """Totals since the object came. established: open now; null: nobody knows. refused:
    packets that say that a server refuses; each has its check run at once (XDP)."""

    connections: int
    packets_in: int
    packets_out: int
    bytes_in: int
    bytes_out: int
    refused: int
    established: int | None
    embryonic: int
    closing: int
    source: str


class StatsView(msgspec.Struct, frozen=True):
    """at: seconds of a clock that never steps: for rates between two answers. age: how old
    the numbers are."""

    at: float
    age: float
    services: Mapping[str, Sums]
    servers: Mapping[str, Sums]
    verdicts: Mapping[str, int]
    writes: Mapping[str, int]


class Reason(msgspec.Struct, frozen=True):
    """One step of the way to a decision. decided: it had the last word."""

    step: str
    says: str
    decided: bool


class TransitionView(msgspec.Struct, frozen=True):
    at: float
    weight: int | None
    rule: Rule
    because: str


class Why(msgspec.Struct, frozen=True):
    server: ServerView
    reasons: tuple[Reason, ...]
    overrides: tuple[OverrideView, ...]
    transitions: tuple[TransitionView, ...]


class ServiceDescription(msgspec.Struct, frozen=True):
    service: ServiceView
    servers: tuple[ServerView, ...]
    drain_timeout: float
    drain_quiet: float
    last_resort: str
    vip: str
    persistence: str


class SwitchView(msgspec.Struct, frozen=True):
    """A kernel switch that lbctl keeps set. found: null where this kernel has none such."""

    name: str
    wanted: int
    found: int | None
    reason: str


class DatapathView(msgspec.Struct, frozen=True):
    """trouble: why it does not answer; empty where it does. switches and foreign (listens of
    other tools in the same table, and their servers behind ours): of IPVS only, read when the
    status is asked for, like remarks: what is not as the configuration says."""

    name: str
    why: str
    trouble: str
    switches: tuple[SwitchView, ...] = ()
    foreign: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class WorkerView(msgspec.Struct, frozen=True):
    """A probe worker, or all of them together, with the first one's pid. pid null: none runs
    just now. late_p99: seconds that checks started late. through: checks through servers."""

    pid: int | None
    checks: int
    probes: int
    late_p99: float | None
    through: bool = False


class StuckView(msgspec.Struct, frozen=True):
    """An operation that the data path refused, and when it is tried again."""

    operation: str
    error: str
    tries: int
    since: float
    retry_in: float


class StatusView(msgspec.Struct, frozen=True):
    """operations: done since this process started. writes: what they wrote in the kernel,
    by kind; all zero after a restart that changed nothing."""

    version: str
    pid: int
    uptime: float
    datapath: DatapathView
    file: str
    generation: int
    origin: str
    services: int
    servers: int
    overrides: int
    stale: tuple[int, ...]
    warnings: tuple[str, ...]
    refused: tuple[StuckView, ...]
    state: str
    passes: int
    operations: int
    writes: Mapping[str, int]
    worker: WorkerView
    workers: tuple[WorkerView, ...]


class OwnerView(msgspec.Struct, frozen=True):
    """A virtual router. role: here; "" where the VRRP process was not heard. owner: `here`,
    `there`, or "" where neither gateway says so. listens: `SERVICE ADDRESS:PORT/PROTO`; none:
    it is the servers' way back."""

    router: str
    group: str
    addresses: tuple[str, ...]
    role: str
    owner: str
    listens: tuple[str, ...]


class ReplicationView(msgspec.Struct, frozen=True):
    """The line to the other gateway of a pair, and what each holds of the other.

    synced: all that the peer remembers is in place here; copied: it holds a copy of all that
    is ours. lag: seconds for which the peer has not had all there is; lag_p99: of the last
    batches, until they were acknowledged. behind: keys that it may not have as they are. entries,
    flows: ours; held, held_flows: the peer's. own, theirs: the listens of each author.
    differ: servers whose checks see otherwise there. resyncs: full copies that the peer asked
    for; faults: what it got wrong, by kind; lost: lines that
    were; cuts: those of late, by reason, the last one last.
    """

    configured: bool
    peer: str
    node: str
    connected: bool
    synced: bool
    copied: bool
    lag: float | None
    lag_p99: float | None
    behind: int
    entries: int
    held: int
    flows: int
    held_flows: int
    own: tuple[str, ...]
    theirs: tuple[str, ...]
    owners: tuple[OwnerView, ...]
    same_file: bool | None
    same_table: bool | None
    differ: tuple[str, ...]
    lines: int
    lost: int
    copies: int
    resyncs: int
    faults: Mapping[str, int]
    cuts: Mapping[str, int]
    trouble: str


class Snapshot(msgspec.Struct, frozen=True):
    """Everything that metrics are made of. hooks: runs by server, hook and `done` or
    `failed`."""

    status: StatusView
    services: tuple[ServiceView, ...]
    servers: tuple[ServerView, ...]
    stats: StatsView
    hooks: Mapping[tuple[str, str, str], int] = {}
    replication: ReplicationView | None = None


class StepView(msgspec.Struct, frozen=True):
    """Something that decided about a packet."""

    at: str
    found: str


class RewriteView(msgspec.Struct, frozen=True):
    """A header field as it came in and as it went out."""

    name: str
    before: str
    after: str


class TraceView(msgspec.Struct, frozen=True):
    """What the data path did with a made-up packet. verdict: as in the statistics. action:
    of XDP. service, server: whose packet it is; empty: nobody's."""

    packet: str
    interface: str
    steps: tuple[StepView, ...]
    verdict: str
    action: str
    out: str
    service: str
    server: str
    address: str
    headers: tuple[RewriteView, ...]
    wrong_checksums: tuple[str, ...]


class FindingView(msgspec.Struct, frozen=True):
    """in_the_way: packets are lost or handled wrongly; false: it only costs time."""

    in_the_way: bool
    says: str
    mend: str


class NicView(msgspec.Struct, frozen=True):
    """An interface of the gateway. mode: `native`, `generic` or `none`; null: it has no such
    thing, or does not say."""

    name: str
    driver: str
    mode: str
    mtu: int
    lro: bool | None
    gro: bool | None
    vlan_stripping: bool | None
    queues: int | None
    most_queues: int | None
    findings: tuple[FindingView, ...]
