"""DNS over TCP (RFC 7766): length-prefixed messages, several per connection.

Bounded, because a connection is cheap to open: so many at a time, so long without a query.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

from lbctl.gslb.responder import network_of

MOST = 512  # connections at a time; the next one is closed at once
MOST_EACH = 64  # of them from one /24 or /56, so that nobody takes them all
IDLE = 10.0  # seconds without a query (RFC 7766 section 6.2.3)

Reply = Callable[[bytes, bytes], bytes | None]


@asynccontextmanager
async def answering(sockets: list[socket.socket], reply: Reply) -> AsyncIterator[None]:
    """Answer on the listening `sockets` while in the context."""
    clients = _Clients(reply)
    servers = [await asyncio.start_server(clients.serve, sock=sock) for sock in sockets]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        clients.close()


class _Clients:
    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._open: set[asyncio.StreamWriter] = set()
        self._from: Counter[bytes] = Counter()  # by network
        self._turn = asyncio.Lock()

    def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        source = ip_address(peer[0]).packed if peer else b""
        network = network_of(source) if source else b""
        if not source or len(self._open) >= MOST or self._from[network] >= MOST_EACH:
            writer.transport.abort()
            return
        self._open.add(writer)
        self._from[network] += 1
        try:
            with suppress(asyncio.IncompleteReadError, TimeoutError, OSError):
                await self._converse(reader, writer, source)
        finally:
            self._open.discard(writer)
            self._from[network] -= 1
            if not self._from[network]:
                del self._from[network]
            writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: bytes
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE):
                length = int.from_bytes(await reader.readexactly(2), "big")
                query = await reader.readexactly(length)
                # One query for each turn of the loop, whoever asks: a thousand that arrive
                # together must not keep it from the looks at sites, which have a second.
                async with self._turn:
                    reply = self._reply(query, source)
                    await asyncio.sleep(0)
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
