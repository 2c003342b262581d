"""Mutual TLS between machines: gateways of a pair, sites, whoever reads the API from afar."""

import ssl
from pathlib import Path
from typing import Protocol

# Python 3.13 began to ask certificates for more, and to believe a CA that another one signed.
CHECKS = ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN


class PemFiles(Protocol):
    """Paths: our certificate, its key, and the CA that signed the peers'."""

    @property
    def certificate(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def ca(self) -> str: ...


def client_context(files: PemFiles) -> ssl.SSLContext:
    """For asking peers: their certificate must be of our CA and bear their name."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files.ca)
    context.verify_flags = CHECKS
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.certificate, files.key)
    return context


def server_context(files: PemFiles) -> ssl.SSLContext:
    """For answering peers: no certificate of our CA, no answer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = CHECKS
    context.load_cert_chain(files.certificate, files.key)
    return context


def pem_stamp(files: PemFiles) -> tuple[tuple[int, int], ...]:
    """What changes when one of the PEM files does. Raises OSError."""
    found = [Path(path).stat() for path in (files.certificate, files.key, files.ca)]
    return tuple((status.st_mtime_ns, status.st_ino) for status in found)


def pem_faults(files: PemFiles) -> list[tuple[str, str]]:
    """(key of its section, what is wrong) for PEM files that cannot be used."""
    faults = []
    for key in ("certificate", "key", "ca"):
        path = getattr(files, key)
        try:
            Path(path).read_bytes()
        except OSError as error:
            faults.append((key, f"{path}: cannot be read: {error.strerror}"))
    if faults:
        return faults
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(files.ca)
    except ssl.SSLError as error:
        faults.append(("ca", f"{files.ca}: is no PEM file of certificates: {error.reason}"))
    try:
        context.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as error:
        pair = f"{files.certificate} and {files.key}"
        text = f"{pair}: are no certificate and its key (PEM, without a password): {error.reason}"
        faults.append(("certificate", text))
    return faults
