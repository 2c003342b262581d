"""The daemon on IPVS, beside the real ipvsadm: a whole process, as a person meets it."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from lbctl.lab.waiting import eventually

# Every verb takes seconds there, and healing takes up to a minute.
pytestmark = [pytest.mark.ipvs, pytest.mark.long]

A_PASS = 15.0  # seconds, there
SLOW = 150.0  # seconds; Python is twenty times slower in the virtual machine
FILE = """
apiVersion: lbctl/v1
gateway: {front: lo, datapath: ipvs}
defaults: {check: none, vip: external}
services:
  web:
    listen: 192.0.2.10:80/tcp
    scheduler: wlc
    servers: {app1: 198.51.100.1, app2: {address: 198.51.100.2, weight: 5}}
"""


class Daemon:
    def __init__(self, directory, text=FILE):
        self.directory = directory
        self.options = ["--socket", str(directory / "socket")]
        (directory / "lbctl.yaml").write_text(text)

    def start(self):
        paths = [("config", "lbctl.yaml"), ("state", "state"), ("pins", "pins")]
        words = [word for key, name in paths for word in (f"--{key}", str(self.directory / name))]
        command = [sys.executable, "-m", "lbctl.cli.main", *self.options, "daemon", *words]
        self.log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        eventually(self.answers, SLOW)

    def answers(self):
        assert self.run("get", "status").returncode == 0, (self.directory / "log").read_text()
        return True

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(SLOW)
        self.log.close()

    def run(self, *words):
        command = [sys.executable, "-m", "lbctl.cli.main", *self.options, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def lines(self, *words):
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def status(self):
        return json.loads("\n".join(self.lines("get", "status", "-j")))


def real(*arguments):
    done = subprocess.run(["ipvsadm", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def daemon(own_namespace, tmp_path):
    daemon = Daemon(tmp_path)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()
        daemon.log.close()


def test_a_day_with_ipvs(daemon):
    """Apply, look, change, be killed, come back, heal: in one process's life and the next."""
    server = "-a -t 192.0.2.10:80 -r 198.51.100.2:80 -m -w"
    assert f"{server} 5" in real("-Sn")
    assert daemon.lines("ipvsadm", "-Ln") == real("-Ln")

    # A change in ipvsadm's words is an override, and in the kernel when the verb returns.
    words = "-e -t 192.0.2.10:80 -r 198.51.100.2:80 -m -w 7"
    daemon.lines("ipvsadm", *words.split())
    assert f"{server} 7" in real("-Sn")
    assert "lbctl ipvsadm" in "\n".join(daemon.lines("get", "overrides"))

    # Killed, it leaves the kernel's table; started again, it writes nothing.
    real("-A", "-t", "192.0.2.99:80", "-s", "rr")
    before = real("-Sn")
    daemon.end(signal.SIGKILL)
    assert real("-Sn") == before
    daemon.start()
    status = daemon.status()
    assert set(status["writes"].values()) == {0}
    assert status["datapath"]["foreign"] == ["192.0.2.99:80/tcp"]
    switches = {one["name"]: one for one in status["datapath"]["switches"]}
    assert switches["net.ipv4.vs.expire_nodest_conn"]["found"] == 1
    assert switches["net.ipv4.vs.expire_nodest_conn"]["reason"]

    # Another tool changes what is ours: healed within a minute, and told.
    deleted = time.time()
    real("-d", "-t", "192.0.2.10:80", "-r", "198.51.100.1:80")
    assert real("-Sn") != before
    eventually(lambda: real("-Sn") == before, 60 + SLOW)
    told = json.loads("\n".join(daemon.lines("get", "events", "-j")))
    (drift,) = [one for one in told if "add 198.51.100.1:80" in one["text"] and one["at"] > deleted]
    assert drift["at"] - deleted < 60 + A_PASS


def test_ipvsadms_verbs_reach_the_kernel(daemon):
    """Each as a person types it; the real ipvsadm says what is there then."""
    web = "-t 192.0.2.20:80"

    def verb(words):
        daemon.lines("ipvsadm", *words.split())

    verb(f"-A {web} -s mh -b mh-port")
    # A hash that falls back, said or not: a server that drains would refuse its share.
    assert f"-A {web} -s mh -b mh-fallback,mh-port" in real("-Sn")
    verb(f"-a {web} -r 198.51.100.7:80 -m -w 3")
    verb(f"-a {web} -r 198.51.100.8:80 -m")
    assert f"-a {web} -r 198.51.100.7:80 -m -w 3" in real("-Sn")
    assert daemon.lines("ipvsadm", "-Sn") == real("-Sn")
    assert daemon.run("diff").returncode == 0
    verb(f"-d {web} -r 198.51.100.8:80")
    assert f"-a {web} -r 198.51.100.8:80 -m -w 0" in real("-Sn")
    verb(f"-E {web} -s wlc -p 600")
    assert f"-A {web} -s wlc -p 600" in real("-Sn")
    verb(f"-D {web}")
    assert "192.0.2.20" not in "\n".join(real("-Sn"))

    verb("--set 700 0 0")
    assert real("-L", "--timeout")[0].startswith("Timeout (tcp tcpfin udp): 700 ")
    verb("--start-daemon master --mcast-interface lo --syncid 7")
    assert "master sync daemon (mcast=lo, syncid=7" in real("-L", "--daemon")[0]
    verb("--stop-daemon master")
    assert real("-L", "--daemon") == []

    for address in ("192.0.2.10", "198.51.100.1", "198.51.100.2"):
        subprocess.run(["ip", "addr", "add", address, "dev", "lo"], check=True)
    with socket.socket() as one:
        one.settimeout(2)
        one.connect_ex(("192.0.2.10", 80))  # it is refused, and it counts

    def counted():
        (line,) = [line for line in real("-Ln", "--stats") if line.startswith("TCP")]
        return int(line.split()[2])

    eventually(lambda: counted() > 0, SLOW)
    verb("-Z -t 192.0.2.10:80")
    assert counted() == 0

    real("-A", "-t", "192.0.2.99:80", "-s", "rr")
    verb("-C --yes")
    assert real("-Sn") == ["-A -t 192.0.2.99:80 -s rr"]  # another tool's
