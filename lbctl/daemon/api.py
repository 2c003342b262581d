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
from lbctl.daemon.failures import errors
from lbctl.daemon.ipvs import Ipvs
from lbctl.daemon.parts import Parts
from lbctl.daemon.peer import GROUP, group_id
from lbctl.daemon.reading import Reading
from lbctl.daemon.tracing import Tracing
from lbctl.errors import LbctlError, NotPermitted


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
    runner = web.AppRunner(application(parts), access_log=None, shutdown_timeout=1.0)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


def application(parts: Parts) -> web.Application:
    """All that can be asked, and who answers."""
    app = web.Application(middlewares=[errors, _permission], client_max_size=MAX_BYTES + 4096)
    for part in (Reading(parts), Changing(parts), Ipvs(parts), Tracing(parts)):
        app.add_routes(part.routes())
    return app


@web.middleware
async def _permission(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in ("GET", "HEAD") and request.path != "/v1/diff":
        peer, own = requester(request), os.geteuid()
        # Who may without the group costs no look-up of it.
        if not (peer.may_change(own, None) or peer.may_change(own, group_id())):
            raise NotPermitted(
                f"{peer.name}: may read, but not change anything",
                f"run it as root, or join the group {GROUP}",
            )
    return await handler(request)


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
        denied = isinstance(error, PermissionError)
        kind, who = (NotPermitted, "run as root, or ") if denied else (LbctlError, "")
        raise kind(
            f"{path}: cannot listen here: {error.strerror or error}",
            f"{who}give --socket a path that is {'yours' if denied else 'free and short'}",
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
