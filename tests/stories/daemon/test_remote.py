"""The API for other machines: who may ask what over mutual TLS, with a real daemon."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from lbctl.lab.waiting import eventually
from tests.ports import free_port

from .conftest import Daemon, running


class Authority:
    """A CA, and certificates that it (or a stranger) issued."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(home / "ca.pem"))
        self.gateway()

    def gateway(self) -> None:
        """A certificate for the gateway, or a new one in the place of it."""
        issued = self.ca.issue_cert("gateway.example")
        (self.home / "gw.pem").write_bytes(b"".join(b.bytes() for b in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.home / "gw.key"))

    def context(self, name: str = "", issuer: trustme.CA | None = None) -> ssl.SSLContext:
        """What a client called `name` asks with; "": no certificate."""
        context = ssl.create_default_context(cafile=str(self.home / "ca.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if name:
            (issuer or self.ca).issue_cert(name).configure_cert(context)
        return context


class Remote:
    """A daemon with a listener."""

    def __init__(self, daemon: Daemon, authority: Authority) -> None:
        self.daemon = daemon
        self.authority = authority
        self.port = free_port()

    def section(self) -> str:
        home = self.authority.home
        return (
            f"{{front: front0, api: {{listen: '127.0.0.1:{self.port}', certificate: {home}/gw.pem, "
            f"key: {home}/gw.key, ca: {home}/ca.pem, read: grafana, peer: [seoul, tokyo]}}}}"
        )

    def take(self, section: str) -> None:
        """Give the daemon this gateway section."""
        text = self.daemon.yaml().replace("{front: front0}", section)
        self.daemon.file.write_text(text)
        done = self.daemon.run("apply", str(self.daemon.file))
        assert done.code == 0, done.err

    def ask(self, context: ssl.SSLContext, path: str, method: str = "GET") -> tuple[int, Any]:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        with context.wrap_socket(raw, server_hostname="gateway.example") as line:
            client = http.client.HTTPConnection("gateway.example")
            client.sock = line
            client.request(method, path, headers={"Connection": "close"})
            answer = client.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

    def listens(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0

    def serial(self) -> str:
        context = self.authority.context("seoul")
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        with context.wrap_socket(raw, server_hostname="gateway.example") as line:
            found = line.getpeercert()
            assert found is not None
            return str(found["serialNumber"])


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    home = tmp_path_factory.mktemp("remote")
    with running(home) as daemon:
        one = Remote(daemon, Authority(home))
        assert not one.listens()  # off where it is not written
        one.take(one.section())
        eventually(lambda: one.listens())
        yield one


def test_a_peer_learns_how_the_site_does_and_no_more(remote: Remote) -> None:
    def up() -> bool:
        status, report = remote.ask(remote.authority.context("tokyo"), "/v1/site")
        assert status == 200
        return bool(report["services"]["web"]["up"])

    eventually(up)
    status, said = remote.ask(remote.authority.context("tokyo"), "/v1/config")
    assert (status, said["exit_code"]) == (403, 5)
    assert said["error"] == "tokyo: may not ask for /v1/config"


def test_a_reader_may_ask_everything_and_change_nothing(remote: Remote) -> None:
    reader = remote.authority.context("grafana")
    for path in ("/v1/status", "/v1/servers", "/v1/site"):
        assert remote.ask(reader, path)[0] == 200
    for path in ("/v1/orders", "/v1/diff"):
        status, said = remote.ask(reader, path, "POST")
        assert status == 403
        assert said["error"] == "grafana: nothing can be changed from here"


def test_a_certificate_of_the_ca_is_not_enough(remote: Remote) -> None:
    status, said = remote.ask(remote.authority.context("mallory"), "/v1/site")
    assert (status, said["hint"]) == (403, "gateway.api.read and gateway.api.peer name those who "
                                      "may")  # fmt: skip


@pytest.mark.parametrize("who", ["nobody", "stranger"])
def test_without_a_certificate_of_the_ca_nothing_is_said(remote: Remote, who: str) -> None:
    context = remote.authority.context()
    if who == "stranger":
        context = remote.authority.context("seoul", trustme.CA())
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        remote.ask(context, "/v1/site")


def test_a_renewed_certificate_is_taken(remote: Remote) -> None:
    before = remote.serial()

    def renewed() -> bool:
        with suppress(ConnectionError, ssl.SSLEOFError):  # between the old listener and the new
            return remote.serial() != before
        return False

    remote.authority.gateway()
    eventually(renewed, timeout=30)


def test_what_cannot_be_opened_is_told_and_the_old_one_stays(remote: Remote) -> None:
    missing = remote.section().replace("gw.key", "none.key")
    remote.take(missing)

    def told() -> bool:
        warnings = remote.daemon.client.get("status")["warnings"]
        return any("none.key: No such file or directory" in one for one in warnings)

    eventually(told)
    assert remote.ask(remote.authority.context("seoul"), "/v1/site")[0] == 200
    remote.take("{front: front0}")
    eventually(lambda: not remote.listens())
    assert remote.daemon.client.get("status")["warnings"] == []
    remote.take(remote.section())
    eventually(remote.listens)
