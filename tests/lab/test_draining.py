"""`lbctl drain --wait` on a gateway with the packet program: it ends when the connections have,
and not before."""

import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lbctl.lab import Lab, eventually
from lbctl.lab.lab import Process
from tests.lab.daemons import answering, states

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

VIP = "192.0.2.10"
CLIENTS = 32  # connections at a time, so that each server has some
# Holds connections, asking of each once a second or so; the first word of each answer is kept.
HOLD = f"""\
import signal, socket, sys, threading
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
held = [socket.create_connection(("{VIP}", 80)) for _ in range({CLIENTS})]
while True:
    for one in held:
        one.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        assert one.recv(65536), "closed"
    print("asked", flush=True)
    threading.Event().wait(0.5)
"""


def config(scheduler: str) -> str:
    return f"""\
apiVersion: lbctl/v1
gateway: {{front: front, back: back, datapath: xdp}}
services:
  web:
    listen: {VIP}:80/tcp
    scheduler: {scheduler}
    drain: {{timeout: 2m, quiet: 10s}}
    check: none
    servers: {{app1: '198.51.100.11:80', app2: '198.51.100.12:80'}}
"""


@contextmanager
def running(lab: Lab, scheduler: str) -> Iterator[None]:
    lab.gateway.config(config(scheduler))
    daemon = answering(lab.gateway)
    try:
        yield
    finally:
        daemon.kill(signal.SIGTERM)
        assert daemon.wait() == 0


@contextmanager
def holding(lab: Lab) -> Iterator[Process]:
    client = lab.client.start([sys.executable, "-c", HOLD], log="hold.log")
    try:
        eventually(lambda: "asked" in client.output(), timeout=20)
        yield client
    finally:
        client.kill(signal.SIGTERM)
        client.wait(10)


@pytest.mark.parametrize(
    ("scheduler", "asks", "told", "ended"),
    [
        ("rr", 6, "connections remain", "no connection"),
        ("mh", 26, "(an estimate)", "no packet of an old connection came for drain.quiet"),
    ],
)
def test_a_drain_is_waited_for(lab: Lab, scheduler: str, asks: int, told: str, ended: str) -> None:
    with running(lab, scheduler):
        with ThreadPoolExecutor(1) as pool:
            with holding(lab) as client:
                words = "drain", "web/app1", "--wait", "--timeout", "100"
                drain = pool.submit(lab.gateway.lbctl, *words, check=False, timeout=110)
                asked = client.output().count("asked")
                eventually(lambda: states(lab.gateway)["app1"] == "draining", timeout=60)
                # As long as somebody asks, even beyond `quiet`.
                eventually(lambda: client.output().count("asked") > asked + asks, timeout=60)
                assert not drain.done()
                assert "closed" not in client.output()
            done = drain.result(90)
        assert done.returncode == 0, done.stderr
        assert told in done.stderr
        assert ended in done.stderr
        lab.gateway.lbctl("ready", "web/app1")
