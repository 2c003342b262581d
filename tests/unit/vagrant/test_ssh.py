"""Commands on machines end, also where the machine does not: with programs in ssh's place."""

from pathlib import Path

import pytest

from vagrant.ssh import Machine, SshError, short


def machine(script: str, asked: list[str]) -> Machine:
    """One whose connection is this shell script; what is run in the cell is noted."""

    def inside(argv) -> list[str]:
        words = [str(word) for word in argv]
        asked.append(" ".join(words))
        # What `timeout` is asked for still counts.
        return [*words[:2], "sh", "-c", script]

    return Machine("server1", lambda: "198.18.121.9", Path("/key"), inside, "/run")


def closed(asked: list[str]) -> bool:
    """Whether the kept connection was given up: it would hang the next command, too."""
    return any("-O exit" in one for one in asked)


def test_a_command_says_what_it_said() -> None:
    asked: list[str] = []
    assert machine("echo hello", asked).run("echo hello") == "hello\n"
    assert asked[0].startswith("timeout 60 ssh ")
    assert asked[0].endswith("root@198.18.121.9 echo hello")
    assert not closed(asked)


def test_a_connection_that_hangs_has_an_end() -> None:
    """As after a restore: the other end knows nothing of the connection any more."""
    asked: list[str] = []
    with pytest.raises(SshError, match="server1: uptime: no end"):
        machine("sleep 1000", asked).run("uptime", seconds=1)
    assert closed(asked)


def test_a_machine_that_is_not_there() -> None:
    asked: list[str] = []
    lost = machine("echo 'connect: No route to host' >&2; exit 255", asked)
    with pytest.raises(SshError, match="server1: uptime: connect: No route to host"):
        lost.run("uptime")
    assert closed(asked)
    assert not lost.answers()


def test_a_command_that_fails_is_no_lost_machine() -> None:
    asked: list[str] = []
    with pytest.raises(SshError, match="false: exit 3: no such unit"):
        machine("echo no such unit >&2; exit 3", asked).run("false")
    assert not closed(asked)


def test_a_long_command_is_cut_in_messages() -> None:
    assert short("a b c d e f g h") == "'a b c d e f ...'"
