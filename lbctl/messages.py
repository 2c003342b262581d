"""The messages between lbctl's processes: what each says, and how it is put in bytes.

Every message is one JSON object with a `kind`. On a stream it is framed by its length
(4 bytes, network order); on a SEQPACKET socket one packet is one message.

    daemon -> probe worker    Assign, ProbeNow
    probe worker -> daemon    Verdict, Pulse
    daemon -> vrrp            Routers, Quorum, HandOver
    vrrp -> daemon            RoleChange
    daemon -> loader          (argv and a JSON job on stdin; see dataplane.xdp.loader)

A worker that restarts gets a full `Assign`; a daemon that restarts reads the present roles
first: nothing depends on having heard an earlier message.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from lbctl.health.judge import Health
from lbctl.model import AnyProbe, Timing

LIMIT = 64 << 20  # a longer frame is garbage


class Message(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """The common shape."""


# --- daemon -> probe worker -------------------------------------------------------------


class Job(msgspec.Struct, frozen=True):
    """One check to run until it is cancelled. health: the verdict it starts from.
    endpoint: `ADDRESS:PORT`, as text like every address in a message."""

    id: int
    probe: AnyProbe
    endpoint: str
    timing: Timing
    health: Health = Health.UNKNOWN


class Assign(Message, frozen=True, tag="assign"):
    """Jobs to start and ids to cancel. `whole`: cancel all that is not named here."""

    start: tuple[Job, ...] = ()
    cancel: tuple[int, ...] = ()
    whole: bool = False


class ProbeNow(Message, frozen=True, tag="probe_now"):
    """Run one job at once and report the result, whatever it changes."""

    id: int


# --- probe worker -> daemon -------------------------------------------------------------


class Verdict(Message, frozen=True, tag="verdict"):
    """A job's health changed, was asked for, or can for now not be found out (then it is
    what it was). evidence: `3 of 3 probes: connection refused`. took: seconds of the last
    probe."""

    id: int
    health: Health
    evidence: str
    took: float
    asked: bool = False


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


class RouterSettings(msgspec.Struct, frozen=True):
    """One virtual router. interval: seconds."""

    name: str
    interface: str
    vrid: int
    priority: int
    addresses: tuple[str, ...]
    interval: float = 1.0
    version: int = 3


class Routers(Message, frozen=True, tag="routers"):
    """All virtual routers that should run; those not named end gracefully."""

    routers: tuple[RouterSettings, ...]


class Quorum(Message, frozen=True, tag="quorum"):
    """Whether a service that virtual routers track has enough servers."""

    service: str
    holds: bool


class HandOver(Message, frozen=True, tag="hand_over"):
    """Give the address to the peer, gracefully."""

    router: str
    reason: str = ""


class RoleChange(Message, frozen=True, tag="role_change"):
    """A virtual router's state, on connecting and at each change. at: monotonic seconds."""

    router: str
    role: Role
    reason: str
    at: float


AnyMessage = Assign | ProbeNow | Verdict | Pulse | Routers | Quorum | HandOver | RoleChange


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
