"""Real nginx that goes wrong in its several ways: each found in time, each called by name."""

import datetime
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from listeners import PATIENCE, Worker

from lbctl.health.judge import Health
from lbctl.lab.waiting import eventually
from lbctl.model import AnyProbe, HttpProbe, Timing, Tls
from tests.ports import free_port

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None, reason="no nginx: `make test` installs it"
)
TIMING = Timing(interval=0.5, timeout=0.4, fall=3, rise=2, jitter=0.0, fast_interval=0.5)
BOUND = TIMING.fall * TIMING.interval + TIMING.timeout
SLACK = 5.0  # of a machine that has more to do
NAME = "web.example"
CONFIG = """\
daemon off; master_process off; error_log error.log; pid nginx.pid;
events {{ }}
http {{
    access_log off; reset_timedout_connection on;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
    uwsgi_temp_path t4; scgi_temp_path t5;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate cert.pem; ssl_certificate_key cert.pem;
        location / {{ {does} }}
    }}
}}
"""


class Nginx:
    def __init__(self, where: Path) -> None:
        self.where, self.ca = where, trustme.CA()
        self.http, self.https = free_port(), free_port()
        self.ca.cert_pem.write_to_path(str(where / "ca.pem"))
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, does: str = 'return 200 "well";', days: int = 30) -> None:
        """In place of the one that runs, which goes when all is ready for it."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        since = until - datetime.timedelta(days=400)
        cert = self.ca.issue_cert(NAME, not_before=since, not_after=until)
        cert.private_key_and_cert_chain_pem.write_to_path(str(self.where / "cert.pem"))
        text = CONFIG.format(http=self.http, https=self.https, does=does)
        (self.where / "nginx.conf").write_text(text)
        command = ["nginx", "-p", str(self.where), "-c", "nginx.conf", "-e", "error.log"]
        self.end()
        self.process = subprocess.Popen(command)
        eventually(self.listens)

    def listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.https)) == 0

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE)

    @property
    def tls(self) -> Tls:
        return Tls(NAME, str(self.where / "ca.pem"))


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    one = Nginx(tmp_path)
    one.run()
    yield one
    one.end()


WAYS = [
    ("503", lambda nginx: nginx.run("return 503;"), False, "answered 503"),
    ("hangs", Nginx.stop, False, "timed out after 0.4 s (waiting for an answer)"),
    ("resets", lambda nginx: nginx.run("return 444;"), False, "reset by peer"),
    ("is gone", Nginx.end, False, "connection refused"),
    (
        "expired",
        lambda nginx: nginx.run(days=-1),
        True,
        "certificate: certificate has expired",
    ),
]


@pytest.mark.parametrize(
    ("breaks", "secure", "says"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS]
)
def test_each_way_is_found_in_time_and_by_name(
    worker: Worker, nginx: Nginx, breaks, secure: bool, says: str
) -> None:
    probe: AnyProbe = HttpProbe(tls=nginx.tls if secure else None)
    port = nginx.https if secure else nginx.http
    worker.check(probe, f"127.0.0.1:{port}", TIMING)
    assert worker.verdict().health is Health.UP
    breaks(nginx)
    began = time.monotonic()
    verdict = worker.verdict()
    assert verdict.health is Health.DOWN
    assert verdict.evidence == f"3 of 3 probes: {says}"
    assert time.monotonic() - began < BOUND + SLACK
    nginx.run()
    assert worker.verdict().health is Health.UP
