"""The daemon's API as the verbs see it: plain HTTP over a Unix socket."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from lbctl.errors import Exit, InvalidConfig, LbctlError, NotPermitted, Unreachable

TIMEOUT = 60.0  # seconds without a byte; a change waits for the data path
NOT_FOUND = 404
Json = Any  # an answer; docs/api.md gives its shape
LINE = 65536  # bytes of a head's line, at most
DEFAULT_SOCKET = "/run/lbctl/lbctl.sock"


class ApiError(LbctlError):
    """What the daemon answered instead of what was asked."""

    def __init__(self, message: str, hint: str, exit_code: Exit, status: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code
        self.status = status


class _Garbled(Exception):
    """An answer that is no HTTP."""


@contextmanager
def _asked(
    path: str, method: str, target: str, data: bytes | None, timeout: float | None
) -> Iterator[tuple[int, BinaryIO]]:
    """One request on a connection of its own: (status, body). HTTP/1.0, so a body ends with
    its connection and these lines are the whole client: `http.client` and the mail parser
    it brings would take a quarter of a verb's time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        length = f"Content-Length: {len(data)}\r\n" if data is not None else ""
        head = f"{method} {target} HTTP/1.0\r\nHost: lbctl\r\n{length}\r\n"
        connection.sendall(head.encode() + (data or b""))
        with connection.makefile("rb") as answer:
            words = answer.readline(LINE).split()
            if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
                raise _Garbled("an answer that is no HTTP, so no lbctl daemon's")
            while answer.readline(LINE).strip():
                pass
            yield int(words[1]), answer


class Client:
    """One daemon. Every method raises LbctlError, with the exit code that the CLI gives."""

    def __init__(self, path: str = DEFAULT_SOCKET) -> None:
        self._path = path

    def get(self, *parts: str, **query: str) -> Json:
        return _parse(self._ask("GET", _target(parts, query)))

    def text(self, *parts: str, **query: str) -> str:
        return self._ask("GET", _target(parts, query)).decode()

    def post(self, *parts: str, body: object = None, **query: str) -> Json:
        data = b"" if body is None else json.dumps(body).encode()
        return _parse(self._ask("POST", _target(parts, query), data))

    def send(self, *parts: str, data: bytes, **query: str) -> Json:
        """A file as it is."""
        return _parse(self._ask("POST", _target(parts, query), data))

    def delete(self, *parts: str, body: object) -> Json:
        return _parse(self._ask("DELETE", _target(parts, {}), json.dumps(body).encode()))

    def stream(self, *parts: str, **query: str) -> Iterator[Json]:
        """One JSON value a line, until the daemon goes away."""
        # Nothing may happen for hours.
        with self._talk("GET", _target(parts, query), None, timeout=None) as answer:
            while line := answer.readline():
                yield _parse(line)
        raise Unreachable(f"{self._path}: the daemon went away")

    def _ask(self, method: str, target: str, data: bytes | None = None) -> bytes:
        with self._talk(method, target, data, TIMEOUT) as answer:
            return answer.read()

    @contextmanager
    def _talk(
        self, method: str, target: str, data: bytes | None, timeout: float | None
    ) -> Iterator[BinaryIO]:
        try:
            with _asked(self._path, method, target, data, timeout) as (status, answer):
                if status >= 400:
                    raise _failure(status, answer.read())
                yield answer
        except (OSError, _Garbled) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> LbctlError:
        if isinstance(error, PermissionError):
            return NotPermitted(
                f"{self._path}: this user may not talk to the daemon",
                "run it as root, or join the group lbctl",
            )
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self._path}: the daemon did not answer in {TIMEOUT:g} s")
        missing = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        if not missing:
            cause = str(error) or type(error).__name__
            return Unreachable(f"{self._path}: {cause}", "--socket, or LBCTL_SOCKET, names another")
        start = "lbctl daemon --config /etc/lbctl/lbctl.yaml"
        if self._path != DEFAULT_SOCKET:
            start += f" --socket {self._path}"
        return Unreachable(f"{self._path}: no daemon runs here", f"`{start}` starts it")


def _target(parts: tuple[str, ...], query: dict[str, str]) -> str:
    # What the shell gave that is no UTF-8 is passed on, byte for byte, for the daemon to refuse.
    odd = "surrogateescape"
    path = "/v1/" + "/".join(quote(part, safe="", errors=odd) for part in parts)
    return f"{path}?{urlencode(query, errors=odd)}" if query else path


def _parse(body: bytes) -> Json:
    try:
        return json.loads(body)
    except ValueError:
        raise Unreachable("an answer that is not JSON, so no lbctl daemon's") from None


def _failure(status: int, body: bytes) -> LbctlError:
    try:
        answer = json.loads(body)
        if answer["faults"]:
            return InvalidConfig(answer["faults"])
        return ApiError(answer["error"], answer["hint"], Exit(answer["exit_code"]), status)
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"an answer with status {status} that is no lbctl daemon's")
