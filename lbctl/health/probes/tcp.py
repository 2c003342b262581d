"""A connection that is accepted."""

from socket import IPPROTO_TCP, TCP_QUICKACK

from lbctl.health.probes.dial import Remote, connect


async def tcp(remote: Remote) -> str:
    with remote.stream() as sock:
        # Holds the handshake's last ACK back: the reset that follows ends a half-open
        # connection, and the application behind it is never woken by a check.
        sock.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0)
        await connect(sock, remote)
        return "connected"
