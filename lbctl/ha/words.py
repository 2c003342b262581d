"""The messages between two gateways, and how they lie on a stream: 4 bytes of length in
network order, then MessagePack.

    both          Hello first, then Summary every second
    author   ->   Begin, Batch
    replica  ->   Ack, Again
    either   ->   Propose, Switch, Seal, Undo and the Vote on each

Each gateway is author of what it is Active for and holds a replica of the rest, so both
directions carry all of them.
"""

from collections.abc import Iterator

import msgspec

VERSION = 3
LIMIT = 1 << 20  # bytes; a longer message is garbage


class Fault(Exception):
    """The peer said what cannot be right. Nothing of it was taken."""


class Hello(msgspec.Struct, frozen=True, tag="hello", array_like=True):
    """The first word. epoch, seq, digest: what is held of the *peer's* state, so that it can
    go on from there; epoch 0: nothing whole."""

    version: int
    node: str
    epoch: int = 0
    seq: int = 0
    digest: int = 0


class Summary(msgspec.Struct, frozen=True, tag="summary", array_like=True):
    """A sign of life. clock: the sender's monotonic seconds, which it stamps with. file,
    table: digests of its configuration and of what its data path holds."""

    clock: float
    file: str = ""
    table: str = ""


class Begin(msgspec.Struct, frozen=True, tag="begin", array_like=True):
    """A full copy starts: `Batch` 1 follows."""

    epoch: int


class Batch(msgspec.Struct, frozen=True, tag="batch", array_like=True):
    """Changes, in order. digest: of all that was sent, after them. whole: the full copy is
    complete with this one, or was before."""

    epoch: int
    seq: int
    puts: tuple[tuple[bytes, bytes], ...]
    gone: tuple[bytes, ...]
    digest: int
    whole: bool


class Ack(msgspec.Struct, frozen=True, tag="ack", array_like=True):
    """All up to `seq` is held."""

    epoch: int
    seq: int


class Again(msgspec.Struct, frozen=True, tag="again", array_like=True):
    """A full copy, please."""

    reason: str


class Propose(msgspec.Struct, frozen=True, tag="propose", array_like=True):
    """A file for both gateways (lbctl.daemon.paircommit). text: compressed."""

    id: str
    text: bytes
    origin: str
    by: str


class Switch(msgspec.Struct, frozen=True, tag="switch", array_like=True):
    """Run what was proposed."""

    id: str


class Seal(msgspec.Struct, frozen=True, tag="seal", array_like=True):
    """Both run it: keep it."""

    id: str


class Undo(msgspec.Struct, frozen=True, tag="undo", array_like=True):
    """Run again what ran before."""

    id: str


class Vote(msgspec.Struct, frozen=True, tag="vote", array_like=True):
    """A step was done; refused: why it was not."""

    id: str
    stage: str
    refused: str = ""


Word = Hello | Summary | Begin | Batch | Ack | Again | Propose | Switch | Seal | Undo | Vote
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


def frame(word: Word) -> bytes:
    body = _ENCODER.encode(word)
    return len(body).to_bytes(4, "big") + body


class Unframer:
    """Bytes of a stream in, words out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Word]:
        """The words that `data` completes. Raises Fault; the stream is then lost."""
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= 4:
                end = at + 4 + int.from_bytes(self._buffer[at : at + 4], "big")
                if end - at > LIMIT:
                    raise Fault(f"a message of {end - at} bytes (at most {LIMIT})")
                if len(self._buffer) < end:
                    return
                body, at = bytes(self._buffer[at + 4 : end]), end
                yield _decode(body)
        finally:
            del self._buffer[:at]


def _decode(body: bytes) -> Word:
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise Fault(f"garbage: {error}") from None
