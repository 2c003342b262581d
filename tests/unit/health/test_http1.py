"""The HTTP exchange of a check, byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.health.http1 import LIMIT, Answer, Expectation, request
from lbctl.health.result import Failed
from lbctl.model import Endpoint, HttpProbe

WEB = Endpoint.parse("192.0.2.1:80")
ANY = HttpProbe()


def answer(*pieces: bytes, probe: HttpProbe = ANY, ended: bool = True) -> Answer | str:
    """What is made of an answer that comes in pieces: the answer, or why it failed."""
    one = Answer(Expectation.of(probe))
    try:
        for piece in [*pieces, b""] if ended else pieces:
            if not one.done:
                one.receive(piece)
    except Failed as error:
        return str(error)
    return one


def outcome(*pieces: bytes, probe: HttpProbe = ANY) -> str:
    one = answer(*pieces, probe=probe)
    return one if isinstance(one, str) else one.detail


# --- the request --------------------------------------------------------------------------


def test_the_request_as_bytes() -> None:
    assert request(HttpProbe(path="/health"), WEB) == (
        b"GET /health HTTP/1.1\r\n"
        b"Host: 192.0.2.1\r\n"
        b"User-Agent: lbctl/0.1.0\r\n"
        b"Accept: */*\r\n"
        b"Connection: close\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("192.0.2.1:80", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1:8080"),
        ("[2001:db8::1]:80", "[2001:db8::1]"),
        ("[2001:db8::80]:8080", "[2001:db8::80]:8080"),
    ],
)
def test_the_host_names_the_port_only_if_it_is_unusual(endpoint: str, host: str) -> None:
    head = request(HttpProbe(), Endpoint.parse(endpoint)).decode().split("\r\n")
    assert f"Host: {host}" in head


def test_headers_that_are_written_replace_ours() -> None:
    head = request(HttpProbe(headers=(("host", "a.example"), ("Connection", "keep-alive"))), WEB)
    assert head.lower().count(b"host:") == 1
    assert head.lower().count(b"connection:") == 1


@pytest.mark.parametrize(
    "probe",
    [
        HttpProbe(path="/a b"),
        HttpProbe(path="/\r\nX: y"),
        HttpProbe(path=""),
        HttpProbe(method="GET /"),
        HttpProbe(headers=(("X", "a\r\nY: b"),)),
        HttpProbe(headers=(("X:", "a"),)),
        HttpProbe(host="a\nb"),
    ],
)
def test_what_would_break_the_request_is_refused(probe: HttpProbe) -> None:
    with pytest.raises(ValueError, match=r"path|method|header"):
        request(probe, WEB)


def test_a_body_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="body '\\(' is no regular expression"):
        Expectation.of(HttpProbe(body="("))


# --- the answer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "200"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "200"),
        (b"HTTP/1.1 200\r\n\r\n", "200"),
        (b"HTTP/1.1 200 \n\n", "200"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", "301"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "200"),
        (b"HTTP/1.1 404 No\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 103 Hints\r\n\r\n", "answer cut short"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "not an HTTP answer: b'HTTP/1.1 20 OK\\r\\n\\r\\n'"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not an HTTP answer: b'HTTP/1.1 2000 OK\\r\\n\\r\\n'"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "not an HTTP answer: b'HTTP/2.0 200 OK\\r\\n\\r\\n'"),
        (b"http/1.1 200 OK\r\n\r\n", "not an HTTP answer: b'http/1.1 200 OK\\r\\n\\r\\n'"),
        (b" HTTP/1.1 200 OK\r\n\r\n", "not an HTTP answer: b' HTTP/1.1 200 OK\\r\\n\\r\\n'"),
        (b"HTTP/1.1 200 OK\r\n", "answer cut short"),
        (b"", "closed without an answer"),
        (b"\x00" * 40, f"not an HTTP answer: {bytes(24)!r}"),
    ],
)
def test_heads(data: bytes, said: str) -> None:
    assert outcome(data) == said


def test_garbage_is_known_at_its_first_byte() -> None:
    assert answer(b"S", ended=False) == "not an HTTP answer: b'S'"


def test_without_a_body_to_match_nothing_is_read_past_the_head() -> None:
    one = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", ended=False)
    assert isinstance(one, Answer)
    assert one.done


HELLO = HttpProbe(body="^hello$")


@pytest.mark.parametrize(
    ("data", "probe", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", HELLO, "200"),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\n\nhello, and more", HELLO, "200"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", HELLO, "200"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello!", HELLO, "body does not match"),
        (b"HTTP/1.1 204 None\r\n\r\n", HELLO, "body does not match"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            HELLO,
            "closed after 5 of 9 bytes of the body",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n5\r\nhello\r\n0\r\n\r\n", HttpProbe(body="hello"), "200"),
        ("HTTP/1.1 200 OK\r\n\r\n[é]".encode(), HttpProbe(body="[é]]"), "200"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff ok", HttpProbe(body="ok"), "200"),
        (b"HTTP/1.1 500 No\r\n\r\nhello", HELLO, "answered 500"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            HttpProbe(method="HEAD", body="."),
            "body does not match",
        ),
    ],
)
def test_bodies(data: bytes, probe: HttpProbe, said: str) -> None:
    assert outcome(data, probe=probe) == said


def test_an_announced_body_is_done_without_an_end_of_the_stream() -> None:
    one = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", probe=HELLO, ended=False)
    assert isinstance(one, Answer)
    assert one.done


def test_an_endless_body_is_judged_by_its_beginning() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\nhello"
    pieces = [head, *[b"x" * 8192] * (LIMIT // 8192)]
    one = answer(*pieces, probe=HttpProbe(body="^hello"), ended=False)
    assert isinstance(one, Answer)
    assert one.done


@pytest.mark.parametrize("line", [b"X: " + b"y" * 1000 + b"\r\n", b"HTTP/1.1 103 Hints\r\n\r\n"])
def test_endless_headers_are_given_up(line: bytes) -> None:
    head = b"HTTP/1.1 103 Hints\r\n"
    said = answer(head, *[line] * (LIMIT // len(line) + 1), ended=False)
    assert said == "headers longer than 64 KiB"


PIECES = st.lists(st.integers(1, 60), max_size=8)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        piece, data = data[:size], data[size:]
        pieces.append(piece)
    return [piece for piece in [*pieces, data] if piece]


@given(PIECES, st.sampled_from(["hello", "^hello$", "bye", ""]))
def test_how_an_answer_is_cut_into_pieces_changes_nothing(sizes: list[int], body: str) -> None:
    data = b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 5\r\n\r\nhello"
    probe = HttpProbe(body=body)
    assert outcome(*cut(data, sizes), probe=probe) == outcome(data, probe=probe)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=10), st.booleans())
def test_no_bytes_break_it(pieces: list[bytes], opened: bool) -> None:
    """Whatever comes is an answer or `Failed`; nothing else is raised."""
    start = [b"HTTP/1.1 200 OK\r\nContent-Length: "] if opened else []
    assert outcome(*start, *pieces, probe=HttpProbe(body="x"))
