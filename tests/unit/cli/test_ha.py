"""`lbctl ha` against a socket that speaks as the VRRP process does."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from lbctl.cli.ha import ha
from lbctl.cli.shared import Context
from lbctl.errors import NotFound, Refused
from lbctl.messages import (
    AnyMessage,
    Ask,
    Done,
    HandOver,
    Resume,
    Role,
    RouterSettings,
    StandBy,
    Standing,
    decode,
    encode,
)

SETTINGS = RouterSettings("edge", "eth0", 7, 100, ("192.0.2.10",))


class Process:
    """Answers one client after the other; heard: the orders that it got."""

    def __init__(self, path: Path, role: Role) -> None:
        self.path, self.heard = path, list[AnyMessage]()
        peer = "" if role is Role.ACTIVE else "192.0.2.3"
        self._standing = Standing("edge", role, 100, peer, ("because",), {}, SETTINGS)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener:
            while True:
                client, _ = self._listener.accept()
                with client:
                    while data := client.recv(65536):
                        message = decode(data)
                        if message == Resume(""):
                            return
                        if isinstance(message, Ask):
                            client.send(encode(self._standing))
                        else:
                            self.heard.append(message)
                        client.send(encode(Done()))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
            end.connect(str(self.path))
            end.send(encode(Resume("")))
        self._thread.join()


@pytest.fixture
def process(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Process]:
    one = Process(tmp_path / "vrrp.sock", getattr(request, "param", Role.BACKUP))
    yield one
    one.close()


def run(process: Process, *words: str) -> str:
    command = [*words, "--control", str(process.path)]
    return CliRunner().invoke(ha, command, obj=Context(), catch_exceptions=False).output


@pytest.mark.parametrize(
    ("verb", "order", "would"),
    [
        ("failover", HandOver("edge"), "would hand over"),
        ("standby", StandBy("edge"), "would stand by"),
        ("resume", Resume("edge"), "would take part again"),
    ],
)
def test_an_order_is_given_and_a_dry_run_only_says_so(
    process: Process, verb: str, order: AnyMessage, would: str
) -> None:
    assert run(process, verb, "edge", "--dry-run") == f"dry run: edge: {would} (it is backup)\n"
    said = json.loads(run(process, verb, "edge", "--dry-run", "-j"))
    assert (said["dry_run"], said["role"]) == (True, "backup")
    assert process.heard == []
    assert run(process, verb, "edge").startswith("edge: ")
    assert process.heard == [order]


@pytest.mark.parametrize("verb", ["failover", "standby", "resume"])
def test_a_router_that_is_not_there_is_named(process: Process, verb: str) -> None:
    with pytest.raises(NotFound, match="egde: no such virtual router"):
        run(process, verb, "egde", "--dry-run")


@pytest.mark.parametrize("process", [Role.ACTIVE], indirect=True)
def test_a_dry_run_is_refused_as_the_order_would_be(process: Process) -> None:
    with pytest.raises(Refused, match="nobody would take over"):
        run(process, "failover", "edge", "--dry-run")
    assert "would hand over" in run(process, "failover", "edge", "--dry-run", "--force")
    assert process.heard == []
