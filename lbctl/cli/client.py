"""The daemon's API as the verbs see it: plain HTTP over a Unix socket."""

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from lbctl.errors import Exit, InvalidConfig, LbctlError, NotPermitted, Unreachable

TIMEOUT = 60.0  # seconds without a byte; a change waits for the data path
Json = Any  # an answer; docs/api.md gives its shape
DEFAULT_SOCKET = "/run/lbctl/lbctl.sock"


class ApiError(LbctlError):
    """What the daemon answered instead of what was asked."""

    def __init__(self, message: str, hint: str, exit_code: Exit) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("lbctl", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


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
        connection = _UnixConnection(self._path)
        try:
            connection.timeout = None  # nothing may happen for hours
            response = self._request(connection, "GET", _target(parts, query), None)
            while line := response.readline():
                yield _parse(line)
            raise Unreachable(f"{self._path}: the daemon went away")
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _ask(self, method: str, target: str, data: bytes | None = None) -> bytes:
        connection = _UnixConnection(self._path)
        try:
            response = self._request(connection, method, target, data)
            return bytes(response.read())
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _request(
        self, connection: HTTPConnection, method: str, target: str, data: bytes | None
    ) -> HTTPResponse:
        connection.request(method, target, data)
        response = connection.getresponse()
        if response.status >= 400:
            raise _failure(response.status, response.read())
        return response

    def _unreachable(self, error: Exception) -> LbctlError:
        if isinstance(error, PermissionError):
            return NotPermitted(
                f"{self._path}: this user may not talk to the daemon",
                "run it as root, or join the group lbctl",
            )
        if isinstance(error, TimeoutError):
            return Unreachable(f"{self._path}: the daemon did not answer in {TIMEOUT:g} s")
        missing = isinstance(error, FileNotFoundError | ConnectionRefusedError)
        cause = "no daemon runs here" if missing else str(error) or type(error).__name__
        start = "lbctl daemon --config /etc/lbctl/lbctl.yaml"
        if self._path != DEFAULT_SOCKET:
            start += f" --socket {self._path}"
        return Unreachable(f"{self._path}: {cause}", f"`{start}` starts it")


def read_file(file: Path, limit: int) -> bytes:
    """A configuration file. Raises InvalidConfig where it is none that could be read."""
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise InvalidConfig([f"{file}: cannot be read: {error.strerror}"]) from None
    if len(data) > limit:
        raise InvalidConfig([f"{file}: is larger than {limit >> 20} MiB: nothing was read"])
    return data


def _target(parts: tuple[str, ...], query: dict[str, str]) -> str:
    path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{path}?{urlencode(query)}" if query else path


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
        return ApiError(answer["error"], answer["hint"], Exit(answer["exit_code"]))
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"an answer with status {status} that is no lbctl daemon's")
