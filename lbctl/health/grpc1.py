"""One call of grpc.health.v1.Health/Check, without a socket: frames in, a verdict out.

HTTP/2 as far as one call needs it (RFC 9113): the preface, our settings, one stream. What
says whether the server is well is in the body (a DATA frame), so its headers, which would
need HPACK's tables to be read (RFC 7541), are counted and left alone.

    message HealthCheckRequest  { string service = 1; }
    message HealthCheckResponse { enum ServingStatus { UNKNOWN 0; SERVING 1; NOT_SERVING 2;
                                  SERVICE_UNKNOWN 3; }  ServingStatus status = 1; }
"""

import struct
from enum import IntEnum

from lbctl.health.result import Failed

PATH = "/grpc.health.v1.Health/Check"
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
LIMIT = 64 << 10  # bytes that are read before a verdict
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 1, 1, 4, 8
_STREAM = 1
_HEAD = 9  # bytes of a frame's header (4.1)


class Kind(IntEnum):
    """Frame types (RFC 9113, 6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7


def call(service: str, authority: str, scheme: str) -> bytes:
    """The whole request. Raises ValueError for a name that is too long."""
    name = service.encode()
    if len(name) > 127 or len(authority) > 126:
        raise ValueError(f"service '{service}' is too long for a check")
    message = b"\x0a" + bytes([len(name)]) + name if name else b""
    fields = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", PATH),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    headers = b"".join(_literal(key, value) for key, value in fields)
    body = b"\0" + struct.pack("!I", len(message)) + message  # not compressed, its length
    return (
        _PREFACE
        + _frame(Kind.SETTINGS, 0, 0, b"")
        + _frame(Kind.HEADERS, _END_HEADERS, _STREAM, headers)
        + _frame(Kind.DATA, _END_STREAM, _STREAM, body)
    )


def _literal(name: str, value: str) -> bytes:
    """RFC 7541, 6.2.2: a literal without indexing, a new name, no Huffman coding."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream)
    return head + payload


class Reply:
    """Feed it what comes until it is `done`; send what `to_send` holds after each."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._body = bytearray()
        self._taken = 0
        self.done = False
        self.to_send = b""

    def receive(self, data: bytes) -> None:
        """Take what came; b"" is the end of the stream. Raises Failed."""
        if not data:
            raise Failed("closed without an answer of the health service")
        self._taken += len(data)
        self._data += data
        if self._taken > LIMIT:
            raise Failed(f"more than {LIMIT >> 10} KiB and no answer")
        if self._data.startswith(b"HTTP/1"):
            raise Failed("speaks HTTP/1, not HTTP/2")
        self.to_send = b""
        while not self.done and len(self._data) >= _HEAD:
            length = int.from_bytes(self._data[:3], "big")
            if length > LIMIT:
                raise Failed("no HTTP/2: a frame of an impossible length")
            if len(self._data) < _HEAD + length:
                return
            kind, flags = self._data[3], self._data[4]
            stream = int.from_bytes(self._data[5:9], "big") & 0x7FFFFFFF
            payload = bytes(self._data[_HEAD : _HEAD + length])
            del self._data[: _HEAD + length]
            self._take(kind, flags, stream, payload)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case Kind.SETTINGS if not flags & _ACK:  # SETTINGS are acknowledged (6.5.3)
                self.to_send += _frame(Kind.SETTINGS, _ACK, 0, b"")
            case Kind.PING if not flags & _ACK:  # and so are PINGs (6.7)
                self.to_send += _frame(Kind.PING, _ACK, 0, payload)
            case Kind.GOAWAY:
                code = int.from_bytes(payload[4:8], "big")
                raise Failed(f"the server goes away (HTTP/2 error {code})")
            case Kind.RST_STREAM if stream == _STREAM:
                raise Failed(f"refused (HTTP/2 error {int.from_bytes(payload[:4], 'big')})")
            case Kind.DATA if stream == _STREAM:
                pad = 1 + payload[0] if flags & _PADDED and payload else 0
                self._body += payload[1 : len(payload) - pad + 1] if pad else payload
                self._judge()
        ended = kind in (Kind.DATA, Kind.HEADERS) and stream == _STREAM and flags & _END_STREAM
        if ended and not self.done:
            raise Failed("no answer of the health service: is it registered?")

    def _judge(self) -> None:
        if len(self._body) < 5 or len(self._body) < 5 + int.from_bytes(self._body[1:5], "big"):
            return
        message = bytes(self._body[5 : 5 + int.from_bytes(self._body[1:5], "big")])
        # Field 1, a varint; an enum's zero is not sent (proto3).
        status = message[1] if len(message) >= 2 and message[0] == 0x08 else 0
        name = STATUSES[status] if status < len(STATUSES) else f"status {status}"
        if name != "SERVING":
            raise Failed(f"answered {name}")
        self.done = True
