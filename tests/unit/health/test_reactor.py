"""The worker's loop, with real sockets and a clock of ours."""

import select
import socket
from collections.abc import Iterator

import pytest

from lbctl.health.reactor import Conversation, Reactor, news
from lbctl.health.result import Failed, Result


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A reactor on our clock, one end of a line for the probe, the other for us."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = Reactor(self.clock)
        self.ours, self.theirs = socket.socketpair()
        self.theirs.setblocking(False)
        self.results: list[Result] = []

    def start(self, conversation: Conversation, timeout: float = 1.0):
        return self.reactor.start(conversation, timeout, self.results.append)

    def turn(self) -> None:
        self.reactor.turn(self.clock.now)

    def close(self) -> None:
        self.reactor.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.close()


async def listens(sock: socket.socket, words: int = 1) -> str:
    """Hears so many single bytes, one after the other."""
    said = ""
    with sock:
        while len(said) < words:
            try:
                said += sock.recv(1).decode()
            except BlockingIOError:
                await news(sock, f"word {len(said) + 1}")
    return said


def test_a_conversation_runs_to_its_end(bench: Bench) -> None:
    bench.start(listens(bench.theirs, words=2))
    bench.ours.send(b"a")
    bench.turn()
    assert bench.results == []
    bench.clock.now += 0.25
    bench.ours.send(b"b")
    bench.turn()
    assert bench.results == [Result(True, "ab", 0.25)]
    assert len(bench.reactor) == 0


def test_one_that_needs_no_waiting_is_over_when_it_starts(bench: Bench) -> None:
    bench.ours.send(b"a")
    run = bench.start(listens(bench.theirs))
    assert not run.under_way
    assert bench.results == [Result(True, "a", 0.0)]


def test_a_deadline_ends_it_and_tells_what_it_waited_for(bench: Bench) -> None:
    bench.start(listens(bench.theirs))
    bench.clock.now += 0.99
    bench.turn()
    assert bench.results == []
    bench.clock.now += 0.02
    bench.turn()
    assert bench.results == [Result(False, "timed out after 1 s (word 1)", 1.0)]
    assert bench.theirs.fileno() == -1  # closed by its own `with`


def test_an_answer_that_lay_ready_is_not_late(bench: Bench) -> None:
    bench.start(listens(bench.theirs))
    bench.ours.send(b"a")
    bench.clock.now += 60
    bench.turn()
    assert [result.passed for result in bench.results] == [True]


def test_time_that_the_worker_lost_counts_against_nobody(bench: Bench) -> None:
    """Stopped for a minute in the middle of a turn: both words still get their second."""
    bell, rope = socket.socketpair()
    with bell, rope:

        def lose_a_minute(mask: int) -> None:
            bell.recv(1)
            bench.clock.now += 60

        bench.reactor.watch(bell.fileno(), lose_a_minute, select.EPOLLIN)
        bench.start(listens(bench.theirs, words=2))
        rope.send(b"!")
        bench.ours.send(b"a")
        bench.turn()
        bench.clock.now += 0.9
        bench.turn()
        assert bench.results == []
        bench.clock.now += 0.2
        bench.turn()
        assert [result.detail for result in bench.results] == ["timed out after 1 s (word 2)"]


def test_so_does_time_that_it_lost_between_two_turns(bench: Bench) -> None:
    """Stopped before it could hear the first word and say the second."""
    bench.start(listens(bench.theirs, words=2))
    bench.ours.send(b"a")
    bench.clock.now += 60
    bench.reactor.excuse(60)
    bench.turn()
    assert bench.results == []
    bench.ours.send(b"b")
    bench.turn()
    assert [result.passed for result in bench.results] == [True]


def test_a_stopped_run_has_no_result_and_closes_its_socket(bench: Bench) -> None:
    run = bench.start(listens(bench.theirs))
    bench.reactor.stop(run)
    bench.clock.now += 5
    bench.turn()
    assert bench.results == []
    assert bench.theirs.fileno() == -1


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (Failed("answered 503"), Result(False, "answered 503", 0.0)),
        (ConnectionRefusedError(111, ""), Result(False, "connection refused", 0.0)),
        (KeyError("bug"), Result(None, "KeyError: 'bug'", 0.0)),
    ],
)
def test_errors_become_results(bench: Bench, error: Exception, result: Result) -> None:
    async def fails() -> str:
        await news(bench.theirs, "trouble")
        raise error

    bench.start(fails())
    bench.ours.send(b"a")
    bench.turn()
    assert bench.results == [result]


def test_it_sleeps_no_longer_than_the_next_deadline(bench: Bench) -> None:
    """With the real clock, as the kernel does the waiting."""
    reactor = Reactor()
    reactor.start(listens(bench.theirs), 0.02, bench.results.append)
    while not bench.results:
        reactor.turn(until=float("inf"))
    reactor.close()
    assert bench.results[0].detail.startswith("timed out")


def test_deadlines_come_in_order_whatever_the_order_of_starting(bench: Bench) -> None:
    other, far = socket.socketpair()
    far.setblocking(False)
    with other:
        bench.start(listens(bench.theirs), timeout=2.0)
        bench.start(listens(far), timeout=1.0)
        bench.clock.now += 1.5
        bench.turn()
        assert [result.took for result in bench.results] == [1.0]
        assert len(bench.reactor) == 1
