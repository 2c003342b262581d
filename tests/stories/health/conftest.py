import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest
from listeners import PATIENCE, Connection, Server, Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.line.close()
    with one.process:  # closes its stderr, and waits
        try:
            one.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            one.process.kill()
            raise


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(answer: Connection | None = None, backlog: int = 64) -> Server:
            server = Server(answer, backlog)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def refusing() -> Iterator[str]:
    """An endpoint that nobody listens on, and that nobody else can take."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address, port = sock.getsockname()
        yield f"{address}:{port}"
