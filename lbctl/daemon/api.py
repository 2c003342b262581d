"""The API: JSON over HTTP on a Unix socket. docs/api.md describes it for its users.

Whoever can connect may read; root, the daemon's own user and the group `lbctl` may change
things. Errors are `{"error", "hint", "exit_code", "faults"}`, with an HTTP status to match.
"""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from lbctl.config import MAX_BYTES
from lbctl.daemon.changing import Changing, requester
from lbctl.daemon.ipvs import Ipvs
from lbctl.daemon.parts import Parts
from lbctl.daemon.peer import GROUP, group_id
from lbctl.daemon.reading import Reading, answer
from lbctl.daemon.tracing import Tracing
from lbctl.errors import Exit, InvalidConfig, LbctlError, NotFound, NotPermitted

HTTP_STATUS = {
    Exit.USAGE: 400,
    Exit.INVALID: 422,
    Exit.NOT_PERMITTED: 403,
    Exit.UNREACHABLE: 503,
    Exit.REFUSED: 409,
}


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at `path` that takes connections, for `serving` to answer; gone afterwards.
    Raises LbctlError or NotPermitted, before anything else of a daemon is begun."""
    listener = _listener(path)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)


@asynccontextmanager
async def serving(parts: Parts, listener: socket.socket) -> AsyncIterator[None]:
    """Answer on `listener` while in the context."""
    app = web.Application(middlewares=[_errors, _permission], client_max_size=MAX_BYTES + 4096)
    app.add_routes(Reading(parts).routes())
    app.add_routes(Changing(parts).routes())
    app.add_routes(Ipvs(parts).routes())
    app.add_routes(Tracing(parts).routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        limit = f"{MAX_BYTES >> 20} MiB"
        return _failure(InvalidConfig([f"the file is larger than {limit}: nothing was read"]))
    except web.HTTPException as error:
        where = f"{request.method} {request.path}"
        wrong = LbctlError(f"{where}: {error.reason}", "docs/api.md lists what there is")
        return _failure(wrong, error.status)
    except LbctlError as error:
        return _failure(error)


@web.middleware
async def _permission(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD") and request.path != "/v1/diff":
        peer = requester(request)
        if not peer.may_change(os.geteuid(), group_id()):
            raise NotPermitted(
                f"{peer.name}: may read, but not change anything",
                f"run it as root, or join the group {GROUP}",
            )
    return await handler(request)


def _failure(error: LbctlError, status: int | None = None) -> web.Response:
    if status is None:
        status = 404 if isinstance(error, NotFound) else HTTP_STATUS.get(error.exit_code, 500)
    faults = error.faults if isinstance(error, InvalidConfig) else []
    body = {
        "error": error.message,
        "hint": error.hint,
        "exit_code": int(error.exit_code),
        "faults": faults,
    }
    return answer(body, status)


def _listener(path: Path) -> socket.socket:
    """A listening socket at `path`, in the place of one that nobody listens on any more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        group = group_id()
        if group is not None and os.geteuid() == 0:
            os.chown(path, -1, group)
        path.chmod(0o660)
        listener.listen(128)  # whoever asks while the daemon starts waits for its answer
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) else LbctlError
        raise kind(
            f"{path}: cannot listen here: {error.strerror or error}",
            "run as root, or give --socket a path that is yours",
        ) from None
    return listener


def _remove_dead(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise LbctlError(f"{path}: a daemon answers here already", "stop it, or give another --socket")
