"""Looking at sites: their gateways' reports over mutual TLS, their VIPs, external checks."""

import asyncio
import socket
import ssl
from collections.abc import Sequence

import aiohttp

from lbctl.gslb.model import Api, ExternalCheck
from lbctl.gslb.reports import SiteReport, Unintelligible, decode
from lbctl.model import Endpoint, HttpProbe, Listen, Proto, TcpProbe

MOST = 4 << 20  # octets of a report


class Silent(Exception):
    """No answer, or none that could be understood."""


async def ask(
    session: aiohttp.ClientSession, api: Api, context: ssl.SSLContext, timeout: float
) -> SiteReport:
    """A gateway's report. Raises Silent."""
    url = f"https://{api.endpoint}/v1/site"
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with session.get(
            url, ssl=context, server_hostname=api.server_name, timeout=limit
        ) as response:
            if response.status != 200:
                raise Silent(f"{api.endpoint}: status {response.status}")
            return decode(await whole(response))
    except (aiohttp.ClientError, Unintelligible, TimeoutError, OSError, ssl.SSLError) as error:
        raise Silent(f"{api.endpoint}: {error or type(error).__name__}") from None


async def whole(response: aiohttp.ClientResponse) -> bytes:
    """The body, whole. Raises Unintelligible where it is longer than any report."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MOST:
            raise Unintelligible(f"more than {MOST >> 20} MiB")
    return bytes(body)


async def probe_vips(vips: Sequence[Listen], timeout: float) -> str:
    """Connect to the TCP VIPs of a site, all at once; return which answered first. Raises
    Silent, after `timeout` however many there are."""
    tries = [asyncio.create_task(_try(vip, timeout)) for vip in vips if vip.proto is Proto.TCP]
    reasons = []
    try:
        for one in asyncio.as_completed(tries):
            answers, said = await one
            if answers:
                return said
            reasons.append(said)
    finally:
        for task in tries:
            task.cancel()
    raise Silent(", ".join(reasons) or "no VIP to probe")


async def _try(vip: Listen, timeout: float) -> tuple[bool, str]:
    try:
        await connect(str(vip.address), vip.port, timeout)
    except Silent as error:
        return False, str(error)
    return True, f"{vip} answers"


async def connect(host: str, port: int, timeout: float) -> None:
    """Open and close a connection. Raises Silent."""
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        raise Silent(f"{host}:{port}: no answer in {timeout:g} s") from None
    except OSError as error:
        raise Silent(f"{host}:{port}: {error.strerror or error}") from None
    writer.close()


async def handshake(target: Endpoint, timeout: float) -> float | None:
    """Seconds of a TCP handshake, or until a refusal: one round trip. None: no answer."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as line:
        started = loop.time()
        try:
            async with asyncio.timeout(timeout):
                await loop.sock_connect(line, (str(target.address), target.port))
        except ConnectionRefusedError:
            pass  # a reset has travelled as far
        except (OSError, TimeoutError):
            return None
        return loop.time() - started


async def probe_external(session: aiohttp.ClientSession, check: ExternalCheck) -> str:
    """Run an external site's check once; return what it saw. Raises Silent."""
    target, timeout = check.target, check.timing.timeout
    match check.probe:
        case HttpProbe() as probe:
            return await _http(session, probe, str(target), timeout)
        case TcpProbe():
            await connect(str(target.address), target.port, timeout)
            return f"{target} accepts"
        case _:
            kind = type(check.probe).__name__.removesuffix("Probe").lower()
            raise Silent(f"{target}: no {kind} check from here (say tcp or http)")


async def _http(
    session: aiohttp.ClientSession, probe: HttpProbe, target: str, timeout: float
) -> str:
    headers = {"Host": probe.host} if probe.host else {}
    url = f"http://{target}{probe.path}"
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with session.request(
            probe.method, url, headers=headers, timeout=limit, allow_redirects=False
        ) as response:
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Silent(f"{target}: {error or type(error).__name__}") from None
    if not any(low <= status <= high for low, high in probe.statuses):
        raise Silent(f"{target}: status {status}")
    return f"status {status}"
