"""Real servers that are killed while clients talk to them: with a check each leaves the table,
and comes back when it is started again."""

import socket
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest

from lbctl.cli.client import Client
from lbctl.errors import LbctlError
from lbctl.lab.waiting import eventually
from lbctl.model import Family, Mode
from tests.vm.test_vm_daemon import Daemon, real
from tests.vm.test_vm_traffic import AF, NETS, PATIENCE, PORT, site

__all__ = ["site"]
pytestmark = [pytest.mark.ipvs, pytest.mark.long]  # a daemon's start takes its time there

FILE = """
apiVersion: lbctl/v1
gateway: {front: c, back: back, datapath: ipvs}
defaults:
  scheduler: rr
  vip: external
  check: {type: tcp, interval: 1s, timeout: 900ms, fall: 2, rise: 1}
services:
  four: {listen: '192.0.2.10:80/tcp', servers: {s1: 198.51.100.1, s2: 198.51.100.2}}
  six: {listen: '[2001:db8::10]:80/tcp', servers: {s1: '2001:db8:5::1', s2: '2001:db8:5::2'}}
"""
SERVE = """
import socket, sys
held = []
with socket.create_server(("", 80), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    while True:
        held = [*held[-100:], listener.accept()[0]]
        try:
            held[-1].sendall(sys.argv[1].encode())
        except OSError:
            pass  # a check, which is gone already
"""


def serving(site, number):
    """A real server, as a process of its own."""
    with site.servers[number - 1].inside():
        return subprocess.Popen([sys.executable, "-ISc", SERVE, str(number)])


def end(process):
    process.kill()
    process.wait()


def listens(site, number):
    with site.g1.socket(socket.AF_INET, socket.SOCK_STREAM) as near:
        return near.connect_ex((f"198.51.100.{number}", PORT)) == 0


class Watched(Daemon):
    """Asked without a process for each question."""

    def answers(self):
        try:
            return Client(str(self.directory / "socket")).get("status")["worker"]["pid"]
        except LbctlError:
            return False


def connect(site, family):
    """A new connection through the VIP, and the number of the server that answered."""
    near = site.client.socket(AF[family], socket.SOCK_STREAM)
    near.settimeout(PATIENCE)
    near.connect((NETS[family][2], PORT))
    return near, int(near.recv(1))


def who(site, family, count):
    numbers = []
    for _ in range(count):
        near, number = connect(site, family)
        near.close()
        numbers.append(number)
    return numbers


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def servers(site, stack):
    """Their processes, once they listen."""
    found = [serving(site, number) for number in (1, 2)]
    for number, process in enumerate(found, 1):
        stack.callback(end, process)
        eventually(lambda number=number: listens(site, number), 60)
    return found


@pytest.fixture
def daemon(site, servers, tmp_path, stack):
    daemon = Watched(tmp_path, FILE)
    for family in Family:
        site.prepare(Mode.NAT, family)
        stack.callback(site.undo, Mode.NAT, family)
    with site.g1.inside():
        daemon.start()
        stack.callback(daemon.log.close)
        stack.callback(end, daemon.process)
        yield daemon


def in_table(number):
    return sum(f".{number}:80 " in line or f"::{number}]:80 " in line for line in real("-Sn"))


def test_a_killed_server_leaves_the_table_and_comes_back(site, servers, daemon, stack):
    eventually(lambda: (in_table(1), in_table(2)) == (2, 2), 60)
    for family in Family:
        assert sorted(who(site, family, 4)) == [1, 1, 2, 2]
    talking = [connect(site, family) for family in Family for _ in range(2)]

    end(servers[0])
    eventually(lambda: (in_table(1), in_table(2)) == (0, 2), 60)
    for family in Family:
        assert who(site, family, 4) == [2, 2, 2, 2]
    for near, number in talking:
        if number == 1:  # it is told, and does not hang
            with suppress(ConnectionResetError):
                assert near.recv(1) == b""
        near.close()

    stack.callback(end, serving(site, 1))
    eventually(lambda: (in_table(1), in_table(2)) == (2, 2), 60)
    for family in Family:
        assert sorted(who(site, family, 4)) == [1, 1, 2, 2]
