from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbctl.model import (
    Check,
    Endpoint,
    Family,
    FirewallMark,
    Gateway,
    Listen,
    Proto,
    Server,
    ServerName,
    parse_frontend,
)

addresses = st.ip_addresses()
ports = st.integers(1, 65535)
endpoints = st.builds(Endpoint, addresses, ports)
listens = st.builds(Listen, addresses, ports, st.sampled_from(Proto))
marks = st.builds(FirewallMark, st.integers(1, 2**32 - 1), st.sampled_from(Family))


@given(endpoints)
def test_an_endpoint_is_read_as_it_is_written(endpoint: Endpoint) -> None:
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(listens | marks)
def test_a_frontend_is_read_as_it_is_written(frontend: Listen | FirewallMark) -> None:
    assert parse_frontend(str(frontend)) == frontend


@given(st.lists(listens | marks), st.lists(endpoints))
def test_sort_keys_tell_all_apart_and_compare(
    frontends: list[Listen | FirewallMark], endpoints: list[Endpoint]
) -> None:
    """IPv4 and IPv6 addresses do not compare with each other; their sort keys do."""
    assert len(sorted({one.sort_key() for one in frontends})) == len(set(frontends))
    assert len(sorted({one.sort_key() for one in endpoints})) == len(set(endpoints))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not ADDRESS:PORT"),
        ("80", "is not ADDRESS:PORT"),
        (":80", "is not ADDRESS:PORT"),
        ("192.0.2.1", "is not ADDRESS:PORT"),
        ("192.0.2.1:", "has no valid port"),
        ("192.0.2.1:0", "has no valid port"),
        ("192.0.2.1:65536", "has no valid port"),
        ("192.0.2.1:-1", "has no valid port"),
        ("192.0.2.1:٨٠", "has no valid port"),
        ("192.0.2.256:80", "does not appear to be an IPv4 or IPv6 address"),
        ("2001:db8::1:80", "IPv6: \\[ADDRESS\\]:PORT"),
        ("[192.0.2.1]:80", "is not ADDRESS:PORT"),
        ("[[2001:db8::1]]:80", "does not appear to be"),
        ("web.example:80", "does not appear to be"),
    ],
)
def test_what_is_no_endpoint(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("80", "'80' has no address \\(write ADDRESS:PORT/PROTO\\)"),
        ("80/tcp", "'80/tcp' has no address"),
        ("192.0.2.1:80", "'192.0.2.1:80' has no protocol"),
        ("192.0.2.1:80/http", "protocol is one of tcp, udp, sctp"),
        ("192.0.2.1:80/TCP", "protocol is one of tcp, udp, sctp"),
        ("192.0.2.1:x/tcp", "has no valid port"),
        ("fwmark:0/ipv4", "a number from 1 to 4294967295"),
        ("fwmark:4294967296/ipv4", "a number from 1 to 4294967295"),
        ("fwmark:x/ipv4", "a number from 1 to 4294967295"),
        ("fwmark:7", "has no family"),
        ("fwmark:7/ipv5", "has no family"),
    ],
)
def test_what_is_no_frontend(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_frontend(text)


@given(st.text(max_size=40))
def test_any_other_text_is_a_value_error_and_nothing_else(text: str) -> None:
    for parse in (Endpoint.parse, parse_frontend, ServerName.parse):
        try:
            found = parse(text)
        except ValueError:
            continue
        assert parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "web", "web/", "/app1", "web/app1/x"])
def test_what_is_no_name_of_a_server(text: str) -> None:
    with pytest.raises(ValueError, match="is not SERVICE/SERVER"):
        ServerName.parse(text)


WEB, MARK = Listen.parse("192.0.2.10:80/tcp"), FirewallMark(7, Family.IPV4)
APP = ip_address("198.51.100.1")


@pytest.mark.parametrize(
    ("server", "frontend", "endpoint"),
    [
        (Server(APP), WEB, Endpoint(APP, 80)),
        (Server(APP, 8080), WEB, Endpoint(APP, 8080)),
        (Server(APP), MARK, Endpoint(APP, 0)),
        (Server(APP, 8080), MARK, Endpoint(APP, 8080)),
    ],
)
def test_a_server_without_a_port_takes_that_of_the_listen(
    server: Server, frontend: Listen | FirewallMark, endpoint: Endpoint
) -> None:
    assert server.endpoint(frontend) == endpoint


@pytest.mark.parametrize(
    ("check", "target"),
    [
        (Check(), "198.51.100.1:80"),
        (Check(port=9000), "198.51.100.1:9000"),
        (Check(address=ip_address("2001:db8::1")), "[2001:db8::1]:80"),
    ],
)
def test_a_check_goes_to_the_server_unless_it_says_otherwise(check: Check, target: str) -> None:
    assert str(check.target(Endpoint(APP, 80))) == target


def test_a_gateway_names_each_interface_once() -> None:
    assert Gateway("lan0", ("lan1", "lan0")).interfaces == ("lan0", "lan1")
