"""Each probe in a real worker, against real listeners that are well and that are not."""

import contextlib
import datetime
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from listeners import PATIENCE, QUICK, Connection, Server, Worker, hangs, says

from lbctl.health.judge import Health
from lbctl.health.report import Report
from lbctl.messages import Job, Reading
from lbctl.model import (
    AgentProbe,
    DnsProbe,
    ExecProbe,
    GrpcProbe,
    HttpProbe,
    IcmpProbe,
    TcpProbe,
    Timing,
    Tls,
    TlsProbe,
    UdpProbe,
)
from lbctl.spawner import FIRST_USER

Serve = Callable[..., Server]
ROOT = os.geteuid() == 0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
NAME = "web.example"
# A handshake takes some milliseconds of both sides' processor, and machines are busy.
SLOW = Timing(interval=0.2, timeout=2.0, fall=2, rise=1, fast_interval=0.1)


class Authority(NamedTuple):
    ca: trustme.CA
    file: str
    directory: Path

    def issue(self, *names: str, days: float = 30) -> trustme.LeafCert:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        since = until - datetime.timedelta(days=400)
        return self.ca.issue_cert(*names, not_before=since, not_after=until)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    ca, where = trustme.CA(), tmp_path_factory.mktemp("ca")
    ca.cert_pem.write_to_path(str(where / "ca.pem"))
    return Authority(ca, str(where / "ca.pem"), where)


def encrypted(cert: trustme.LeafCert, answer: Connection, ca: trustme.CA | None = None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    if ca is not None:
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED

    def talk(connection: socket.socket, stopped: threading.Event) -> None:
        with (
            contextlib.suppress(ssl.SSLError),
            context.wrap_socket(connection, server_side=True) as secure,
        ):
            answer(secure, stopped)

    return talk


def waits(connection: socket.socket, stopped: threading.Event) -> None:
    connection.recv(1)


def requests(connection: socket.socket, stopped: threading.Event) -> Iterator[bytes]:
    """What comes on a connection that stays open, until either side has enough."""
    connection.settimeout(0.05)
    while not stopped.is_set():
        try:
            data = connection.recv(4096)
        except TimeoutError:
            continue
        if not data:
            return
        yield data


def found(worker: Worker, health: Health) -> str:
    verdict = worker.verdict()
    assert verdict.health is health, verdict.evidence
    return verdict.evidence


def settled(worker: Worker, id: int, health: Health) -> str:
    """What is said of one check among others, once it is so."""
    end = time.monotonic() + PATIENCE
    while (verdict := worker.ask(id)).health is not health:
        assert time.monotonic() < end, verdict.evidence
    return verdict.evidence


# --- TLS ----------------------------------------------------------------------------------


def test_a_good_certificate_says_how_long_it_is_good(
    worker: Worker, serve: Serve, authority: Authority
) -> None:
    server = serve(encrypted(authority.issue(NAME), waits))
    worker.check(TlsProbe(Tls(NAME, authority.file)), server.endpoint, SLOW)
    said = found(worker, Health.UP)
    assert "TLSv1.3, certificate good for 30 days" in said


@pytest.mark.parametrize(
    ("names", "days", "wanted", "evidence"),
    [
        ((NAME,), -1, Tls(NAME), "certificate: certificate has expired"),
        ((NAME,), 10, Tls(NAME, days=14), "certificate expires in 10.0 days (at least 14 wanted)"),
        (("other.example",), 30, Tls(NAME), "certificate: Hostname mismatch"),
        ((NAME,), 30, Tls(), "certificate: IP address mismatch"),
    ],
    ids=["expired", "expires soon", "another name", "no name for the address"],
)
def test_a_bad_certificate_is_evidence(
    worker: Worker, serve: Serve, authority: Authority, names, days, wanted, evidence
) -> None:
    server = serve(encrypted(authority.issue(*names, days=days), waits))
    tls = Tls(wanted.name, authority.file, days=wanted.days)
    worker.check(TlsProbe(tls), server.endpoint, SLOW)
    assert f"2 of 2 probes: {evidence}" in found(worker, Health.DOWN)


def test_an_unknown_authority_is_evidence(
    worker: Worker, serve: Serve, authority: Authority
) -> None:
    server = serve(encrypted(trustme.CA().issue_cert(NAME), waits))
    worker.check(TlsProbe(Tls(NAME, authority.file)), server.endpoint, SLOW)
    assert "unable to get local issuer certificate" in found(worker, Health.DOWN)


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "TLS: wrong version number"),
        (lambda connection, stopped: connection.recv(4096), "closed in the middle"),
        (hangs, "timed out after 2 s (in the TLS handshake)"),
    ],
    ids=["no TLS", "closes", "hangs"],
)
def test_a_failed_handshake_is_evidence(
    worker: Worker, serve: Serve, authority: Authority, answer, evidence
) -> None:
    worker.check(TlsProbe(Tls(NAME, authority.file)), serve(answer).endpoint, SLOW)
    said = found(worker, Health.DOWN)
    assert evidence in said or "reset by peer" in said


def test_https_with_a_certificate_of_our_own(
    worker: Worker, serve: Serve, authority: Authority
) -> None:
    ours = authority.issue("gateway.example")
    pem = str(authority.directory / "ours.pem")
    ours.private_key_and_cert_chain_pem.write_to_path(pem)
    server = serve(encrypted(authority.issue(NAME), says(OK), authority.ca))
    with_it = HttpProbe(tls=Tls(NAME, authority.file, cert=pem), body="hello")
    without = HttpProbe(tls=Tls(NAME, authority.file))
    worker.check(with_it, server.endpoint, SLOW, id=1)
    worker.check(without, server.endpoint, SLOW, id=2)
    settled(worker, 1, Health.UP)
    settled(worker, 2, Health.DOWN)


def test_a_missing_file_judges_nobody(worker: Worker, serve: Serve) -> None:
    probe = TlsProbe(Tls(NAME, "/no/such/ca.pem"))
    worker.check(probe, serve(waits).endpoint, SLOW)
    verdict = worker.verdict()
    assert verdict.health is Health.UNKNOWN
    assert "could not probe: /no/such/ca.pem: No such file" in verdict.evidence


# --- HTTP that stays open -----------------------------------------------------------------


def answers_for_ever(connection: socket.socket, stopped: threading.Event) -> None:
    for _ in requests(connection, stopped):
        connection.sendall(OK)


def answers_twice(connection: socket.socket, stopped: threading.Event) -> None:
    for _ in range(2):
        connection.recv(4096)
        connection.sendall(OK)


def test_a_connection_is_kept(worker: Worker, serve: Serve) -> None:
    server = serve(answers_for_ever)
    worker.check(HttpProbe(keepalive=True), server.endpoint, SLOW)
    for _ in range(5):
        assert worker.ask().health is Health.UP
    assert server.accepted == 1


def test_a_server_that_closes_what_is_idle_is_not_to_blame(worker: Worker, serve: Serve) -> None:
    server = serve(answers_twice)
    worker.check(HttpProbe(keepalive=True), server.endpoint, SLOW)
    for _ in range(6):
        assert worker.ask().evidence.partition(" in ")[0] in ("200", "1 of 1 probe: 200")
    assert server.accepted >= 3


# --- datagrams ----------------------------------------------------------------------------


@pytest.fixture
def datagrams() -> Iterator[Callable[..., str]]:
    """UDP servers: `answer(data)` gives the reply, or None."""
    with contextlib.ExitStack() as stack:

        def start(answer) -> str:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(0.1)
            stopped = threading.Event()

            def serve() -> None:
                while not stopped.is_set():
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        data, sender = sock.recvfrom(4096)
                        if (reply := answer(data)) is not None:
                            sock.sendto(reply, sender)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            stack.callback(stopped.set)
            return f"127.0.0.1:{sock.getsockname()[1]}"

        yield start


def test_udp_with_an_expected_answer(worker: Worker, datagrams) -> None:
    endpoint = datagrams(lambda data: b"pong\xff" if data == b"ping\x00" else None)
    worker.check(UdpProbe(b"ping\x00", "^pong"), endpoint)
    assert "answered 5 bytes" in found(worker, Health.UP)


def test_udp_with_another_answer(worker: Worker, datagrams) -> None:
    worker.check(UdpProbe(b"ping", "^pong"), datagrams(lambda data: b"what?"))
    assert "answered b'what?', which is not what was expected" in found(worker, Health.DOWN)


def test_udp_with_an_answer_that_takes_for_ever_to_search(worker: Worker, datagrams) -> None:
    worker.check(UdpProbe(b"ping", "(a+)+$"), datagrams(lambda data: b"a" * 4000 + b"b"))
    assert "to match the answer takes longer than 50 ms" in found(worker, Health.DOWN)


def test_a_check_that_cannot_be_made_harms_no_other(worker: Worker, refusing: str) -> None:
    worker.check(UdpProbe(b"x", r"\u00e9"), refusing, id=1)  # no pattern of bytes
    said = found(worker, Health.UNKNOWN)
    assert said.startswith("could not probe: ")
    assert r"bad escape \u" in said
    worker.check(TcpProbe(), refusing, id=2)
    assert settled(worker, 2, Health.DOWN) == "3 of 3 probes: connection refused"


def test_udp_silence_will_do_unless_an_answer_is_expected(worker: Worker, datagrams) -> None:
    silent = datagrams(lambda data: None)
    worker.check(UdpProbe(b"x"), silent, id=1)
    worker.check(UdpProbe(b"x", "y"), silent, id=2)
    assert "no answer, and not refused" in settled(worker, 1, Health.UP)
    assert "timed out after 0.3 s (waiting for an answer)" in settled(worker, 2, Health.DOWN)


def test_udp_unreachable_is_down(worker: Worker, refusing: str) -> None:
    worker.check(UdpProbe(b"x"), refusing)
    assert found(worker, Health.DOWN) == "3 of 3 probes: connection refused"


def reply_of(data: bytes, records: bytes, count: int, flags: int = 0x8180) -> bytes:
    head = data[:2] + flags.to_bytes(2, "big") + b"\0\1" + count.to_bytes(2, "big") + bytes(4)
    return head + data[12:] + records


A_RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([192, 0, 2, 7])
DNS: list[tuple[str, Callable[[bytes], bytes | None], DnsProbe, Health, str]] = [
    ("good", lambda d: reply_of(d, A_RECORD, 1), DnsProbe(NAME), Health.UP, "NOERROR, 1 A"),
    (
        "the address",
        lambda d: reply_of(d, A_RECORD, 1),
        DnsProbe(NAME, answer="192.0.2.7"),
        Health.UP,
        "NOERROR, 1 A",
    ),
    (
        "another address",
        lambda d: reply_of(d, A_RECORD, 1),
        DnsProbe(NAME, answer="192.0.2.8"),
        Health.DOWN,
        "192.0.2.8 is not among the 1 addresses",
    ),
    (
        "SERVFAIL",
        lambda d: reply_of(d, b"", 0, 0x8182),
        DnsProbe(NAME),
        Health.DOWN,
        "answered SERVFAIL",
    ),
    (
        "NXDOMAIN wanted",
        lambda d: reply_of(d, b"", 0, 0x8183),
        DnsProbe(NAME, rcode="NXDOMAIN"),
        Health.UP,
        "NXDOMAIN",
    ),
    ("empty", lambda d: reply_of(d, b"", 0), DnsProbe(NAME), Health.DOWN, "without a record"),
    (
        "cut short",
        lambda d: reply_of(d, A_RECORD[:5], 1),
        DnsProbe(NAME),
        Health.DOWN,
        "a malformed answer",
    ),
    (
        "somebody else's",
        lambda d: b"xx" + reply_of(d, A_RECORD, 1)[2:],
        DnsProbe(NAME),
        Health.DOWN,
        "timed out",
    ),
    ("garbage", lambda d: b"\xff" * 40, DnsProbe(NAME), Health.DOWN, "timed out"),
]


@pytest.mark.parametrize(
    ("answer", "probe", "health", "evidence"), [case[1:] for case in DNS], ids=[c[0] for c in DNS]
)
def test_dns(worker: Worker, datagrams, answer, probe, health, evidence) -> None:
    worker.check(probe, datagrams(answer))
    assert evidence in found(worker, health)


# --- ICMP ---------------------------------------------------------------------------------


@pytest.mark.skipif(not ROOT, reason="not root: raw sockets need CAP_NET_RAW")
def test_echo_requests_share_a_socket(worker: Worker) -> None:
    for id in range(1, 21):
        worker.check(IcmpProbe(), f"127.0.0.{id}:0", id=id)
    for id in range(1, 21):
        assert "echo reply in " in settled(worker, id, Health.UP)
    fds = [os.readlink(f"/proc/{worker.process.pid}/fd/{fd}") for fd in descriptors_of(worker)]
    assert sum(name.startswith("socket:") for name in fds) <= 4


def descriptors_of(worker: Worker) -> list[str]:
    return os.listdir(f"/proc/{worker.process.pid}/fd")


# --- gRPC ---------------------------------------------------------------------------------


@pytest.fixture
def health_service() -> Iterator[tuple[str, dict[bytes, bytes]]]:
    """A real gRPC server; what its health service answers by request."""
    grpc = pytest.importorskip("grpc", reason="no grpcio: `make test` installs it")
    answers: dict[bytes, bytes] = {b"": b"\x08\x01", b"\x0a\x03web": b"\x08\x02"}

    def check(request: bytes, context) -> bytes:
        if request not in answers:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return answers[request]

    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", answers
    server.stop(None).wait()


def test_grpc(worker: Worker, health_service) -> None:
    endpoint, _ = health_service
    worker.check(GrpcProbe(), endpoint, SLOW, id=1)
    worker.check(GrpcProbe("web"), endpoint, SLOW, id=2)
    worker.check(GrpcProbe("nobody"), endpoint, SLOW, id=3)
    assert "SERVING in " in settled(worker, 1, Health.UP)
    assert "answered NOT_SERVING" in settled(worker, 2, Health.DOWN)
    assert "no answer of the health service" in settled(worker, 3, Health.DOWN)


def test_grpc_to_a_web_server(worker: Worker, serve: Serve) -> None:
    worker.check(GrpcProbe(), serve(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")).endpoint, SLOW)
    assert "speaks HTTP/1, not HTTP/2" in found(worker, Health.DOWN)


# --- commands -----------------------------------------------------------------------------


def test_a_command_is_asked(worker: Worker, refusing: str) -> None:
    shell = 'echo "$LBCTL_ADDRESS $LBCTL_PORT $(id -u)"; exit 0'
    worker.check(ExecProbe(("/bin/sh", "-c", shell)), refusing, SLOW)
    who = FIRST_USER if ROOT else os.geteuid()
    address, port = refusing.split(":")
    assert f"exit status 0: {address} {port} {who} in " in found(worker, Health.UP)


def test_a_command_that_fails_is_down(worker: Worker, refusing: str) -> None:
    worker.check(ExecProbe(("/bin/sh", "-c", "echo no disk >&2; exit 2")), refusing, SLOW)
    assert found(worker, Health.DOWN) == "2 of 2 probes: exit status 2: no disk"


def test_commands_that_misbehave_are_named_and_harm_nobody(
    worker: Worker, serve: Serve, refusing: str
) -> None:
    scripts = {
        1: ("sleep 1000", "timed out after 2 s"),
        2: ("yes | head -c 1000000000", "printed more than 1024 KiB"),
        3: ("b() { b | b & }; b; sleep 1000", "timed out after 2 s"),
    }
    if not ROOT:
        del scripts[3]
    for id, (shell, _) in scripts.items():
        worker.check(ExecProbe(("/bin/sh", "-c", shell)), refusing, SLOW, id=id)
    worker.check(HttpProbe(), serve(says(OK)).endpoint, id=9)
    for id, (_, evidence) in scripts.items():
        assert evidence in settled(worker, id, Health.DOWN)
        assert worker.ask(9).health is Health.UP


def test_a_command_that_does_not_exist_judges_nobody(worker: Worker, refusing: str) -> None:
    worker.check(ExecProbe(("/no/such/check",)), refusing, SLOW)
    assert "could not probe: /no/such/check: cannot be run" in found(worker, Health.UNKNOWN)


# --- agents -------------------------------------------------------------------------------


def reading(worker: Worker, id: int = 1) -> Report:
    return worker.wait(lambda m: m if isinstance(m, Reading) and m.id == id else None).report


LINES = [
    (b"75%\n", Report(percent=75)),
    (b"drain\r\n", Report(admin="drain")),
    (b"maint#new kernel\n", Report(admin="maint", reason="new kernel")),
    (b"down#out of disk space\n", Report(state="down", reason="out of disk space")),
    (b"failed\n", Report(state="down")),
    (b"up ready 50%\n", Report(percent=50, admin="ready", state="up")),
    (b"up,ready\t100%", Report(percent=100, admin="ready", state="up")),
    (b"UP READY maxconn:30\n", Report(admin="ready", state="up")),
    (b"ready wobble 12% # all well\n", Report(percent=12, admin="ready", reason="all well")),
]


@pytest.mark.parametrize(("line", "report"), LINES, ids=[str(case[0]) for case in LINES])
def test_haproxys_agents_are_understood(
    worker: Worker, serve: Serve, line: bytes, report: Report
) -> None:
    def talk(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(line)

    worker.check(AgentProbe("haproxy"), serve(talk).endpoint)
    assert reading(worker) == report


def test_what_is_to_be_sent_is_sent_first(worker: Worker, serve: Serve) -> None:
    def echo(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(b"up #" + connection.recv(100))

    worker.check(AgentProbe("haproxy", send="web/app1\n"), serve(echo).endpoint)
    assert reading(worker).reason == "web/app1"


def body_of(nonce: str, **more: object) -> bytes:
    return json.dumps({"nonce": nonce, "cpu": {"used": 0.5}, **more}).encode()


def http_agent(make: Callable[[str], bytes], length: int | None = None) -> Connection:
    """An agent that answers `make(nonce)`, on a connection that stays open."""

    def talk(connection: socket.socket, stopped: threading.Event) -> None:
        for data in requests(connection, stopped):
            nonce = data.split(b"nonce=")[1].split(b" ")[0].decode()
            body = make(nonce)
            said = len(body) if length is None else length
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % said + body)

    return talk


PLAIN = AgentProbe(tls=None)


def test_our_agents_json_is_understood(worker: Worker, serve: Serve) -> None:
    whole = {
        "memory": {"used": 0.25, "bytes": 1},
        "disks": [{"mount": "/", "used": 0.1}, {"mount": "/var", "used": 0.9}],
        "connections": {"established": 7},
        "words": "drain#soon",
        "more": ["than", "we", "know"],
    }
    worker.check(PLAIN, serve(http_agent(lambda nonce: body_of(nonce, **whole))).endpoint)
    assert reading(worker) == Report(
        cpu=0.5,
        memory=0.25,
        disk=0.9,
        percent=100,
        admin="drain",
        state="up",
        reason="soon",
        connections=7,
    )


def test_only_news_is_told(worker: Worker, serve: Serve) -> None:
    shares = iter([0.5, 0.501, 0.499, *[0.6] * 1000])
    server = serve(http_agent(lambda nonce: body_of(nonce, cpu={"used": next(shares)})))
    worker.check(PLAIN, server.endpoint)
    assert [reading(worker).cpu, reading(worker).cpu] == [0.5, 0.6]
    assert server.accepted == 1


LIES = [
    ("900 %", http_agent(lambda n: body_of(n, cpu={"used": 9.0})), "it lies: cpu in use is 9"),
    ("negative", http_agent(lambda n: body_of(n, memory={"used": -0.1})), "it lies: memory"),
    ("NaN", http_agent(lambda n: body_of(n, cpu={"used": float("nan")})), "no agent's answer"),
    ("a word", http_agent(lambda n: body_of(n, cpu={"used": "half"})), "no agent's answer"),
    (
        "a disk",
        http_agent(lambda n: body_of(n, disks=[{"mount": "/x", "used": 1.3}])),
        "it lies: disk /x in use is 1.3",
    ),
    ("HTML", http_agent(lambda n: b"<html>Welcome to nginx!"), "no agent's answer"),
    ("deep", http_agent(lambda n: b"[" * 50000), "no agent's answer"),
    ("replay", http_agent(lambda n: body_of("0123456789abcdef")), "an old answer"),
    ("10 MB", http_agent(lambda n: b"x" * 10_000_000), "of more than 64 KiB"),
    ("silent", hangs, "timed out"),
    ("404", says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "answered 404"),
    ("cut short", http_agent(lambda n: body_of(n), length=5000), "timed out"),
]


@pytest.mark.parametrize(("agent", "evidence"), [c[1:] for c in LIES], ids=[c[0] for c in LIES])
def test_an_agent_that_lies_is_not_believed(
    worker: Worker, serve: Serve, agent: Connection, evidence: str
) -> None:
    worker.check(PLAIN, serve(agent).endpoint)
    assert evidence in found(worker, Health.DOWN)
    assert not any(isinstance(message, Reading) for message in worker.heard)


BAD_LINES = [
    ("a flood", lambda c, s: c.sendall(b"x" * 10_000_000), "a line of more than 4096 bytes"),
    ("nothing", lambda c, s: None, "not an agent's line: ''"),
    ("HTML", lambda c, s: c.sendall(b"<html>\n"), "not an agent's line: '<html>'"),
    ("binary", lambda c, s: c.sendall(bytes(range(128, 200)) + b"\n"), "not an agent's line"),
    ("900%", lambda c, s: c.sendall(b"900%\n"), "it wants a weight of 900%"),
    ("-5%", lambda c, s: c.sendall(b"-5%\n"), "not an agent's line: '-5%'"),
    ("hangs", hangs, "timed out after 0.3 s (waiting for its line)"),
]


@pytest.mark.parametrize(
    ("agent", "evidence"), [c[1:] for c in BAD_LINES], ids=[c[0] for c in BAD_LINES]
)
def test_a_line_that_is_none_is_not_believed(
    worker: Worker, serve: Serve, agent: Connection, evidence: str
) -> None:
    worker.check(AgentProbe("haproxy"), serve(agent).endpoint)
    assert evidence in found(worker, Health.DOWN)


def test_an_agent_with_the_wrong_certificate_is_not_believed(
    worker: Worker, serve: Serve, authority: Authority
) -> None:
    forged = trustme.CA().issue_cert(NAME)
    server = serve(encrypted(forged, http_agent(body_of)))
    worker.check(AgentProbe(tls=Tls(NAME, authority.file)), server.endpoint, SLOW)
    assert "certificate: unable to get local issuer" in found(worker, Health.DOWN)


def test_the_token_is_read_and_shown(worker: Worker, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    heard = []

    def talk(connection: socket.socket, stopped: threading.Event) -> None:
        heard.append(connection.recv(4096))

    probe = AgentProbe(tls=None, token=str(tmp_path / "token"))
    worker.check(probe, serve(talk).endpoint)
    worker.ask()
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in heard[0]
    assert QUICK.timeout < PATIENCE


def test_steps_of_a_probe_that_was_asked_for(worker: Worker, serve: Serve) -> None:
    worker.check(HttpProbe(), serve(says(OK)).endpoint)
    worker.verdict()
    verdict = worker.ask()
    assert [step for _, step in verdict.steps][:2] == ["connecting", "waiting for an answer"]
    times = [at for at, _ in verdict.steps]
    assert times == sorted(times)
    assert Job(1, HttpProbe(), "192.0.2.1:80", QUICK).health is Health.UNKNOWN
