"""Who may read and who may change: another user against a daemon of root's."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lbctl.errors import Exit, LbctlError

from .conftest import Daemon, running

NOBODY = 65534
WHY_NOT = "not root, so nobody else to be: run `sudo make test`"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason=WHY_NOT)


def as_nobody(work: Callable[[], object]) -> tuple[int, str]:
    """Exit code and message of `work`, done by a user without any rights.

    In a child of this process: what it imported is at hand wherever the project lies.
    """
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            os.write(into, b"0 ")
        except LbctlError as error:
            os.write(into, f"{int(error.exit_code)} {error}".encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as answer:
        code, _, text = answer.read().partition(" ")
    os.waitpid(child, 0)
    return int(code), text


@pytest.fixture(scope="module")
def public() -> Iterator[Daemon]:
    """A daemon whose directory everybody may look into."""
    with tempfile.TemporaryDirectory(prefix="lbctl-") as home:
        Path(home).chmod(0o755)
        with running(Path(home)) as daemon:
            yield daemon


@pytest.fixture
def open_to_all(public: Daemon) -> Daemon:
    """Its socket lets everybody connect: what is left is what the daemon itself refuses."""
    public.socket.chmod(0o666)
    return public


def test_the_socket_is_for_its_group(public: Daemon) -> None:
    public.socket.chmod(0o660)
    code, text = as_nobody(lambda: public.client.get("services"))
    assert code == Exit.NOT_PERMITTED
    assert "this user may not talk to the daemon" in text
    assert "group lbctl" in text


def test_a_new_socket_has_no_rights_for_others(daemon: Daemon) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o660


def test_others_may_read(open_to_all: Daemon) -> None:
    assert as_nobody(lambda: open_to_all.client.get("services"))[0] == 0
    assert as_nobody(lambda: open_to_all.client.send("diff", data=b"?"))[0] == Exit.INVALID


@pytest.mark.parametrize("where", ["orders", "overrides", "apply", "reload", "rollback"])
def test_others_may_change_nothing(open_to_all: Daemon, where: str) -> None:
    code, text = as_nobody(lambda: open_to_all.client.post(where, body={}))
    assert code == Exit.NOT_PERMITTED
    assert text.startswith("nobody: may read, but not change anything (run it as root, or")


def test_others_may_delete_nothing(open_to_all: Daemon) -> None:
    code, _ = as_nobody(lambda: open_to_all.client.delete("overrides", "1", body={}))
    assert code == Exit.NOT_PERMITTED
