"""What the packets say: a server that refuses a client is checked at once, long before its next
turn; and it is the check that decides."""

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lbctl.lab import Lab, eventually, standard
from lbctl.lab.load import Pace, send

pytestmark = pytest.mark.lab
INTERVAL, PATIENCE = 60.0, 40.0
# At 81 nobody listens: the servers of `closed` refuse each client, and pass their check.
CONFIG = f"""
apiVersion: lbctl/v1
gateway: {{front: front, back: back, datapath: xdp}}
defaults:
  scheduler: rr
  check: {{type: tcp, port: 80, interval: {INTERVAL:.0f}s, fast_interval: {INTERVAL:.0f}s, fall: 1}}
services:
  web: {{listen: 192.0.2.10:80/tcp, servers: {{app1: 198.51.100.11:80, app2: 198.51.100.12:80}}}}
  closed: {{listen: 192.0.2.11:80/tcp, servers: {{app2: 198.51.100.12:81}}}}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(standard(2)) as made:
        made.gateway.config(CONFIG)
        made.gateway.daemon()
        eventually(lambda: len(servers(made)) == 3, PATIENCE)
        for one in servers(made):  # whose turns come in the course of a minute
            made.gateway.lbctl("check", one["name"])
        eventually(lambda: {one["health"] for one in servers(made)} == {"up"}, PATIENCE)
        yield made


def servers(lab: Lab) -> list[dict[str, Any]]:
    done = lab.gateway.lbctl("get", "servers", "-j", check=False)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_server_that_refuses_is_checked_at_once_and_the_check_decides(lab: Lab) -> None:
    began = time.monotonic()
    assert lab.servers[0].web.pid is not None
    os.kill(lab.servers[0].web.pid, signal.SIGTERM)

    def is_found() -> bool:
        for vip in ("192.0.2.10", "192.0.2.11"):
            send(lab.client, f"http://{vip}:80/", Pace(total=4, per_connection=1))
        found = {one["name"]: one for one in servers(lab)}
        assert found["web/app1"]["health"] == "down", found
        assert "connection refused" in found["web/app1"]["evidence"]
        assert found["web/app2"]["health"] == found["closed/app2"]["health"] == "up"
        return True

    eventually(is_found, PATIENCE)
    assert time.monotonic() - began < INTERVAL / 2
