"""Whom machines believe: the same on every Python."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from lbctl.mutualtls import client_context, server_context


@dataclass
class Files:
    certificate: str
    key: str
    ca: str


def files(home: Path, believed: trustme.CA, signer: trustme.CA) -> Files:
    """A certificate of `signer`, without what is above it, and the CA that peers must have."""
    issued = signer.issue_cert("gw1.example")
    (home / "gw1.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    issued.private_key_pem.write_to_path(str(home / "gw1.key"))
    believed.cert_pem.write_to_path(str(home / "ca.pem"))
    return Files(str(home / "gw1.pem"), str(home / "gw1.key"), str(home / "ca.pem"))


def shake(one: Files) -> None:
    """Both sides have the same certificate. Raises ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(one).wrap_bio(back, there, server_hostname="gw1.example")
    server = server_context(one).wrap_bio(there, back, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert "subjectAltName" in (server.getpeercert() or {})


def test_the_ca_may_be_signed_by_another_one(tmp_path: Path) -> None:
    root = trustme.CA()
    shake(files(tmp_path, root, root))
    below = root.create_child_ca()
    shake(files(tmp_path, below, below))
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        shake(files(tmp_path, below, root))


def test_a_ca_made_by_hand_needs_no_more_than_its_signature(tmp_path: Path) -> None:
    """Python 3.13 asks for more by itself."""
    one = files(tmp_path, *[trustme.CA()] * 2)
    for context in (client_context(one), server_context(one)):
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
