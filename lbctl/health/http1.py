"""One HTTP/1.1 exchange of a check, without a socket: the request as bytes, and an answer
that is fed the bytes that come and says when it has seen enough.

Strict where a lie would pass for health (the status line, the length of a body that was
cut short), calm about the rest (bare line feeds, unknown fields, a missing reason). A
chunked body is matched as it came.
"""

import re
from dataclasses import dataclass

from lbctl import __version__
from lbctl.health.matching import SEARCHED, found
from lbctl.health.result import Failed
from lbctl.model import Endpoint, HttpProbe

LIMIT = 64 << 10  # bytes of an answer that are read; the rest of a body does not count

# RFC 9112, 4: HTTP-version SP status-code SP [ reason-phrase ]. Common servers leave the
# second space out with the reason.
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_OPENING = b"HTTP/1."
# RFC 9112, 2.2: a recipient may take a single line feed for the end of a line.
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r?\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\nconnection:[^\n]*\bclose\b", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2


def request(probe: HttpProbe, endpoint: Endpoint) -> bytes:
    """The request of `probe`. Raises ValueError for what cannot be sent as it is written,
    such as a path with a space or a header with a line feed."""
    if not _TOKEN.fullmatch(probe.method):
        raise ValueError(f"method '{probe.method}' is not an HTTP method")
    if not re.fullmatch(r"[\x21-\x7e]+", probe.path):
        raise ValueError(f"path '{probe.path}' has a space or a character to be %-encoded")
    fields = {
        "Host": probe.host or _host(endpoint, 80 if probe.tls is None else 443),
        "User-Agent": f"lbctl/{__version__}",
        "Accept": "*/*",
        "Connection": "keep-alive" if probe.keepalive else "close",
    }
    written = {name.lower() for name, _ in probe.headers}
    ours = [(name, value) for name, value in fields.items() if name.lower() not in written]
    lines = [f"{probe.method} {probe.path} HTTP/{probe.version}"]
    for name, value in (*ours, *probe.headers):
        if not _TOKEN.fullmatch(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ValueError(f"header '{name}: {value}' cannot be sent")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def _host(endpoint: Endpoint, default: int) -> str:
    """RFC 9110, 7.2: the port is named unless it is the scheme's own."""
    text = str(endpoint)
    return text.removesuffix(f":{default}") if endpoint.port == default else text


class Unanswered(Failed):
    """The connection ended before a byte of an answer came."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What makes an answer a good one. whole: its body is read to the end, wanted or not,
    so that the connection can be used again."""

    statuses: tuple[tuple[int, int], ...]
    body: re.Pattern[str] | None
    bodiless: bool  # the answer to HEAD has a length and no body (RFC 9112, 6.3)
    whole: bool = False

    @classmethod
    def of(cls, probe: HttpProbe) -> "Expectation":
        """Raises ValueError where `probe.body` is no regular expression."""
        try:
            body = re.compile(probe.body) if probe.body else None
        except re.error as error:
            raise ValueError(f"body '{probe.body}' is no regular expression: {error}") from None
        return cls(probe.statuses, body, probe.method == "HEAD", probe.keepalive)


class Answer:
    """Feed it what comes until it is `done`; `detail` is then what to say of it."""

    def __init__(self, expected: Expectation) -> None:
        self._expected = expected
        self._data = bytearray()
        self._head_at = 0  # where the final answer begins, past interim ones
        self._body_at: int | None = None  # where the body begins, once the head is whole
        self._length: int | None = None  # of the body, as the server announced it
        self._stays_open = False
        self.done = False
        self.detail = ""
        self.body = b""

    @property
    def complete(self) -> bool:
        """Whether all of the body was read, and its end was announced."""
        return self._length == len(self.body)

    @property
    def reusable(self) -> bool:
        """Whether the connection is where the next request can go."""
        return self._stays_open and self.complete

    @property
    def step(self) -> str:
        """What is being waited for."""
        return "reading the answer" if self._data else "waiting for an answer"

    def receive(self, data: bytes) -> None:
        """Take what came; b"" is the end of the stream. Raises Failed."""
        self._data += data
        ended = not data
        if self._body_at is None:
            self._read_head(ended)
        if self._body_at is not None and not self.done:
            self._read_body(self._body_at, ended)

    def _read_head(self, ended: bool) -> None:
        start = self._head_at
        while (end := _END_OF_HEAD.search(self._data, start)) is not None:
            line = _STATUS_LINE.match(self._data, start)
            if line is None:
                raise Failed(f"not an HTTP answer: {bytes(self._data[:24])!r}")
            status = int(line[1])
            if status >= 200:
                self._judge_head(status, bytes(self._data[start : end.end()]))
                self._body_at = end.end()
                return
            start = self._head_at = end.end()  # interim answers come first (RFC 9110, 15.2)
        if not self._data.startswith(_OPENING[: len(self._data) - start], start):
            raise Failed(f"not an HTTP answer: {bytes(self._data[start : start + 24])!r}")
        if ended:
            if not self._data:
                raise Unanswered("closed without an answer")
            raise Failed("answer cut short")
        if len(self._data) >= LIMIT:
            raise Failed(f"headers longer than {LIMIT >> 10} KiB")

    def _judge_head(self, status: int, head: bytes) -> None:
        if not any(low <= status <= high for low, high in self._expected.statuses):
            raise Failed(f"answered {status}")
        self.detail = str(status)
        self._stays_open = head.startswith(b"HTTP/1.1") and _CLOSE.search(head) is None
        if self._expected.bodiless or status in (204, 304):  # RFC 9112, 6.3
            self._length = 0
        elif (length := _LENGTH.search(head)) is not None:
            self._length = int(length[1])
        self.done = self._expected.body is None and not (
            self._expected.whole and self._length is not None
        )

    def _read_body(self, start: int, ended: bool) -> None:
        have, room = len(self._data) - start, max(0, LIMIT - start)
        wanted = room if self._length is None else min(self._length, room)
        if have < wanted and not ended:
            return
        if self._length is not None and have < wanted:
            raise Failed(f"closed after {have} of {self._length} bytes of the body")
        self.body = bytes(self._data[start : start + wanted])
        pattern, text = self._expected.body, self.body[:SEARCHED].decode(errors="replace")
        if pattern is not None and not found(pattern, text):
            raise Failed("body does not match")
        self.done = True
