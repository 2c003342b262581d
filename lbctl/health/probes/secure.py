"""TLS of probes: handshakes, certificates, and their faults in words.

Only imported where a check needs it: OpenSSL costs a worker several megabytes.
"""

import os
import ssl
from functools import lru_cache
from socket import socket
from time import time

from lbctl.health.files import Files
from lbctl.health.probes.dial import Remote, Stream, dial
from lbctl.health.reactor import news
from lbctl.health.result import Failed, Unable
from lbctl.model import Tls, TlsProbe

DAY = 86400.0


class SecureStream(Stream):
    """A connection with TLS inside. Every fault of TLS is the server's evidence."""

    def __init__(self, sock: socket, tls: ssl.SSLSocket) -> None:
        super().__init__(sock)
        self.tls = self.sock = tls

    async def send(self, data: bytes, step: str = "sending the request") -> None:
        while data:
            try:
                data = data[self.tls.send(data) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                await news(self.tls, step)
            except ssl.SSLError as error:
                raise Failed(in_words(error)) from None

    async def receive(self, step: str) -> bytes:
        while True:
            try:
                return self.tls.recv(16 << 10)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                await news(self.tls, step)
            except ssl.SSLError as error:
                raise Failed(in_words(error)) from None


async def dial_secure(remote: Remote, tls: Tls, files: Files, alpn: str = "") -> SecureStream:
    """A connection and a handshake, with the certificate seen to. Raises Failed, Unable,
    OSError."""
    context = _context_for(tls, files, alpn)
    plain = (await dial(remote)).sock
    try:
        # The name is asked for by SNI; for an address it only has to be in the certificate.
        wrapped = context.wrap_socket(
            plain,
            do_handshake_on_connect=False,
            server_hostname=tls.name or remote.sockaddr[0],
        )
        stream = SecureStream(plain, wrapped)
    except BaseException:
        plain.close()
        raise
    try:
        await _shake_hands(wrapped)
        _see_to_expiry(wrapped, tls)
    except BaseException:
        stream.sock.close()
        raise
    return stream


async def tls(remote: Remote, probe: TlsProbe, files: Files) -> str:
    with await dial_secure(remote, probe.tls, files) as stream:
        words = [stream.tls.version() or "TLS"]
        if (left := _days_left(stream.tls)) is not None:
            words.append(f"certificate good for {left:.0f} days")
        return ", ".join(words)


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    while True:
        try:
            sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            await news(sock, "in the TLS handshake")
        except ssl.SSLError as error:
            raise Failed(in_words(error)) from None
        else:
            return


def _see_to_expiry(sock: ssl.SSLSocket, tls: Tls) -> None:
    left = _days_left(sock)
    if tls.days and left is not None and left < tls.days:
        raise Failed(f"certificate expires in {left:.1f} days (at least {tls.days} wanted)")


def _days_left(sock: ssl.SSLSocket) -> float | None:
    """None where nobody verified the certificate: OpenSSL then keeps its contents back."""
    certificate = sock.getpeercert()
    if not certificate:
        return None
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time()) / DAY


def in_words(error: ssl.SSLError) -> str:
    """`certificate has expired`, `wrong version number`: OpenSSL's own words, no numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message.rstrip('.')}"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "TLS: closed in the middle"
    return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"


class _Unusable(Exception):
    """A file that OpenSSL does not take: `ca` or `cert`, and why."""


def _context_for(tls: Tls, files: Files, alpn: str) -> ssl.SSLContext:
    ca, cert, key = (files.read(name) if name else b"" for name in (tls.ca, tls.cert, tls.key))
    try:
        return _context(tls.verify, alpn, ca, cert, key)
    except _Unusable as error:
        which, why = error.args
        name = (tls.cert if which == "cert" else tls.ca) or "this gateway's CAs"
        raise Unable(f"{name}: cannot be used: {why}") from None


@lru_cache(maxsize=64)
def _context(verify: bool, alpn: str, ca: bytes, cert: bytes, key: bytes) -> ssl.SSLContext:
    """ca, cert, key: the contents of the files; a renewed certificate makes another. It takes
    some 50 ms: what servers do not share (a name, days) is no part of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols([alpn])
    loading = "ca"
    try:
        if verify and ca:
            context.load_verify_locations(cadata=ca.decode("ascii"))
        elif verify:
            context.load_default_certs()
        loading = "cert"
        if cert:
            _load_chain(context, cert + b"\n" + key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise _Unusable(loading, getattr(error, "strerror", None) or error) from None
    return context


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Certificate and key, in one piece. OpenSSL wants a file: it gets one in memory."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)


def _no_password() -> str:
    raise Unable("a key with a password: nobody is there to type it")
