"""Batches over real sockets on the loopback, both families, both ways; and TCP."""

import asyncio
import contextlib
import shutil
import socket

import pytest

from lbctl.gslb.datagrams import BATCH, Datagrams
from lbctl.gslb.native import Native, build
from lbctl.gslb.rrl import RateLimit
from lbctl.gslb.sockets import buffer_fault
from lbctl.gslb.tcp import MOST_EACH, answering
from lbctl.lab.waiting import eventually
from tests.unit.gslb.scene import SEOUL4, Server, ecs, opt, query
from tests.unit.gslb.test_native import SECRET, load
from tests.unit.gslb.test_responder import addresses, judge

KT = opt(ecs("198.18.9.0/24"))


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request):
    family = socket.AF_INET if "." in request.param else socket.AF_INET6
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((request.param, 0))
        client.connect(server.getsockname())
        server.settimeout(2.0)
        server.setblocking(True)
        client.settimeout(2.0)
        yield server, client


@pytest.mark.parametrize("way", ["python", "native"])
def test_a_batch_is_answered_each_to_its_sender(pair, way, tmp_path) -> None:
    sock, client = pair
    server = Server()
    group = Datagrams(sock)
    sent = [query("geo.gslb.example", 1, KT, id=number) for number in range(BATCH)]
    sent[7] = b"noise"  # nothing comes back
    sent[9] = query("nope.gslb.example", id=9)  # the careful way, within the same batch
    for one in sent:
        client.send(one)
    if way == "native":
        if shutil.which("cc") is None:
            pytest.skip("no cc: apt-get install gcc")
        native = Native(build(tmp_path), RateLimit(10**9, 10**9), SECRET)
        load(server, native, tmp_path)
        count = group.serve_natively(native, server.responder.reply, server.responder.slip)
        native.close()
    else:
        count = group.serve(server.responder.reply)
    assert count == BATCH
    replies = {}
    for _ in range(BATCH - 1):
        reply = client.recv(2048)
        replies[int.from_bytes(reply[:2], "big")] = reply
    assert sorted(replies) == [number for number in range(BATCH) if number != 7]
    assert addresses(judge(replies[63])) == [SEOUL4]
    assert judge(replies[9]).rcode() == 3


def test_a_datagram_that_is_too_long_is_malformed_not_fatal(pair) -> None:
    sock, client = pair
    server, group = Server(), Datagrams(sock)
    client.send(query("geo.gslb.example") + bytes(3000))
    assert group.serve(server.responder.reply) == 1
    assert client.recv(2048)[3] & 0xF == 1
    client.send(query("geo.gslb.example"))
    assert group.serve(server.responder.reply) == 1
    assert judge(client.recv(2048)).rcode() == 0


def test_tcp_answers_several_queries_and_survives_rubbish() -> None:
    server = Server()

    async def converse() -> list[bytes]:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        big = query("big.gslb.example", 16)
        async with answering([listener], server.responder.stream_reply):
            for rubbish in (b"\0", b"\0\3abc", b"\xff\xff" + bytes(100)):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(rubbish)
                writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            both = [query("geo.gslb.example", 1, KT), big]
            writer.write(b"".join(len(one).to_bytes(2, "big") + one for one in both))
            replies = []
            for _ in both:
                length = int.from_bytes(await reader.readexactly(2), "big")
                replies.append(await reader.readexactly(length))
            writer.close()
            await writer.wait_closed()
        return replies

    first, second = asyncio.run(converse())
    assert addresses(judge(first)) == [SEOUL4]
    assert len(judge(second).answer[0]) == 3


def test_one_network_cannot_take_all_tcp_connections() -> None:
    server = Server()
    asked = query("geo.gslb.example", 1, KT)

    def ask(line: socket.socket) -> bytes:
        """The reply, or nothing where the connection is refused."""
        line.settimeout(5.0)
        with contextlib.suppress(ConnectionError):
            line.sendall(len(asked).to_bytes(2, "big") + asked)
            return line.recv(2048)[2:]
        return b""

    def crowd(where: tuple[str, int]) -> tuple[bytes, bytes, bytes]:
        with contextlib.ExitStack() as stack:
            lines = [stack.enter_context(socket.create_connection(where)) for _ in range(MOST_EACH)]
            assert all(ask(line) for line in lines)
            refused = ask(stack.enter_context(socket.create_connection(where)))
            other = socket.create_connection(where, source_address=("127.0.1.1", 0))
            elsewhere = ask(stack.enter_context(other))
        return refused, elsewhere, eventually(lambda: ask_alone(where), timeout=5.0)

    def ask_alone(where: tuple[str, int]) -> bytes:
        with socket.create_connection(where) as line:
            return ask(line)

    async def converse() -> tuple[bytes, bytes, bytes]:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        async with answering([listener], server.responder.stream_reply):
            return await asyncio.to_thread(crowd, listener.getsockname())

    refused, elsewhere, afterwards = asyncio.run(converse())
    assert refused == b""
    assert addresses(judge(elsewhere)) == addresses(judge(afterwards)) == [SEOUL4]


def test_a_buffer_that_the_kernel_made_smaller_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100 << 10)
        assert buffer_fault([one]).startswith("100 KiB, not 4096: bursts of queries are lost")
    assert buffer_fault([]) == ""
