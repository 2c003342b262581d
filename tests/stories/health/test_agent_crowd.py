"""Our agent among clients that mean it no good: they drip, say nothing, or come in crowds. Who
asks properly is answered all the same.

Addresses of 127.0.0.0/8 stand for clients: the one that asks is 127.0.0.1.
"""

import contextlib
import importlib.util
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from listeners import PATIENCE

from lbctl.lab.waiting import eventually
from tests.ports import free_port

AGENT = Path(__file__).parents[3] / "agents/lbctl_agent.py"
spec = importlib.util.spec_from_file_location("lbctl_agent", AGENT)
assert spec is not None
assert spec.loader is not None
agent = importlib.util.module_from_spec(spec)
spec.loader.exec_module(agent)
ONE = "127.0.0.2"
SHORT = 0.5  # seconds for a request, where that is what a test is about
GET = b"GET /v1/load HTTP/1.1\r\nHost: a\r\n"


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Doors:
    """An agent's two, and what opens the first."""

    def __init__(self, where: Path) -> None:
        self.https, self.line = free_port(), free_port()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(where / "ca.pem"))
        for name in ("127.0.0.1", "gateway"):
            issued = authority.issue_cert(name)
            issued.private_key_and_cert_chain_pem.write_to_path(str(where / f"{name}.pem"))
        self.context = ssl.create_default_context(cafile=str(where / "ca.pem"))
        self.context.load_cert_chain(str(where / "gateway.pem"))
        self.files = ("--cert", str(where / "127.0.0.1.pem"), "--ca", str(where / "ca.pem"))

    def connect_https(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.https), PATIENCE)
        return self.context.wrap_socket(plain, server_hostname="127.0.0.1")

    def ask_https(self) -> bytes:
        with self.connect_https() as encrypted:
            return asked(encrypted)

    def ask_line(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self.line), PATIENCE) as plain:
            return plain.recv(1000)


def asked(line: socket.socket) -> bytes:
    """The whole answer."""
    line.sendall(GET + b"\r\n")
    said = b""
    while not (head := said.partition(b"\r\n\r\n"))[1]:
        said += heard(line)
    length = int(head[0].partition(b"Content-Length: ")[2].split()[0])
    while len(said) < len(head[0]) + 4 + length:
        said += heard(line)
    return said


def heard(line: socket.socket) -> bytes:
    more = line.recv(16384)
    assert more, "it hung up"
    return more


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[Doors]:
    """Of an agent that runs as it is installed."""
    one = Doors(tmp_path)
    ports = ["--port", str(one.https), "--haproxy-port", str(one.line)]
    command = [sys.executable, str(AGENT), "serve", "--listen", "127.0.0.1", *ports, *one.files]
    with subprocess.Popen(command) as process:
        try:
            eventually(lambda: listens(one.https) and listens(one.line), PATIENCE)
            yield one
        finally:
            process.terminate()


def come(address: str, port: int) -> socket.socket:
    """A client of this address."""
    return socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(address, 0))


class Flood:
    """Connections of one address as fast as they come, of which the last ones are dripped on."""

    def __init__(self, port: int) -> None:
        self.port, self.count = port, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        held: list[socket.socket] = []
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                held.append(come(ONE, self.port))
                self.count += 1
            for one in held[-40:]:
                with contextlib.suppress(OSError):
                    one.send(b"G", socket.MSG_DONTWAIT)
            for one in held[:-40]:
                one.close()
            del held[:-40]
        for one in held:
            one.close()

    def __enter__(self) -> "Flood":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(PATIENCE)


@pytest.mark.parametrize("door", ["https", "line"])
def test_a_flood_of_one_address_keeps_nobody_elses_answer_away(doors: Doors, door: str) -> None:
    ask = getattr(doors, f"ask_{door}")
    with Flood(getattr(doors, door)) as flood:
        eventually(lambda: flood.count > 100, PATIENCE)
        before = flood.count
        for _ in range(20):
            assert ask()
        eventually(lambda: flood.count > before, PATIENCE)  # all the while


@pytest.mark.parametrize("door", ["https", "line"])
def test_twice_as_many_as_there_is_room_for_keep_nobodys_answer_away(
    doors: Doors, door: str
) -> None:
    """Of an address each."""
    port = getattr(doors, door)
    kept = doors.connect_https()
    assert asked(kept).startswith(b"HTTP/1.1 200 ")
    crowd = [come(f"127.0.1.{n}", port) for n in range(1, 2 * agent.MOST_CLIENTS + 1)]
    try:
        for _ in range(3):
            assert getattr(doors, f"ask_{door}")()
        assert asked(kept).startswith(b"HTTP/1.1 200 ")  # and its connection was left alone
    finally:
        for one in (kept, *crowd):
            one.close()


# --- how long a request may take ----------------------------------------------------------


@pytest.fixture
def served() -> Iterator[Callable[..., int]]:
    """A server of the agent's in this process, whose requests have SHORT; returns its port."""
    running: list = []
    looker = agent.Looker(None, ["/"])
    says = agent.Agent(looker, None, 0.8, 0.95)

    def started(kind: str, *more: object) -> int:
        one = getattr(agent, kind)(("127.0.0.1", 0), says, *more, patience=SHORT)
        thread = threading.Thread(target=one.serve_forever, args=(0.02,))
        thread.start()
        running.append((one, thread))
        return one.server_address[1]

    yield started
    for one, thread in running:
        one.shutdown()
        thread.join()
        one.server_close()


def hello() -> bytes:
    """The first words of TLS."""
    out = ssl.MemoryBIO()
    talk = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="a")
    with contextlib.suppress(ssl.SSLWantReadError):
        talk.do_handshake()
    return out.read()


def drip(line: socket.socket, words: bytes) -> float:
    """Say so, a byte at a time, until one is hung up on; the seconds that this took."""
    pace, began = threading.Event(), time.monotonic()
    try:
        for n in range(len(words)):
            line.sendall(words[n : n + 1])
            pace.wait(0.03)
    except OSError:
        return time.monotonic() - began
    raise AssertionError(f"it was listened to for {time.monotonic() - began:.1f} s")


ENDLESS = GET + b"X-More: " + b"x" * 1000


def test_a_request_that_drips_is_given_up(served: Callable[..., int]) -> None:
    port = served("WebServer", "", None)
    with come(ONE, port) as line:
        assert drip(line, ENDLESS) < PATIENCE


def test_a_further_request_has_a_time_of_its_own(served: Callable[..., int]) -> None:
    port = served("WebServer", "", None)
    with come(ONE, port) as line:
        end = time.monotonic() + 2 * SHORT
        while time.monotonic() < end:  # the connection outlives what one request may take
            assert asked(line).startswith(b"HTTP/1.1 200 ")
        assert SHORT * 0.8 < drip(line, ENDLESS) < PATIENCE


def test_a_handshake_that_drips_is_given_up(served: Callable[..., int], tmp_path: Path) -> None:
    Doors(tmp_path)
    cert, ca = (str(tmp_path / name) for name in ("127.0.0.1.pem", "ca.pem"))
    port = served("WebServer", "", agent.tls_context(cert, "", ca))
    with come(ONE, port) as line:
        assert drip(line, hello()) < PATIENCE


def test_who_keeps_haproxys_door_open_is_given_up(served: Callable[..., int]) -> None:
    port = served("LineServer")
    with come(ONE, port) as line:
        assert drip(line, b"x" * 1000) < PATIENCE


def test_who_does_not_read_the_answer_is_given_up(served: Callable[..., int]) -> None:
    """Answers that nobody reads fill the buffers, and then the agent's thread waits."""
    port = served("WebServer", "", None)
    with come(ONE, port) as line:
        line.settimeout(PATIENCE)
        with pytest.raises(OSError, match=r"(?i)reset|broken pipe"):
            line.sendall((GET + b"\r\n") * 1_000_000)


@pytest.mark.parametrize(
    "words",
    [GET + b"X-More: " + b"x" * 20000 + b"\r\n\r\n", GET + b"X: y\r\n" * 5000, b"x" * 70000],
    ids=["a long header", "many headers", "no end of a line"],
)
def test_a_request_has_room_for_16_kib(served: Callable[..., int], words: bytes) -> None:
    with come(ONE, served("WebServer", "", None)) as line, contextlib.suppress(ConnectionError):
        line.sendall(words)
        said = line.recv(1000)
        assert said == b"" or said.startswith(b"HTTP/1.1 431 ")
        while line.recv(1000):
            continue


def test_a_stranger_without_the_token_is_hung_up_on(served: Callable[..., int]) -> None:
    with come(ONE, served("WebServer", "s3cret", None)) as line:
        line.sendall(GET + b"\r\n")
        said = b""
        while more := line.recv(1000):
            said += more
        assert said.startswith(b"HTTP/1.1 401 ")
