"""What passes between the VRRP process and its helper (`watch`): one JSON object a packet.

Everything that may be slow is the helper's: scripts, routes, notify commands, nft, files
on a disk that others keep busy, and log lines to a pipe that nobody may be reading.
"""

import msgspec

from lbctl.messages import TrackerSettings


class Chore(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """The common shape."""


class Log(Chore, frozen=True, tag="log"):
    text: str


class Watch(Chore, frozen=True, tag="watch"):
    """Scripts and routes to look at: these and no others."""

    trackers: tuple[TrackerSettings, ...]


class Call(Chore, frozen=True, tag="call"):
    """A notify command; one at a time, in this order."""

    argv: tuple[str, ...]
    user: str
    timeout: float


class Rules(Chore, frozen=True, tag="rules"):
    """A text for `nft -f -`."""

    text: str


class Save(Chore, frozen=True, tag="save"):
    """What the file `path` shall hold: a disk may be slow as well."""

    path: str
    text: str


class PutUp(Chore, frozen=True, tag="put_up"):
    """Load the fence, and put it on these interfaces."""

    pins: str
    interfaces: tuple[str, ...]


class TakeDown(Chore, frozen=True, tag="take_down"):
    """Take the fence off these interfaces."""

    interfaces: tuple[str, ...]


class Fenced(Chore, frozen=True, tag="fenced"):
    """The fence is on these interfaces; or why it is not."""

    interfaces: tuple[str, ...]
    trouble: str = ""


class Found(Chore, frozen=True, tag="found"):
    """What a tracker came to."""

    tracker: str
    subject: str
    holds: bool
    evidence: str


class Failed(Chore, frozen=True, tag="failed"):
    """A chore that was not done, and why."""

    text: str


AnyChore = Log | Watch | Call | Rules | Save | PutUp | TakeDown | Fenced | Found | Failed
encode = msgspec.json.Encoder().encode
_DECODER: msgspec.json.Decoder[AnyChore] = msgspec.json.Decoder(AnyChore)
LIMIT = 1 << 17  # bytes of one packet


def decode(data: bytes) -> AnyChore:
    """Raises msgspec.MsgspecError."""
    return _DECODER.decode(data)
