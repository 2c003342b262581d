"""A request, and an answer that is as expected: over a connection of its own, or over one
that is kept for as long as the server does."""

from functools import partial

from lbctl.health.http1 import Answer, Expectation, Unanswered
from lbctl.health.probes.bounded import bounded
from lbctl.health.probes.dial import Dial, Stream


async def http(dial: Dial, request: bytes, expected: Expectation) -> str:
    with await dial() as stream:
        return (await exchange(stream, request, expected)).detail


async def exchange(stream: Stream, request: bytes, expected: Expectation) -> Answer:
    """Raises Failed, OSError."""
    await stream.send(request)
    answer = Answer(expected)
    while not answer.done:
        data = await stream.receive(answer.step)
        if expected.body is None:
            answer.receive(data)
        else:
            bounded(partial(answer.receive, data), "to match the body")
    return answer


class KeptConnection:
    """One check's connection from probe to probe."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._idle: Stream | None = None

    async def ask(self, request: bytes, expected: Expectation) -> Answer:
        """Over the connection that is open, or over a new one where that one is dead: a
        server may close what is idle, and is not to blame for it. Raises Failed, OSError."""
        if (idle := self._idle) is not None:
            self._idle = None
            try:
                return await self._exchange(idle, request, expected)
            except (OSError, Unanswered):
                pass  # RFC 9112, 9.3.1: asked again, on another connection
        return await self._exchange(await self._dial(), request, expected)

    async def _exchange(self, stream: Stream, request: bytes, expected: Expectation) -> Answer:
        try:
            answer = await exchange(stream, request, expected)
        except BaseException:
            stream.sock.close()
            raise
        if answer.reusable:
            self._idle = stream
        else:
            stream.sock.close()
        return answer

    def close(self) -> None:
        if self._idle is not None:
            self._idle.sock.close()


async def http_kept(kept: KeptConnection, request: bytes, expected: Expectation) -> str:
    return (await kept.ask(request, expected)).detail
