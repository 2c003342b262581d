"""Probes over UDP: a payload and what comes back, and a DNS query."""

import re
import secrets
from socket import socket

from lbctl.health.dns1 import judge_answer
from lbctl.health.matching import SEARCHED, found
from lbctl.health.probes.bounded import bounded
from lbctl.health.probes.dial import Remote
from lbctl.health.reactor import news
from lbctl.health.result import Failed
from lbctl.model import DnsProbe

_LARGEST = 65535
_SILENT = "no answer, and not refused"


async def udp(remote: Remote, payload: bytes, expect: re.Pattern[bytes] | None) -> str:
    """The socket is connected, so an ICMP unreachable comes back as ECONNREFUSED (and the
    like): that is a server which is down."""
    with remote.datagram() as sock:
        sock.send(payload)
        silent = _SILENT if expect is None else ""
        data = await _receive(sock, "waiting for an answer", silent)
        if expect is not None and not _matches(expect, data[:SEARCHED]):
            raise Failed(f"answered {data[:24]!r}, which is not what was expected")
        return f"answered {len(data)} bytes"


def _matches(expect: re.Pattern[bytes], data: bytes) -> bool:
    return bounded(lambda: found(expect, data), "to match the answer")


async def dns(remote: Remote, asked: bytes, probe: DnsProbe) -> str:
    id = secrets.randbits(16)
    with remote.datagram() as sock:
        sock.send(id.to_bytes(2, "big") + asked)
        while True:
            data = await _receive(sock, "waiting for an answer")
            if (said := judge_answer(data, id, asked, probe)) is not None:
                return said


async def _receive(sock: socket, step: str, silent: str = "") -> bytes:
    while True:
        try:
            return sock.recv(_LARGEST)
        except BlockingIOError:
            await news(sock, step, silent)
