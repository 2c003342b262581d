"""What happened: typed events, one renderer, and a bounded memory of them.

An event is emitted once, where the change is known, and rendered here and nowhere else:
the log line, `lbctl monitor` and `lbctl get events` show the same words. Repetition is a
counter somewhere, not an event.
"""

from collections import deque
from collections.abc import Iterator
from typing import assert_never

import msgspec

from lbctl.health.judge import Health
from lbctl.said import printable
from lbctl.world import Admin


class Event(msgspec.Struct, frozen=True, tag_field="kind"):
    """The common shape. Times in events are wall clock, in seconds since the epoch."""


# --- servers and services ---------------------------------------------------------------


class HealthChanged(Event, frozen=True, tag="health"):
    server: str
    health: Health
    evidence: str


class AgentHeard(Event, frozen=True, tag="agent"):
    """An agent speaks, or it is silent now."""

    server: str
    speaks: bool
    evidence: str


class LoadChanged(Event, frozen=True, tag="load"):
    """A server left the schedule for its load, or came back."""

    server: str
    out: bool
    evidence: str


class HookStarted(Event, frozen=True, tag="hook_started"):
    server: str
    hook: str
    command: str


class HookEnded(Event, frozen=True, tag="hook_ended"):
    server: str
    hook: str
    passed: bool
    result: str


class HookHeld(Event, frozen=True, tag="hook_held"):
    """A hook would be due, and ran as often as it may in the last hour."""

    server: str
    hook: str
    per_hour: int


class Ordered(Event, frozen=True, tag="ordered"):
    """A person set an administrative state."""

    server: str
    admin: Admin
    by: str = ""
    reason: str = ""
    until: float | None = None


class OrderEnded(Event, frozen=True, tag="order_ended"):
    """An administrative state ended by itself, at its `until`."""

    server: str
    admin: Admin


class DrainEnded(Event, frozen=True, tag="drain_ended"):
    """The flows that a server still had were given up: its drain timeout passed."""

    server: str
    why: str


class ServiceChanged(Event, frozen=True, tag="service"):
    """state: serving, overloaded, without quorum, last resort, down."""

    service: str
    state: str
    because: str = ""


# --- configuration ----------------------------------------------------------------------


class ConfigTaken(Event, frozen=True, tag="config_taken"):
    generation: int
    origin: str
    by: str = ""


class ConfigRefused(Event, frozen=True, tag="config_refused"):
    origin: str
    faults: tuple[str, ...]
    running: int


class OverrideSet(Event, frozen=True, tag="override_set"):
    id: int
    change: str
    by: str = ""
    reason: str = ""


class OverrideDropped(Event, frozen=True, tag="override_dropped"):
    id: int
    change: str
    why: str


# --- the data path ----------------------------------------------------------------------


class Refused(Event, frozen=True, tag="refused"):
    """The data path did not take an operation; it is tried again."""

    error: str


class Taken(Event, frozen=True, tag="taken"):
    """An operation that had been refused was done at last."""

    operation: str
    tries: int


class Drift(Event, frozen=True, tag="drift"):
    """The kernel held something else than was applied; these operations mend it."""

    operations: tuple[str, ...]


class Trouble(Event, frozen=True, tag="trouble"):
    """The data path as a whole does not answer."""

    subject: str
    error: str


# --- virtual routers --------------------------------------------------------------------


class RouterRole(Event, frozen=True, tag="router_role"):
    """A virtual router's role here changed, or was heard for the first time."""

    router: str
    role: str
    because: str


class PeerMet(Event, frozen=True, tag="peer_met"):
    """The line to the other gateway is up."""

    peer: str
    node: str


class PeerCut(Event, frozen=True, tag="peer_cut"):
    """The line to the other gateway is down, or could not be had."""

    peer: str
    because: str


class RouterNotice(Event, frozen=True, tag="router_notice"):
    """What a virtual router tells beside its role; notice: `lbctl.vrrp.effects.Notice`."""

    router: str
    notice: str
    text: str


class Drilled(Event, frozen=True, tag="drilled"):
    """A hand-over was tried and measured; text: `lbctl.ha.drill.tell`."""

    router: str
    text: str
    unhurt: bool
    by: str = ""


# --- processes --------------------------------------------------------------------------


class DaemonStarted(Event, frozen=True, tag="daemon_started"):
    generation: int
    datapath: str
    why: str
    adopted: int
    operations: int


class DatapathRetired(Event, frozen=True, tag="datapath_retired"):
    """Another data path of ours that still ran was taken down."""

    what: str


class DaemonStopping(Event, frozen=True, tag="daemon_stopping"):
    signal: str


class WorkerStarted(Event, frozen=True, tag="worker_started"):
    pid: int
    jobs: int


class WorkerLost(Event, frozen=True, tag="worker_lost"):
    why: str
    retry_in: float


class StateSetAside(Event, frozen=True, tag="state_set_aside"):
    """The state file could not be read and was kept under another name."""

    path: str
    why: str


AnyEvent = (
    HealthChanged
    | AgentHeard
    | LoadChanged
    | HookStarted
    | HookEnded
    | HookHeld
    | Ordered
    | OrderEnded
    | DrainEnded
    | ServiceChanged
    | ConfigTaken
    | ConfigRefused
    | OverrideSet
    | OverrideDropped
    | Refused
    | Taken
    | Drift
    | Trouble
    | RouterRole
    | RouterNotice
    | Drilled
    | PeerMet
    | PeerCut
    | DaemonStarted
    | DatapathRetired
    | DaemonStopping
    | WorkerStarted
    | WorkerLost
    | StateSetAside
)


def render(event: AnyEvent) -> str:
    """The event in one line, its object first."""
    match event:
        case HealthChanged(server, health, evidence):
            return f"{server}: {health}" + (f" ({evidence})" if evidence else "")
        case AgentHeard(server, speaks, evidence):
            return f"{server}: its agent {'speaks' if speaks else 'is silent'} ({evidence})"
        case LoadChanged(server, out, evidence):
            return f"{server}: {'overloaded' if out else 'no longer overloaded'} ({evidence})"
        case HookStarted() | HookEnded() | HookHeld():
            return _render_hook(event)
        case Ordered(server, admin, by, reason, _):
            return f"{server}: {admin} ordered{_by(by)}" + (f": {reason}" if reason else "")
        case OrderEnded(server, admin):
            return f"{server}: {admin} ended (its time is over)"
        case DrainEnded(server, why):
            return f"{server}: given up ({why})"
        case ServiceChanged(service, state, because):
            return f"{service}: {state}" + (f" ({because})" if because else "")
        case ConfigTaken() | ConfigRefused() | OverrideSet() | OverrideDropped() | StateSetAside():
            return _render_files(event)
        case Refused(error):
            return f"refused: {error}"
        case Taken(operation, tries):
            return f"{operation}: done at try {tries}"
        case Drift(operations):
            return f"data path: held something else; mending: {_some(operations)}"
        case Trouble(subject, error):
            return f"{subject}: {error}"
        case RouterRole(router, role, because):
            return f"{router}: {role} ({because})"
        case PeerMet(peer, node):
            return f"peer {peer}: the line is up (it is {node})"
        case PeerCut(peer, because):
            return f"peer {peer}: no line: {because}"
        case RouterNotice(router, _, text):
            return f"{router}: {text}"
        case Drilled(router, text, _, by):
            return f"{router}: {text}{_by(by)}"
        case DatapathRetired(what):
            return f"data path: took down {what}"
        case DaemonStarted() | DaemonStopping() | WorkerStarted() | WorkerLost():
            return _render_process(event)
        case _:
            assert_never(event)


def _render_hook(event: HookStarted | HookEnded | HookHeld) -> str:
    match event:
        case HookStarted(server, hook, command):
            return f"{server}: {hook} runs {command}"
        case HookEnded(server, hook, passed, result):
            return f"{server}: {hook} {'done' if passed else 'failed'} ({result})"
        case HookHeld(server, hook, per_hour):
            return f"{server}: {hook} is not run again: {per_hour} times in an hour is all"
        case _:
            assert_never(event)


def _render_files(
    event: ConfigTaken | ConfigRefused | OverrideSet | OverrideDropped | StateSetAside,
) -> str:
    match event:
        case ConfigTaken(generation, origin, by):
            return f"generation {generation}: taken from {origin}{_by(by)}"
        case ConfigRefused(origin, faults, running):
            kept = f"generation {running} stays" if running else "nothing runs"
            return f"{origin}: not taken, {kept}: {_some(faults)}"
        case OverrideSet(number, change, by, reason):
            return f"override {number}: {change}{_by(by)}" + (f": {reason}" if reason else "")
        case OverrideDropped(number, change, why):
            return f"override {number}: {change}: dropped ({why})"
        case StateSetAside(path, why):
            return f"state: set aside as {path} ({why})"
        case _:
            assert_never(event)


def _render_process(event: DaemonStarted | DaemonStopping | WorkerStarted | WorkerLost) -> str:
    match event:
        case DaemonStarted(generation, datapath, why, adopted, operations):
            did = f"adopted {adopted} listens, {operations} operations"
            return f"daemon: generation {generation} on {datapath} ({why}); {did}"
        case DaemonStopping(signal):
            return f"daemon: stopping ({signal}); the data path stays up"
        case WorkerStarted(pid, jobs):
            return f"probe worker: started, pid {pid}, {jobs} checks"
        case WorkerLost(why, retry_in):
            return f"probe worker: {why}; starting another in {retry_in:.1f} s"
        case _:
            assert_never(event)


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _some(texts: tuple[str, ...]) -> str:
    rest = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return "; ".join(texts[:3]) + rest


class Record(msgspec.Struct, frozen=True):
    """An event with its place in the sequence. at: wall clock."""

    number: int
    at: float
    text: str
    event: AnyEvent


class History:
    """The last `size` events, numbered from 1 without gaps."""

    def __init__(self, size: int = 1000) -> None:
        self._records: deque[Record] = deque(maxlen=size)
        self.last = 0

    def add(self, at: float, event: AnyEvent) -> Record:
        self.last += 1
        # Whoever is quoted in it, it is one line, and no terminal obeys it.
        record = Record(self.last, at, printable(render(event)), event)
        self._records.append(record)
        return record

    def since(self, number: int) -> Iterator[Record]:
        """Those after `number`, oldest first, as far as they are still kept."""
        return (record for record in list(self._records) if record.number > number)
