"""Two daemons of a pair on data paths in memory, with a real line between them. The virtual
routers' process is played: it says who is Active."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from lbctl.lab.waiting import eventually
from lbctl.messages import Role, RoleChange, Synced, decode, encode
from tests.ports import free_port

from .conftest import FAST, Daemon, LoopbackServer

NAMES = ("gw1", "gw2")
SOON = 8.0  # seconds in which a daemon ends; systemd waits for longer


class PlayedRouters:
    """Where the daemon looks for the VRRP process. heard: what it was told last of syncing."""

    def __init__(self, path: Path) -> None:
        self.path, self.heard, self._role = path, False, Role.BACKUP
        self._there, self.lines = True, 0
        self._line: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._line, _ = self._listener.accept()
                self.lines += 1
                with self._line:
                    if self._there:
                        self.say(self._role)
                    while data := self._line.recv(1 << 20):
                        message = decode(data)
                        if isinstance(message, Synced):
                            self.heard = message.holds and self._there
            except OSError:
                return

    def say(self, role: Role) -> None:
        """To the daemon; one that is not there hears it when it comes."""
        self._role = role
        with suppress(OSError):
            if self._line is not None:
                self._line.send(encode(RoleChange("web", role, "played", 0.0)))

    def restart(self) -> None:
        """It takes its time before it has any router; what it was told before that is lost."""
        self._there = self.heard = False
        assert self._line is not None
        self._line.shutdown(socket.SHUT_RDWR)

    def begin(self, role: Role) -> None:
        self._there = True
        self.say(role)

    def close(self) -> None:
        for one in (self._listener, self._line):
            if one is not None:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


class Half:
    """One gateway of the pair."""

    def __init__(self, home: Path, servers: dict[str, LoopbackServer], node: str) -> None:
        home.mkdir()
        (home / "kernel").mkdir()
        self.routers = PlayedRouters(home / "vrrp.sock")
        extra = ["--node", node, "--vrrp", str(self.routers.path)]
        self.daemon = Daemon(home, servers, extra=extra)

    def peer(self) -> dict[str, Any]:
        found: dict[str, Any] = self.daemon.client.get("replication")
        return found

    def weights(self) -> dict[str, int]:
        rows = self.daemon.client.get("diff")
        assert rows["operations"] == []
        found = self.daemon.client.get("servers")
        return {row["name"]: row["weight"] for row in found}


class Pair:
    def __init__(self, home: Path) -> None:
        self.home, self.hold = home, "10s"
        self.servers = {f"app{number}": LoopbackServer() for number in (1, 2, 3)}
        self.ports = [free_port() for _ in NAMES]
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(str(home / "ca.pem"))
        for name in NAMES:
            self.issue(name, self.authority)
        self.halves = [Half(home / name, self.servers, name) for name in NAMES]

    def issue(self, name: str, authority: trustme.CA) -> None:
        issued = authority.issue_cert(f"{name}.example")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        (self.home / f"{name}.pem").write_bytes(chain)
        issued.private_key_pem.write_to_path(str(self.home / f"{name}.key"))

    def yaml(self, more: str = "") -> str:
        lines = ["apiVersion: lbctl/v1", "gateway: {front: front0}", "gateways:"]
        for at, name in enumerate(NAMES):
            mine, other, home = self.ports[at], self.ports[1 - at], self.home
            lines.append(
                f"  {name}: {{replication: {{listen: '127.0.0.1:{mine}', "
                f"peer: '127.0.0.1:{other}', name: {NAMES[1 - at]}.example, "
                f"certificate: {home}/{name}.pem, key: {home}/{name}.key, ca: {home}/ca.pem, "
                f"hold: {self.hold}}}}}"
            )
        lines += [
            "services:",
            "  web:",
            "    listen: 192.0.2.10:80/tcp",
            "    scheduler: mh",
            f"    check: {FAST}",
            "    servers:",
            *(
                f"      {name}: {{address: '127.0.0.1:{server.port}'}}"
                for name, server in self.servers.items()
            ),
            "virtual_routers:",
            "  web: {vrid: 7, addresses: [192.0.2.10, 198.51.100.1], preempt: when-synced}",
        ]
        return "\n".join([*lines, more, ""])

    def start(self) -> None:
        for half in self.halves:
            half.daemon.file.write_text(self.yaml())
            half.daemon.start()

    def roles(self, first: Role, second: Role) -> None:
        for half, role in zip(self.halves, (first, second), strict=True):
            half.routers.say(role)

    def in_sync(self) -> list[Half]:
        """Both started, the first Active, and the second has all of it."""
        self.start()
        self.roles(Role.ACTIVE, Role.BACKUP)
        self.synced()
        return self.halves

    def synced(self) -> None:
        """Until the second holds all that the first, which is Active, says."""

        def met() -> bool:
            found = self.halves[1].peer()
            assert found["synced"], repr(found)
            assert found["theirs"] == ["192.0.2.10:80/tcp"], repr(found)
            assert found["same_table"], repr(found)
            return True

        eventually(met, timeout=30)


@contextmanager
def _made(home: Path) -> Iterator[Pair]:
    made = Pair(home)
    with ExitStack() as stack:
        for server in made.servers.values():
            stack.callback(server.stop)
        for half in made.halves:
            stack.callback(half.routers.close)
            stack.callback(_kill, half.daemon)
        yield made


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with _made(tmp_path) as made:
        yield made


@contextmanager
def backup_alone(home: Path, at: int) -> Iterator[Pair]:
    """Only that gateway of a pair runs, as Backup; the first is the one that listens."""
    with _made(home) as made:
        made.ports.sort()
        daemon = made.halves[at].daemon
        daemon.file.write_text(made.yaml())
        daemon.start()
        made.halves[at].routers.say(Role.BACKUP)
        yield made
        assert daemon.end() == 0


def _kill(daemon: Daemon) -> None:
    if daemon.process is not None:
        daemon.process.kill()
        daemon.process.wait()


def destinations(half: Half) -> str:
    return str(half.daemon.run("diff").out)


def test_the_backup_serves_as_the_active_does_and_its_view_counts_once_it_is_active(
    pair: Pair,
) -> None:
    one, two = pair.in_sync()
    eventually(lambda: two.routers.heard)
    assert "in sync" in two.daemon.run("ha", "peer").out
    assert one.peer()["own"] == ["192.0.2.10:80/tcp"]

    # A drain ordered where it is Active holds on both, and survives the other's promotion.
    assert one.daemon.run("drain", "web/app1", "--reason", "kernel").code == 0
    eventually(lambda: two.daemon.states()["web/app1"] == one.daemon.states()["web/app1"])
    pair.synced()
    one.daemon.process.kill()  # type: ignore[union-attr]
    eventually(lambda: not two.routers.heard)
    two.routers.say(Role.ACTIVE)
    eventually(lambda: two.peer()["own"] == ["192.0.2.10:80/tcp"])
    assert "drain" in two.daemon.states()["web/app1"]


def test_the_backup_meets_whom_the_active_knows(pair: Pair) -> None:
    one, two = pair.in_sync()
    known, met = (half.daemon.home / "kernel" / "near" for half in (one, two))
    # Of their health the peer is told as well.
    one.daemon.until(app1="serving", app2="serving", app3="serving")
    before = one.peer()["entries"]
    known.write_text("0 192.0.2.77\n")
    eventually(lambda: met.exists() and met.read_text() == "0 192.0.2.77\n")
    known.write_text("1 2001:db8::78\n")
    eventually(lambda: met.read_text() == "0 192.0.2.77\n1 2001:db8::78\n")
    assert (one.peer()["entries"], one.peer()["faults"]) == (before + 1, {})


def test_a_vrrp_process_that_begins_again_hears_that_the_copy_is_whole(pair: Pair) -> None:
    _, two = pair.in_sync()
    eventually(lambda: two.routers.heard)
    two.routers.restart()
    eventually(lambda: two.routers.lines == 2)
    two.routers.begin(Role.BACKUP)
    eventually(lambda: two.routers.heard)


def test_live_changes_outlive_their_gateway_and_are_taken_back_where_it_is_active(
    pair: Pair,
) -> None:
    one, two = pair.in_sync()
    assert one.daemon.run("weight", "web/app1", "7", "--reason", "bigger").code == 0
    assert one.daemon.run("weight", "web/app2", "3").code == 0
    eventually(lambda: changes(two) == changes(one) != {})
    (first, _) = two.daemon.client.get("overrides")
    assert (first["reason"], first["value"]) == ("bigger", 7)

    _kill(one.daemon)
    eventually(lambda: not two.routers.heard)
    two.routers.say(Role.ACTIVE)
    eventually(lambda: two.peer()["own"] == ["192.0.2.10:80/tcp"])
    eventually(lambda: two.weights() == {"web/app1": 7, "web/app2": 3, "web/app3": 1})

    # Its author is the other one now: taken back there, it is gone here, although this
    # gateway was away then and had made it.
    one.routers.say(Role.BACKUP)
    number = next(row["id"] for row in two.daemon.client.get("overrides") if row["value"] == 3)
    assert two.daemon.run("unset", str(number)).code == 0
    one.daemon.start()
    eventually(lambda: one.peer()["synced"])
    assert two.daemon.run("weight", "web/app3", "5").code == 0
    eventually(lambda: changes(one).get("services.web.servers.app3.weight") == 5)
    assert two.daemon.run("unset", str(two.daemon.client.get("overrides")[-1]["id"])).code == 0
    eventually(lambda: "services.web.servers.app3.weight" not in changes(one))


def test_a_line_that_was_down_is_named_and_goes_on_where_it_ended(pair: Pair) -> None:
    """However long and whatever happened: what waits is names of keys, each once."""
    pair.ports.sort()  # who listens goes on saying what cut the last line
    one, two = pair.in_sync()
    before, process = one.peer(), two.daemon.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: "silent for 5 s" in one.peer()["cuts"], timeout=20)
    for weight in range(10, 20):
        assert one.daemon.run("weight", "web/app1", str(weight)).code == 0
    assert "no line: silent for 5 s" in one.daemon.run("ha", "peer").out
    assert one.peer()["behind"] <= before["entries"]

    process.send_signal(signal.SIGCONT)
    eventually(lambda: two.peer()["lines"] == 2, timeout=20)
    pair.synced()
    assert changes(two) == changes(one) != {}
    after = one.peer()
    assert (after["copies"], after["resyncs"]) == (before["copies"], before["resyncs"])


def test_an_order_that_was_lifted_while_the_backup_was_away_is_lifted_there_too(
    pair: Pair,
) -> None:
    one, two = pair.in_sync()
    assert two.daemon.run("drain", "web/app3", "--reason", "here").code == 0
    assert one.daemon.run("drain", "web/app1", "--reason", "kernel").code == 0
    eventually(lambda: "drain" in two.daemon.states()["web/app1"])
    two.daemon.end()
    assert one.daemon.run("ready", "web/app1").code == 0
    two.daemon.start()
    pair.synced()
    eventually(lambda: "drain" not in two.daemon.states()["web/app1"])
    assert "drain" in two.daemon.states()["web/app3"]  # its own: nobody there knows of it


def test_what_nobody_remembers_is_dropped_from_before_a_promotion_until_some_time_after_it(
    pair: Pair,
) -> None:
    pair.hold = "3s"
    one, two = pair.in_sync()
    held = two.daemon.home / "kernel" / "held"
    eventually(lambda: held.exists() and held.read_text() == "192.0.2.10:80/tcp\n")
    _kill(one.daemon)
    two.routers.say(Role.ACTIVE)
    eventually(lambda: two.peer()["own"])
    assert held.read_text() == "192.0.2.10:80/tcp\n"
    eventually(lambda: held.read_text() == "", timeout=10)


def test_a_second_promotion_is_held_for_as_long_as_the_first(pair: Pair) -> None:
    """What the first one began does not end it, nor the time as Backup between them."""
    pair.hold = "4s"
    one, two = pair.in_sync()
    held = two.daemon.home / "kernel" / "held"
    eventually(lambda: held.exists() and held.read_text() == "192.0.2.10:80/tcp\n")
    pair.roles(Role.BACKUP, Role.ACTIVE)
    eventually(lambda: two.peer()["own"] and one.peer()["theirs"])
    first = time.monotonic()
    pair.roles(Role.ACTIVE, Role.BACKUP)
    eventually(lambda: two.peer()["theirs"] and not two.peer()["own"])
    eventually(lambda: time.monotonic() > first + 3, timeout=10)
    _kill(one.daemon)
    second = time.monotonic()
    two.routers.say(Role.ACTIVE)
    eventually(lambda: two.peer()["own"])
    eventually(lambda: held.read_text() == "", timeout=10)
    assert time.monotonic() > second + 3


def test_a_renewal_that_is_half_written_cuts_nothing(pair: Pair) -> None:
    one, two = pair.in_sync()
    for name in NAMES:
        (pair.home / f"{name}.pem").write_text("-----BEGIN CERT")
    at = 0 if pair.ports[0] < pair.ports[1] else 1
    said = "certificates that are renewed cannot be read"
    eventually(lambda: said in pair.halves[at].peer()["trouble"], timeout=10)
    assert all(half.peer()["connected"] for half in (one, two))
    for name in NAMES:
        pair.issue(name, pair.authority)
    eventually(lambda: all(half.peer()["lines"] == 2 for half in (one, two)), timeout=20)


def test_who_listens_gives_up_its_line_when_it_ends_or_wants_another(pair: Pair) -> None:
    pair.ports.sort()
    one, two = pair.in_sync()
    pair.hold = "3s"
    one.daemon.file.write_text(pair.yaml())
    assert one.daemon.run("apply", str(one.daemon.file)).code == 0
    eventually(lambda: two.peer()["lines"] == 2, timeout=10)
    began = time.monotonic()
    assert one.daemon.end() == 0
    assert time.monotonic() - began < SOON


def test_a_listen_that_comes_while_its_gateway_is_active_is_replicated(pair: Pair) -> None:
    one, two = pair.in_sync()
    both = ["192.0.2.10:80/tcp", "192.0.2.10:81/tcp"]
    file = pair.home / "new.yaml"
    file.write_text(pair.yaml().replace(both[0], f"[{', '.join(both)}]", 1))
    assert one.daemon.run("apply", "--pair", str(file)).code == 0
    eventually(lambda: one.peer()["own"] == both, timeout=10)
    eventually(lambda: two.peer()["theirs"] == both, timeout=10)
    file.write_text(pair.yaml())
    assert one.daemon.run("apply", "--pair", str(file)).code == 0
    eventually(lambda: one.peer()["own"] == both[:1], timeout=10)
    eventually(lambda: two.peer()["theirs"] == both[:1], timeout=10)


def changes(half: Half) -> dict[str, object]:
    rows = half.daemon.client.get("overrides")
    return {".".join(row["path"]): row["value"] for row in rows}


def test_a_peer_with_another_file_is_shown(pair: Pair) -> None:
    one, two = pair.in_sync()
    assert two.peer()["same_file"]
    one.daemon.file.write_text(pair.yaml("# another file"))
    assert one.daemon.run("apply", str(one.daemon.file)).code == 0
    eventually(lambda: two.peer()["same_file"] is False)
    assert "the file is not the same on both gateways" in two.daemon.run("ha", "peer").out


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_wrong_certificate_is_named_and_mended_without_a_restart(pair: Pair, wrong: str) -> None:
    if wrong == "authority":
        pair.issue("gw1", trustme.CA())
        pair.issue("gw2", trustme.CA())
    else:
        for name in NAMES:
            issued = pair.authority.issue_cert("mallory.example")
            chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
            (pair.home / f"{name}.pem").write_bytes(chain)
            issued.private_key_pem.write_to_path(str(pair.home / f"{name}.key"))
    pair.start()

    def named() -> bool:
        said = [cut for half in pair.halves for cut in half.peer()["cuts"]]
        assert any("certificate" in cut.lower() for cut in said), said
        return True

    eventually(named, timeout=20)
    assert not any(half.peer()["connected"] for half in pair.halves)
    for name in NAMES:
        pair.issue(name, pair.authority)
    eventually(lambda: all(half.peer()["connected"] for half in pair.halves), timeout=20)


def test_who_calls_is_told_that_its_certificate_is_not_believed(pair: Pair) -> None:
    """The other one says nothing: it never knew who that was."""
    pair.ports.sort()
    pair.issue("gw2", trustme.CA())
    pair.start()
    caller = pair.halves[1]

    def told() -> bool:
        out = caller.daemon.run("ha", "peer").out
        assert "without a word: does the peer take our certificate?" in out, out
        return True

    eventually(told, timeout=20)


def test_a_file_runs_on_both_gateways_or_on_neither(pair: Pair) -> None:
    one, two = pair.in_sync()
    file = pair.home / "new.yaml"

    file.write_text(pair.yaml("# new"))
    done = one.daemon.run("apply", "--pair", str(file))
    assert (done.code, done.err) == (0, "")
    assert [half.daemon.client.get("status")["generation"] for half in pair.halves] == [2, 2]
    eventually(lambda: two.peer()["same_file"])

    # One that only the other gateway finds wrong changes neither.
    two.daemon.refuse("192.0.2.11:80")
    more = pair.yaml().replace("192.0.2.10:80/tcp", "[192.0.2.10:80/tcp, 192.0.2.11:80/tcp]", 1)
    file.write_text(more)
    done = one.daemon.run("apply", "--pair", str(file))
    assert done.code == 1
    assert "rolled back on both gateways: 192.0.2.11:80/tcp" in done.err
    eventually(lambda: [_text(half) for half in pair.halves] == [pair.yaml("# new")] * 2)

    file.write_text(pair.yaml().replace("name: gw2", "nam: gw2"))
    done = one.daemon.run("apply", "--pair", str(file))
    assert done.code == 3
    _kill(two.daemon)
    eventually(lambda: not one.peer()["connected"])
    file.write_text(pair.yaml("# newer"))
    done = one.daemon.run("apply", "--pair", str(file))
    assert (done.code, "there is no line to the peer" in done.err) == (6, True)
    assert _text(one) == pair.yaml("# new")


def _text(half: Half) -> str:
    return half.daemon.client.text("config", source="1")
