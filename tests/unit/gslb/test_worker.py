"""A worker between a board and a socket, in this process."""

import shutil
import socket
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from lbctl.gslb.board import Board
from lbctl.gslb.datagrams import Datagrams
from lbctl.gslb.native import build
from lbctl.gslb.policy import Standing, Weather
from lbctl.gslb.worker import PART, Report, Settings, Worker
from tests.unit.gslb.scene import SEOUL4, TOKYO4, Server, ecs, opt, query
from tests.unit.gslb.test_native import OPEN, SECRET
from tests.unit.gslb.test_responder import addresses, judge

KT = opt(ecs("198.18.9.0/24"))
SEOUL_DOWN = Weather({("seoul", ""): Standing(up=False, why="test")})


class Stand:
    """A worker, its board, its socket, and where it reports to."""

    def __init__(self, directory, library: str) -> None:
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

    def counted(self) -> Counter[tuple[str, str]]:
        """All that was reported so far."""
        found: Counter[tuple[str, str]] = Counter()
        self.reports.setblocking(False)
        data = b""
        try:
            while chunk := self.reports.recv(1 << 20):
                data += chunk
        except BlockingIOError:
            pass
        while data:
            length = int.from_bytes(data[:4], "big")
            report = msgspec.msgpack.decode(data[4 : 4 + length], type=Report)
            data = data[4 + length :]
            assert len(report.answers) <= PART + 2
            for label, reason, count in report.answers:
                found[label, reason] += count
        return found


@pytest.fixture(params=["python", "native"])
def stand(request, tmp_path) -> Iterator[Stand]:
    library = ""
    if request.param == "native":
        if shutil.which("cc") is None:
            pytest.skip("no cc: apt-get install gcc")
        library = str(build(tmp_path))
    made = Stand(tmp_path, library)
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


def test_counts_reach_the_parent_in_small_parts(stand: Stand) -> None:
    for number in range(300):
        stand.client.send(query("geo.gslb.example", 1, KT, id=number))
        stand.client.send(query(f"n{number}.apps.gslb.example", 1, KT))
        stand.worker._serve(stand.group)
    for _ in range(8):
        stand.worker.report()
    found = stand.counted()
    assert sum(found.values()) == 600
    assert found["geo.gslb.example.\tseoul", "asn"] + found[
        "geo.gslb.example.\tseoul", "country"
    ] == 300  # fmt: skip
