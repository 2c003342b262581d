"""A request over a connection of its own, and an answer that is as expected."""

from socket import socket

from lbctl.health.http1 import Answer, Expectation
from lbctl.health.probes.dial import Remote, connect
from lbctl.health.reactor import news

_PIECE = 16 << 10


async def http(remote: Remote, request: bytes, expected: Expectation) -> str:
    with remote.stream() as sock:
        await connect(sock, remote)
        await _send(sock, request)
        answer = Answer(expected)
        while not answer.done:
            try:
                answer.receive(sock.recv(_PIECE))
            except BlockingIOError:
                await news(sock, answer.step)
        return answer.detail


async def _send(sock: socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await news(sock, "sending the request")
