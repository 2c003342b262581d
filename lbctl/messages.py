"""The messages between lbctl's processes: what each says, and how it is put in bytes.

Every message is one JSON object with a `kind`. On a stream it is framed by its length
(4 bytes, network order); on a SEQPACKET socket one packet is one message.

    daemon -> probe worker    Files, Assign, ProbeNow
    probe worker -> daemon    Verdict, Reading, Pulse
    daemon, cli -> vrrp       Routers, Quorum, HandOver, StandBy, Resume, Synced, Ask
    vrrp -> daemon, cli       RoleChange, Event, Standing, Done
    daemon -> loader          (argv and a JSON job on stdin; see dataplane.xdp.loader)

A worker that restarts gets a full `Assign`; a daemon that restarts reads the present roles
first: nothing depends on having heard an earlier message.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from lbctl.health.judge import Health
from lbctl.health.report import Report
from lbctl.model import AnyProbe, Timing

LIMIT = 64 << 20  # a longer frame is garbage


class Message(msgspec.Struct, frozen=True, tag_field="kind"):
    """The common shape. Fields that the receiver does not know are ignored: the two ends of
    a line may be of different age, and the VRRP process outlives many a daemon. What a field
    means never changes; a new one has a default that says what was so before."""


# --- daemon -> probe worker -------------------------------------------------------------


class Job(msgspec.Struct, frozen=True):
    """One check to run until it is cancelled. health: the verdict it starts from.
    endpoint: `ADDRESS:PORT`, as text like every address in a message. mark: of its packets,
    where routes go by it (0: none)."""

    id: int
    probe: AnyProbe
    endpoint: str
    timing: Timing
    health: Health = Health.UNKNOWN
    mark: int = 0


class Assign(Message, frozen=True, tag="assign"):
    """Jobs to start and ids to cancel. `whole`: cancel all that is not named here."""

    start: tuple[Job, ...] = ()
    cancel: tuple[int, ...] = ()
    whole: bool = False


class File(msgspec.Struct, frozen=True):
    """A file that probes need. error: why it could not be read."""

    name: str
    data: bytes = b""
    error: str = ""


class Files(Message, frozen=True, tag="files"):
    """The contents of files that jobs name: before those jobs, and when they change."""

    files: tuple[File, ...]


class ProbeNow(Message, frozen=True, tag="probe_now"):
    """Run one job at once and report the result, whatever it changes."""

    id: int


# --- probe worker -> daemon -------------------------------------------------------------


class Verdict(Message, frozen=True, tag="verdict"):
    """A job's health changed, was asked for, or can for now not be found out (then it is
    what it was). evidence: `3 of 3 probes: connection refused`. took: seconds of the last
    probe. steps: of a probe that was asked for, with the seconds since its start."""

    id: int
    health: Health
    evidence: str
    took: float
    asked: bool = False
    steps: tuple[tuple[float, str], ...] = ()


class Reading(Message, frozen=True, tag="reading"):
    """What the agent that job `id` asks said, where that is not what it said before."""

    id: int
    report: Report


class Pulse(Message, frozen=True, tag="pulse"):
    """The worker is well: jobs it holds, probes since the last pulse, the p99 of how late
    they started (seconds), and how many could not be made for a reason on our side."""

    jobs: int
    probes: int
    late_p99: float
    unable: int = 0


# --- daemon <-> vrrp --------------------------------------------------------------------


class Role(StrEnum):
    """RFC 9568's states, and `fault` where a tracker forbids to take part."""

    INITIALIZE = "initialize"
    BACKUP = "backup"
    ACTIVE = "active"
    FAULT = "fault"


class TrackerSettings(msgspec.Struct, frozen=True):
    """`lbctl.model.Tracker`."""

    type: str
    subject: str
    weight: int | None = None
    interval: float = 2.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 2
    user: str = "nobody"
    needs: int = 1


class NotifySettings(msgspec.Struct, frozen=True):
    """`lbctl.model.Notify`."""

    command: str
    keepalived: bool = False
    user: str = "nobody"
    timeout: float = 30.0


class RouterSettings(msgspec.Struct, frozen=True):
    """One virtual router: `lbctl.model.Router`, whose words these are."""

    name: str
    interface: str
    vrid: int
    priority: int
    addresses: tuple[str, ...]
    interval: float = 1.0
    version: int = 3
    mac: str = "virtual"
    peers: tuple[str, ...] = ()
    checksum: str = "auto"
    accept: bool = True
    preempt: str = "always"
    preempt_delay: float = 0.0
    hold: float = 0.0
    group: str = ""
    refresh: float = 60.0
    trackers: tuple[TrackerSettings, ...] = ()
    notify: NotifySettings | None = None


class Routers(Message, frozen=True, tag="routers"):
    """All virtual routers that should run; those not named end gracefully."""

    routers: tuple[RouterSettings, ...]


class Quorum(Message, frozen=True, tag="quorum"):
    """Whether a service that virtual routers track has `needs` servers up."""

    service: str
    holds: bool
    needs: int = 1


class HandOver(Message, frozen=True, tag="hand_over"):
    """Give the address to the peer, gracefully, and leave it there while the peer lives."""

    router: str
    reason: str = ""


class StandBy(Message, frozen=True, tag="stand_by"):
    """Hand over and take no part any more, until `Resume`."""

    router: str
    reason: str = ""


class Resume(Message, frozen=True, tag="resume"):
    """Lift what `HandOver` and `StandBy` ordered."""

    router: str


class Synced(Message, frozen=True, tag="synced"):
    """Whether this gateway holds a full copy of the flows behind a virtual router's
    addresses (`preempt: when-synced`)."""

    router: str
    holds: bool


class Ask(Message, frozen=True, tag="ask"):
    """Wants a `Standing` for every virtual router, then `Done`."""


class RoleChange(Message, frozen=True, tag="role_change"):
    """A virtual router's state, on connecting and at each change. at: monotonic seconds."""

    router: str
    role: Role
    reason: str
    at: float


class Standing(Message, frozen=True, tag="standing"):
    """Where a virtual router stands, and why in words. counts: RFC 6527's and our own.
    leaving: active, and handing over."""

    router: str
    role: Role
    priority: int
    peer: str
    why: tuple[str, ...]
    counts: dict[str, int]
    settings: RouterSettings
    leaving: bool = False


class Event(Message, frozen=True, tag="event"):
    """Something an operator should know of a virtual router, at `at` (monotonic)."""

    router: str
    notice: str
    text: str
    at: float


class Done(Message, frozen=True, tag="done"):
    """The answer to each message that a client sends; refused: why it was not done."""

    refused: str = ""


AnyMessage = (
    Assign
    | Files
    | ProbeNow
    | Verdict
    | Reading
    | Pulse
    | Routers
    | Quorum
    | HandOver
    | StandBy
    | Resume
    | Synced
    | Ask
    | RoleChange
    | Standing
    | Event
    | Done
)


class Garbage(ValueError):
    """Bytes that are no message."""


def encode(message: AnyMessage) -> bytes:
    return _ENCODER.encode(message)


def decode(data: bytes | memoryview) -> AnyMessage:
    """The message in `data`. Raises Garbage, and nothing else."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Garbage(str(error)) from None


def frame(message: AnyMessage) -> bytes:
    body = encode(message)
    return len(body).to_bytes(4, "big") + body


class Unframer:
    """Bytes of a stream in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[AnyMessage]:
        """The messages that `data` completes. Raises Garbage; the stream is then lost."""
        self._buffer += data
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > LIMIT:
                raise Garbage(f"a message of {length} bytes")
            if len(self._buffer) < 4 + length:
                return
            body = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield decode(body)


_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)
