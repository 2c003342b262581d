"""The probe worker among real listeners, good and bad."""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from listeners import (
    PATIENCE,
    QUICK,
    Connection,
    Server,
    Worker,
    descriptors,
    drips,
    hangs,
    pours,
    resets,
    says,
)

from lbctl.health.judge import Health
from lbctl.health.probes.command import account
from lbctl.messages import Assign, Job, ProbeNow, Role, RoleChange
from lbctl.model import HttpProbe, TcpProbe, Timing
from tests.ports import free_port

ROOT = os.geteuid() == 0
Serve = Callable[..., Server]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def test_one_accepted_connection_makes_a_server_up(worker: Worker, serve: Serve) -> None:
    worker.check(TcpProbe(), serve().endpoint)
    verdict = worker.verdict()
    assert verdict.health is Health.UP
    assert verdict.evidence.startswith("1 of 1 probe: connected in ")


def test_three_refusals_make_it_down(worker: Worker, refusing: str) -> None:
    worker.check(TcpProbe(), refusing)
    verdict = worker.verdict()
    assert verdict.health is Health.DOWN
    assert verdict.evidence == "3 of 3 probes: connection refused"


def test_a_server_that_stops_and_comes_back_is_seen_both_times(worker: Worker) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        worker.check(TcpProbe(), f"127.0.0.1:{port}")
        assert worker.verdict().health is Health.UP
    assert worker.verdict().evidence == "3 of 3 probes: connection refused"
    with socket.create_server(("127.0.0.1", port)):
        verdict = worker.verdict()
    assert verdict.health is Health.UP
    assert verdict.evidence.startswith("2 of 2 probes: connected in ")


def test_a_full_backlog_times_out_while_connecting(worker: Worker, serve: Serve) -> None:
    full = serve(backlog=0)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.address)
        worker.check(TcpProbe(), full.endpoint)
        assert worker.verdict().evidence == "3 of 3 probes: timed out after 0.3 s (connecting)"


def test_the_application_is_not_woken_by_a_tcp_check(worker: Worker, serve: Serve) -> None:
    server = serve(hangs)
    worker.check(TcpProbe(), server.endpoint)
    assert worker.pulse().probes > 3
    assert server.accepted == 0


BLANKS = b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (70 << 10)
ENDLESS_SEARCHES = [
    ("(a+)+$", b"HTTP/1.1 200 OK\r\nContent-Length: 4001\r\n\r\n" + b"a" * 4000 + b"b"),
    (r"\s+ok", BLANKS),
    (r"\s*\s*ok", BLANKS),
]


@pytest.mark.parametrize(
    ("pattern", "answer"), ENDLESS_SEARCHES, ids=[case[0] for case in ENDLESS_SEARCHES]
)
def test_an_answer_that_takes_for_ever_to_search_holds_no_other_check_up(
    worker: Worker, serve: Serve, pattern: str, answer: bytes
) -> None:
    worker.check(HttpProbe(body=pattern), serve(says(answer)).endpoint)
    verdict = worker.verdict()
    assert verdict.health is Health.DOWN
    assert "match" in verdict.evidence  # `body does not match`, or that it takes too long
    worker.check(TcpProbe(), serve().endpoint, id=2)
    assert worker.verdict(2).health is Health.UP


ANSWERS: list[tuple[str, Connection, HttpProbe, Health, str]] = [
    ("200", says(OK), HttpProbe(), Health.UP, "1 of 1 probe: 200 in "),
    ("204", says(b"HTTP/1.1 204\r\n\r\n"), HttpProbe(), Health.UP, "1 of 1 probe: 204 in "),
    ("body", says(OK), HttpProbe(body="^hel+o$"), Health.UP, "1 of 1 probe: 200 in "),
    ("503", says(b"HTTP/1.1 503 Busy\r\n\r\n"), HttpProbe(), Health.DOWN, "answered 503"),
    ("other body", says(OK), HttpProbe(body="bye"), Health.DOWN, "body does not match"),
    ("reset", resets, HttpProbe(), Health.DOWN, "reset by peer"),
    ("mute", says(b""), HttpProbe(), Health.DOWN, "closed without an answer"),
    (
        "cut",
        says(OK[:-2]),
        HttpProbe(body="h"),
        Health.DOWN,
        "closed after 3 of 5 bytes of the body",
    ),
    (
        "garbage",
        says(b"SSH-2.0-x\r\n"),
        HttpProbe(),
        Health.DOWN,
        "not an HTTP answer: b'SSH-2.0-x",
    ),
    ("hang", hangs, HttpProbe(), Health.DOWN, "timed out after 0.3 s (waiting for an answer)"),
    ("drip", drips, HttpProbe(), Health.DOWN, "timed out after 0.3 s (reading the answer)"),
    ("endless body", pours, HttpProbe(body="y"), Health.DOWN, "body does not match"),
    ("endless body, status wanted", pours, HttpProbe(), Health.UP, "1 of 1 probe: 200 in "),
]


@pytest.mark.parametrize(
    ("answer", "probe", "health", "evidence"),
    [case[1:] for case in ANSWERS],
    ids=[case[0] for case in ANSWERS],
)
def test_http_answers(
    worker: Worker,
    serve: Serve,
    answer: Connection,
    probe: HttpProbe,
    health: Health,
    evidence: str,
) -> None:
    worker.check(probe, serve(answer).endpoint)
    verdict = worker.verdict()
    assert verdict.health is health
    assert evidence in verdict.evidence


def test_the_request_is_what_the_check_says(worker: Worker, serve: Serve) -> None:
    requests = []

    def keep(connection: socket.socket, stopped: object) -> None:
        requests.append(connection.recv(4096))
        connection.sendall(OK)

    server = serve(keep)
    probe = HttpProbe(path="/up?x=1", host="web.example", method="OPTIONS", headers=(("X-A", "b"),))
    worker.check(probe, server.endpoint)
    assert worker.verdict().health is Health.UP
    head = requests[0].decode().split("\r\n")
    assert head[0] == "OPTIONS /up?x=1 HTTP/1.1"
    assert {"Host: web.example", "Connection: close", "X-A: b"} <= set(head)


def test_a_check_that_cannot_be_made_says_so_and_judges_nobody(
    worker: Worker, serve: Serve
) -> None:
    endpoint = serve(says(OK)).endpoint
    good = Job(2, HttpProbe(), endpoint, QUICK)
    worker.tell(Assign((Job(1, HttpProbe(path="/a b"), endpoint, QUICK, Health.UP), good)))
    verdict = worker.verdict(1)
    assert verdict.health is Health.UP
    assert verdict.evidence.startswith("could not probe: path '/a b' has a space")
    assert worker.ask(2).health is Health.UP
    assert worker.pulse().unable > 0


def test_asking_brings_an_answer_although_nothing_changed(worker: Worker, serve: Serve) -> None:
    worker.check(TcpProbe(), serve().endpoint, Timing(interval=3600))
    assert worker.ask().health is Health.UP
    verdict = worker.ask()
    assert verdict.asked
    assert verdict.evidence.startswith("connected in ")


def test_asking_for_what_nobody_holds_has_an_answer_too(worker: Worker) -> None:
    assert worker.ask(7).evidence == "no such check in this worker"


def test_cancelling_a_running_check_ends_its_connection(worker: Worker, serve: Serve) -> None:
    server = serve(hangs)
    slow = Timing(interval=0.1, timeout=3600)
    worker.pulse()
    before = descriptors(worker.process)
    worker.check(HttpProbe(), server.endpoint, slow)
    worker.tell(ProbeNow(1))
    worker.wait(lambda m: m if server.accepted else None)
    assert descriptors(worker.process) == before + 1
    worker.tell(Assign(cancel=(1,)))
    assert worker.ask().evidence == "no such check in this worker"
    assert descriptors(worker.process) == before
    assert worker.wait(lambda m: m if getattr(m, "jobs", 1) == 0 else None)


def test_a_whole_assignment_drops_the_rest(worker: Worker, serve: Serve) -> None:
    endpoint = serve().endpoint
    jobs = [Job(id, TcpProbe(), endpoint, QUICK) for id in (1, 2, 3)]
    worker.tell(Assign(tuple(jobs)))
    worker.verdict(3)
    worker.tell(Assign((jobs[1],), whole=True))
    assert worker.ask(3).evidence == "no such check in this worker"
    assert worker.ask(2).health is Health.UP


def test_a_stopped_worker_blames_nobody_when_it_goes_on(worker: Worker, serve: Serve) -> None:
    """Its deadlines passed while it could not look; the answers were there."""

    def takes_its_time(connection: socket.socket, stopped: threading.Event) -> None:
        connection.recv(4096)
        stopped.wait(0.2)
        connection.sendall(OK)

    strict = Timing(interval=0.05, timeout=2.0, fall=1)
    worker.check(HttpProbe(), serve(takes_its_time).endpoint, strict)
    assert worker.verdict().health is Health.UP
    for _ in range(2):
        os.kill(worker.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED)
        worker.listen(strict.timeout * 1.2)
        os.kill(worker.process.pid, signal.SIGCONT)
        worker.tell(ProbeNow(1))
        # Not only what was asked: a word on a change would come first.
        assert worker.verdict().evidence.startswith("200 in ")


def test_it_ends_when_the_daemon_does(worker: Worker, serve: Serve) -> None:
    worker.check(HttpProbe(), serve(hangs).endpoint)
    assert worker.end() == (0, "")


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (b"\x00\x00\x00\x02{]", "garbage from the daemon: "),
        (b"GET / HTTP/1.1\r\n", "garbage from the daemon: a message of 1195725856 bytes"),
    ],
)
def test_garbage_ends_it_with_a_word(worker: Worker, garbage: bytes, said: str) -> None:
    worker.line.sendall(garbage)
    _, stderr = worker.process.communicate(timeout=PATIENCE)
    assert worker.process.returncode == 1
    assert said in stderr
    assert "Traceback" not in stderr


def test_a_message_for_another_process_is_garbage(worker: Worker) -> None:
    worker.tell(RoleChange("r1", Role.ACTIVE, "", 0.0))
    _, stderr = worker.process.communicate(timeout=PATIENCE)
    assert worker.process.returncode == 1
    assert "RoleChange is no message for a probe worker" in stderr


def test_it_refuses_to_run_by_hand() -> None:
    command = [sys.executable, "-m", "lbctl.health.worker"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "lbctl probe: started by the daemon; stdin is not its socket\n"


def test_it_keeps_no_privilege_but_raw_sockets(worker: Worker) -> None:
    worker.pulse()
    with open(f"/proc/{worker.process.pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    net_raw = 1 << 13
    assert status["Name"] == "lbctl-probe"
    assert status["NoNewPrivs"] == "1"
    if ROOT:
        nobody = pwd.getpwnam(account())
        assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
        assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
        assert status["Groups"].strip() == ""
        assert int(status["CapEff"], 16) == net_raw
    for held in ("CapPrm", "CapEff", "CapAmb", "CapInh"):
        assert int(status[held], 16) & ~net_raw == 0
    if os.geteuid() == 0:
        assert int(status["CapBnd"], 16) & ~net_raw == 0


@pytest.mark.skipif(not ROOT, reason="not root: `sudo make test`")
def test_where_nobody_could_not_read_its_code_it_stays_and_says_why(tmp_path: Path) -> None:
    """What it has not loaded yet lies in somebody's home, say."""
    secret = tmp_path / "later.py"
    secret.touch(mode=0o600)
    program = (
        "import os, sys; from lbctl.health.privileges import drop_to\n"
        "print(drop_to('nobody', sys.argv[1:]), os.geteuid(), sep='|')\n"
        "print(open('/proc/self/status').read())"
    )
    command = [sys.executable, "-c", program, str(secret)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *status = done.stdout.splitlines()
    assert first == f"nobody may not read {secret}|0"
    assert f"CapEff:\t{1 << 13:016x}" in status
