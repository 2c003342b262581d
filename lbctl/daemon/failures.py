"""Errors as the API shows them: `{"error", "hint", "exit_code", "faults"}` and a status."""

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from lbctl.config import MAX_BYTES
from lbctl.errors import Exit, InvalidConfig, LbctlError, NotFound

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
