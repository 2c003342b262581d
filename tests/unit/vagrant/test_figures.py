import json

import pytest

from vagrant.figures import answers, held, longest_silence, shared
from vagrant.story import virtual_mac

PING = """\
PING 192.0.2.10 (192.0.2.10) 56(84) bytes of data.
[1700000000.000000] 64 bytes from 192.0.2.10: icmp_seq=1 ttl=64 time=1.23 ms
[1700000000.020000] 64 bytes from 192.0.2.10: icmp_seq=2 ttl=64 time=1.11 ms
[1700000001.000000] From 192.0.2.100 icmp_seq=50 Destination Host Unreachable
[1700000003.520000] 64 bytes from 192.0.2.10: icmp_seq=177 ttl=64 time=9.99 ms
[1700000003.540000] 64 bytes from 192.0.2.10: icmp_seq=178 ttl=64 time=1.01 ms

--- 192.0.2.10 ping statistics ---
178 packets transmitted, 4 received, +1 errors, 97.7528% packet loss, time 3545ms
"""


def test_the_longest_silence() -> None:
    found = longest_silence(PING, 0.02)
    assert found.seconds == pytest.approx(3.5)
    assert found.lost == 174
    assert found.watched == pytest.approx(3.54)


def test_the_silence_at_the_end_counts_too() -> None:
    found = longest_silence(PING.replace("178 packets", "578 packets"), 0.02)
    assert found.seconds == pytest.approx(8.0)
    assert found.lost == 400


def test_a_ping_that_nobody_answered_is_no_figure() -> None:
    with pytest.raises(ValueError, match="ping had 0 answers"):
        longest_silence("9 packets transmitted, 0 received", 0.02)


@pytest.mark.parametrize("text", ["", PING.partition("---")[0]])
def test_a_ping_that_still_runs_is_no_figure(text: str) -> None:
    with pytest.raises(ValueError, match="ping did not end"):
        longest_silence(text, 0.02)


def test_held_connections() -> None:
    last = {"opened": 20, "kept": 19, "asked": 100, "broken": {"timed out": 1}, "servers": {}}
    found = held(f'{{"opened": 20}}\n{json.dumps(last)}\n')
    assert found.words == "19 of 20 connections kept, 100 answers; 1 x timed out"


@pytest.mark.parametrize("text", ["", '{"opened": 20}\n'])
def test_connections_that_are_still_held(text: str) -> None:
    with pytest.raises(ValueError, match="hold"):
        held(text)


def test_who_answered() -> None:
    assert shared(answers("server2\nserver1\nserver2\n")) == "server1 1, server2 2"
    assert shared(answers("")) == "nobody"


def test_the_virtual_mac_is_that_of_the_rfc() -> None:
    assert virtual_mac(7) == "00:00:5e:00:01:07"
