"""Cookies, the rate limit, and which process a source meets."""

import socket
from ipaddress import ip_address

import pytest

from lbctl.gslb.cookie import LIFE, RENEW, Cookies
from lbctl.gslb.rrl import RateLimit, Ruling, Window
from lbctl.gslb.sockets import open_group
from lbctl.model import Endpoint
from tests.ports import free_port

HERE, THERE = ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed
NOW = 1_800_000_000


def test_a_cookie_is_known_again_until_it_is_old() -> None:
    cookies = Cookies(b"a" * 16)
    cookie, shown = cookies.reply(b"clientck", HERE, NOW)
    assert (len(cookie), shown) == (24, False)
    assert cookies.reply(cookie, HERE, NOW + RENEW) == (cookie, True)
    renewed, shown = cookies.reply(cookie, HERE, NOW + LIFE)
    assert shown
    assert renewed != cookie
    assert not cookies.reply(cookie, HERE, NOW + LIFE + 1)[1]
    assert not cookies.reply(cookie, HERE, NOW - 301)[1]  # from the future


def test_a_cookie_is_good_for_one_client_one_address_one_secret() -> None:
    cookies = Cookies(b"a" * 16)
    cookie, _ = cookies.reply(b"clientck", HERE, NOW)
    assert not cookies.reply(cookie, THERE, NOW)[1]
    assert not cookies.reply(b"clientcx" + cookie[8:], HERE, NOW)[1]
    assert not cookies.reply(cookie[:-1] + bytes([cookie[-1] ^ 1]), HERE, NOW)[1]
    assert not Cookies(b"b" * 16).reply(cookie, HERE, NOW)[1]
    assert Cookies(b"b" * 16, b"a" * 16).reply(cookie, HERE, NOW)[1]  # a secret is rolled


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 to 32"):
        Cookies(b"short")


def test_the_window_counts_by_network_and_second() -> None:
    window = Window(RateLimit(responses=2, errors=1, slip=2))
    window.turn(10.0)

    def rule(network: bytes, error: bool = False) -> Ruling:
        return window.rule(network, error=error)

    assert [rule(b"net") for _ in range(5)] == [
        Ruling.SEND, Ruling.SEND, Ruling.DROP, Ruling.SLIP, Ruling.DROP,
    ]  # fmt: skip
    assert rule(b"other", error=True) is Ruling.SEND
    assert rule(b"other", error=True) is Ruling.DROP
    window.turn(10.9)
    assert rule(b"net") is Ruling.SLIP
    window.turn(11.0)
    assert rule(b"net") is Ruling.SEND


def test_a_source_network_always_meets_the_same_process() -> None:
    port = free_port()
    group = open_group(Endpoint(ip_address("127.0.0.1"), port), 4)
    seen: dict[int, set[str]] = {}
    try:
        for network in range(1, 60):
            for host in (1, 2, 9):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.bind((f"127.1.{network}.{host}", 0))
                    client.sendto(b"x", ("127.0.0.1", port))
        for number, sock in enumerate(group):
            sock.setblocking(False)
            seen[number] = _networks(sock)
    finally:
        for sock in group:
            sock.close()
    every = [network for networks in seen.values() for network in networks]
    assert len(every) == len(set(every)) == 59
    assert all(networks for networks in seen.values())


def _networks(sock: socket.socket) -> set[str]:
    found = set()
    while True:
        try:
            found.add(sock.recvfrom(16)[1][0].rsplit(".", 1)[0])
        except BlockingIOError:
            return found
