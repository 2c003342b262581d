"""Errors as the API shows them: `{"error", "hint", "exit_code", "faults"}` and a status."""

import logging

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from lbctl.config import MAX_BYTES
from lbctl.errors import Exit, InvalidConfig, LbctlError, NotFound

IN_THE_LOG = "lbctl did not expect that: the daemon's log has more"
log = logging.getLogger("lbctl")

HTTP_STATUS = {
    Exit.USAGE: 400,
    Exit.INVALID: 422,
    Exit.NOT_PERMITTED: 403,
    Exit.UNREACHABLE: 503,
    Exit.REFUSED: 409,
}


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
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
    except ConnectionError:
        raise  # whoever asked is gone
    except Exception as error:
        # A fault of ours, or of this machine: the traceback is for the log, and whoever asked
        # gets the shape that they know.
        where = f"{request.method} {request.path}"
        log.exception("%s: failed", where)
        return _failure(LbctlError(f"{where}: {type(error).__name__}: {error}", IN_THE_LOG))


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
    return web.Response(
        body=msgspec.json.encode(body) + b"\n", status=status, content_type="application/json"
    )
