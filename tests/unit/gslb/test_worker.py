"""A worker between a board and a socket, in this process."""

import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from lbctl.gslb.board import Board
from lbctl.gslb.crew import Tally
from lbctl.gslb.datagrams import Datagrams
from lbctl.gslb.native import build
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.worker import ACCOUNTS, Report, Settings, Worker
from lbctl.health.privileges import first_account
from tests.unit.gslb.scene import SEOUL4, TOKYO4, Server, ecs, opt, query
from tests.unit.gslb.test_native import OPEN, SECRET
from tests.unit.gslb.test_responder import addresses, judge

KT = opt(ecs("198.18.9.0/24"))
SEOUL_DOWN = Weather({("seoul", ""): Standing(up=False, why="test")})


class Stand:
    """A worker, its board, its socket, and where it reports to."""

    def __init__(self, directory, library: str) -> None:
        self.library = library
        self.server = Server()
        self.board = Board(directory)
        self.board.put(
            {
                "names": self.server._names,
                "networks": self.server._maps,
                "answers": self.server.compiler.answers(Weather()),
            }
        )
        self.reports, theirs = socket.socketpair()
        self.worker = Worker(directory, Settings(OPEN, (SECRET,), library=library), theirs)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2.0)
        sock.setblocking(True)
        self.group = Datagrams(sock)
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.connect(sock.getsockname())
        self.client.settimeout(2.0)
        self.worker.tick()

    def close(self) -> None:
        for one in (self.client, self.group.socket, self.reports, self.worker._report_to):
            one.close()

    def counted(self) -> Counter[tuple[str, str, str]]:
        """All that was reported so far, as the parent adds it up."""
        self.reports.setblocking(False)
        data = b""
        while True:
            try:
                data += self.reports.recv(1 << 20)
            except BlockingIOError:
                if not self.worker._waiting:
                    break
                self.worker.report()
        tally = Tally()
        ledger = tally.open()
        while data:
            length = int.from_bytes(data[:4], "big")
            ledger = tally.take(msgspec.msgpack.decode(data[4 : 4 + length], type=Report), ledger)
            data = data[4 + length :]
        return tally.answers


@pytest.fixture(params=["python", "native"])
def stand(request, tmp_path) -> Iterator[Stand]:
    library = ""
    if request.param == "native":
        if shutil.which("cc") is None:
            pytest.skip("no cc: apt-get install gcc")
        library = str(build(tmp_path))
    tmp_path.chmod(0o700)  # a worker need not be let through
    made = Stand(tmp_path / "gslb", library)
    yield made
    made.close()


def test_a_query_that_waited_gets_the_answer_of_now(stand: Stand) -> None:
    stand.client.send(query("geo.gslb.example", 1, KT))
    stand.worker._serve(stand.group)
    assert addresses(judge(stand.client.recv(2048))) == [SEOUL4]
    stand.client.send(query("geo.gslb.example", 1, KT))
    stand.board.put({"answers": stand.server.compiler.answers(SEOUL_DOWN)})
    stand.worker._serve(stand.group)
    assert addresses(judge(stand.client.recv(2048))) == [TOKYO4]


def test_counts_reach_the_parent_under_their_names(stand: Stand) -> None:
    for number in range(300):
        stand.client.send(query("geo.gslb.example", 1, KT, id=number))
        stand.client.send(query(f"n{number}.apps.gslb.example", 1, KT))
        stand.worker._serve(stand.group)
        if number % 100 == 0:
            stand.worker.report()
    stand.worker.report()
    found = stand.counted()
    assert sum(found.values()) == 600
    assert _of(found, "geo.gslb.example.", "seoul") == 300


def test_counts_keep_their_names_when_answers_change(stand: Stand) -> None:
    """The library numbers its counters anew."""
    for down in (False, True, False):
        weather = SEOUL_DOWN if down else Weather()
        stand.board.put({"answers": stand.server.compiler.answers(weather)})
        for _ in range(10):
            stand.client.send(query("geo.gslb.example", 1, KT))
            stand.worker._serve(stand.group)
    stand.worker.report()
    found = stand.counted()
    assert _of(found, "geo.gslb.example.", "seoul") == 20
    assert _of(found, "geo.gslb.example.", "tokyo") == 10


def test_a_parent_that_does_not_read_makes_no_query_wait(stand: Stand) -> None:
    stand.worker._report_to.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for number in range(200):
        down = Weather({("seoul", ""): Standing(up=number % 2 == 0)})
        stand.board.put({"answers": stand.server.compiler.answers(down)})
        stand.client.send(query("geo.gslb.example", 1, KT))
        stand.worker._serve(stand.group)
        stand.worker.report()
        assert stand.client.recv(2048)
    assert stand.worker._waiting
    assert sum(stand.counted().values()) == 200


def _of(found: Counter[tuple[str, str, str]], name: str, site: str) -> int:
    return sum(count for key, count in found.items() if key[:2] == (name, site))


# --- as a process -----------------------------------------------------------------------

START = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "lbctl.gslb.worker", *sys.argv[1:]],
                         pass_fds=[int(one) for one in sys.argv[2:]])
print(child.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def process(tmp_path, stand: Stand) -> Iterator[tuple[int, subprocess.Popen]]:
    """A worker's pid, and its parent; the stand's board, its socket, its reports."""
    settings = Settings(OPEN, (SECRET,), library=stand.library)
    told, tell = os.pipe()
    os.write(tell, msgspec.msgpack.encode(settings))
    os.close(tell)
    passed = [told, stand.worker._report_to.fileno(), stand.group.socket.fileno()]
    parent = subprocess.Popen(
        [sys.executable, "-c", START, str(stand.board.directory), *map(str, passed)],
        pass_fds=passed, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(told)
    with parent:
        pid = int(parent.stdout.readline())
        try:
            yield pid, parent
        finally:
            parent.kill()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: `sudo make test`")
def test_a_worker_is_nobody_and_follows_the_board_all_the_same(process, stand: Stand) -> None:
    pid, parent = process
    stand.client.settimeout(20.0)
    stand.client.send(query("geo.gslb.example", 1, KT))
    assert addresses(judge(stand.client.recv(2048))) == [SEOUL4]
    status = _status(pid)
    nobody = pwd.getpwnam(first_account(ACCOUNTS))
    assert status["Uid"] == [str(nobody.pw_uid)] * 4
    assert status["Gid"] == [str(nobody.pw_gid)] * 4
    assert status["Groups"] == []
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind][0], 16) == 0
    assert status["NoNewPrivs"] == ["1"]
    before = os.umask(0o077)
    stand.board.put({"answers": stand.server.compiler.answers(SEOUL_DOWN)})
    os.umask(before)
    stand.client.send(query("geo.gslb.example", 1, KT))
    assert addresses(judge(stand.client.recv(2048))) == [TOKYO4]
    descriptor = os.pidfd_open(pid)
    parent.kill()  # nothing but the kernel tells the worker
    assert select.select([descriptor], [], [], 20.0)[0]
    os.close(descriptor)
