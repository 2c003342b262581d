"""The small parts around the core: what is said seldom, nft's text, hooks' arguments, scripts'
verdicts, sysctls, and the clock that nobody reads."""

import ast
import socket
import struct
import time
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

import lbctl.vrrp
from lbctl.messages import Role
from lbctl.model import Family, Mac, Notify, Router
from lbctl.vrrp import netlink, run
from lbctl.vrrp.addresses import Addresses
from lbctl.vrrp.errand import Errands
from lbctl.vrrp.netlink import Held, Link, Netlink, Picture
from lbctl.vrrp.node import Fact, Place
from lbctl.vrrp.notify import arguments
from lbctl.vrrp.places import place, state
from lbctl.vrrp.rules import accept_rules
from lbctl.vrrp.seldom import Seldom
from lbctl.vrrp.sysctl import Sysctls
from lbctl.vrrp.watch import Verdict
from lbctl.vrrp.wire import _age
from tests.unit.vrrp.clauses import covers

OWN, VIP = ip_address("192.0.2.1"), ip_address("192.0.2.10")
ROUTER = Router("web", "front", 7, (VIP,))
FRONT = Link(2, "front", bytes(6), up=True, running=True)


def test_the_same_line_comes_seldom_and_says_how_many_there_were() -> None:
    seldom = Seldom(span=10)
    assert [seldom.due("ttl", at) for at in (0.0, 1.0, 9.0, 10.0, 11.0)] == [0, None, None, 2, None]
    assert seldom.due("checksum", 1.0) == 0


def test_a_forger_of_keys_fills_no_memory() -> None:
    seldom = Seldom(limit=10)
    for number in range(1000):
        seldom.due(number, 0.0)
    assert len(seldom._last) <= 10


def test_nothing_is_filtered_where_everything_is_accepted() -> None:
    assert accept_rules([ROUTER]) == accept_rules([])


@covers("9568 6.1-5")
def test_the_owner_always_accepts() -> None:
    assert accept_rules([replace(ROUTER, accept=False, priority=255)]) == accept_rules([])


@covers("9568 6.1-4")
def test_without_accept_the_addresses_are_dropped_and_discovery_passes() -> None:
    six = replace(ROUTER, addresses=(ip_address("2001:db8::1"),), accept=False)
    text = accept_rules([replace(ROUTER, accept=False), six])
    assert "ip daddr { 192.0.2.10 } drop" in text
    assert "ip6 daddr { 2001:db8::1 } drop" in text
    assert text.index("nd-neighbor-solicit") < text.index("drop")


@pytest.mark.parametrize(
    ("role", "word"),
    [(Role.ACTIVE, "MASTER"), (Role.BACKUP, "BACKUP"), (Role.FAULT, "FAULT"),
     (Role.INITIALIZE, "STOP")],
)  # fmt: skip
def test_hooks_are_called_in_either_manner(role: Role, word: str) -> None:
    ours = arguments(Notify("/bin/hook -x"), "web", role, 90, "why not")
    assert ours == ("/bin/hook", "-x", "web", str(role), "why not")
    theirs = arguments(Notify("/bin/hook", keepalived=True), "web", role, 90, "why not")
    assert theirs == ("/bin/hook", "INSTANCE", "web", word, "90")


@pytest.mark.parametrize(
    ("results", "verdicts"),
    [("+", "+"), ("-", "-"), ("+-+", "+++"), ("+--+++", "++---+"), ("--+-+++", "------+")],
)
def test_a_script_s_verdict_follows_rise_and_fall(results: str, verdicts: str) -> None:
    verdict = Verdict(rise=3, fall=2)
    seen = ""
    for result in results:
        verdict.take(result == "+")
        seen += "+" if verdict.holds else "-"
    assert seen == verdicts


def tree(root: Path, **values: str) -> None:
    for name, value in values.items():
        path = root / "ipv4/conf/front" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


def sysctls(root: Path, name: str = "front") -> Sysctls:
    """name: of the interface, by now."""
    return Sysctls(root / "record", root, {FRONT.index: name}.__getitem__)


def test_an_interface_that_was_renamed_gets_its_settings_back(tmp_path: Path) -> None:
    tree(tmp_path, arp_ignore="0", arp_announce="0")
    sysctls(tmp_path).prepare_parent(FRONT)
    (tmp_path / "ipv4/conf/front").rename(tmp_path / "ipv4/conf/wan")
    sysctls(tmp_path, "wan")
    assert (tmp_path / "ipv4/conf/wan/arp_ignore").read_text() == "0"


def test_settings_are_raised_and_put_back(tmp_path: Path) -> None:
    tree(tmp_path, arp_ignore="0", arp_announce="2")
    settings = sysctls(tmp_path)
    settings.prepare_parent(FRONT)
    assert (tmp_path / "ipv4/conf/front/arp_ignore").read_text() == "1"
    assert (tmp_path / "record").exists()
    settings.restore()
    assert (tmp_path / "ipv4/conf/front/arp_ignore").read_text() == "0"
    assert (tmp_path / "ipv4/conf/front/arp_announce").read_text() == "2\n"
    assert not (tmp_path / "record").exists()


def test_settings_of_a_run_that_crashed_are_put_back_by_the_next(tmp_path: Path) -> None:
    tree(tmp_path, arp_ignore="0", arp_announce="0")
    sysctls(tmp_path).prepare_parent(FRONT)
    sysctls(tmp_path)
    assert (tmp_path / "ipv4/conf/front/arp_ignore").read_text() == "0"


def test_the_record_is_replaced_and_never_half_written(tmp_path: Path) -> None:
    """One that was cut off by a crash would lose the originals for ever."""
    tree(tmp_path, arp_ignore="0", arp_announce="0")
    settings = sysctls(tmp_path)
    (tmp_path / "record").write_text("before")
    with (tmp_path / "record").open() as before:
        settings.prepare_parent(FRONT)
        assert before.read() == "before"
    assert "arp_ignore" in (tmp_path / "record").read_text()


def picture(*held: Held, up: bool = True, running: bool = True) -> Picture:
    links = {2: Link(2, "front", bytes(6), up, running)}
    return Picture(links, {(one.index, one.address): one for one in held})


def held(address: str, **more: int) -> Held:
    fields = {"prefix": 24, "tag": 0, "primary": True, "usable": True, **more}
    return Held(2, ip_address(address), **fields)  # type: ignore[arg-type]


@covers("9568 5.1.1.1")
def test_adverts_leave_from_the_first_address_that_is_not_virtual() -> None:
    found = picture(held("192.0.2.10", tag=118), held("192.0.2.99", tag=76), held("192.0.2.1"))
    assert place(found, "front", Family.IPV4, frozenset()) == Place(OWN)


def test_an_address_that_is_renewed_stays_the_first() -> None:
    """A DHCP client renews it every few minutes."""
    found = picture()
    for address in (OWN, ip_address("192.0.2.99"), OWN):
        message = netlink.add_address(2, address)
        for kind, body in netlink.split(message):
            found.take(kind, body)
    assert [one.address for one in found.on(2)] == [OWN, ip_address("192.0.2.99")]


def test_an_address_of_somebody_else_is_seen_to_be_in_the_way(tmp_path: Path) -> None:
    kernel, errands = Netlink(), Errands()
    router, link = replace(ROUTER, mac=Mac.OWN), picture().links[2]
    addresses = Addresses(kernel, errands, sysctls(tmp_path), router, link)
    assert addresses.in_the_way(picture(held("192.0.2.1"))) is None
    trouble = addresses.in_the_way(picture(held("192.0.2.1"), held("192.0.2.10")))
    assert trouble == "192.0.2.10 is on front already, and not lbctl's (ip address del)"
    errands.close()
    kernel.close()


def test_who_waits_for_an_errand_hears_of_a_thread_that_ended() -> None:
    errands = Errands()

    def fail() -> None:
        raise ValueError("what nobody thought of")

    errands.do(fail, "front")
    with pytest.raises(ValueError, match="what nobody thought of"):
        errands.wait("front")
    errands.close()


def test_the_owner_s_own_address_is_its_own() -> None:
    found = picture(held("192.0.2.10", tag=118))
    assert place(found, "front", Family.IPV4, frozenset({VIP})) == Place(VIP)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Picture(), "front: no such interface"),
        (picture(held("192.0.2.1"), up=False), "front is down"),
        (picture(held("192.0.2.1"), running=False), "front has no carrier"),
        (picture(held("2001:db8::1")), "front has no IPv4 address of its own"),
        (picture(held("192.0.2.1", primary=False)), "front has no IPv4 address of its own"),
    ],
)
def test_why_an_interface_cannot_be_used(found: Picture, reason: str) -> None:
    assert place(found, "front", Family.IPV4, frozenset()) == Place(None, reason)


@covers("9568 5.1.2.1")
def test_ipv6_adverts_leave_from_a_link_local_address_that_has_proved_itself() -> None:
    local = ip_address("fe80::1")
    found = picture(held("2001:db8::1"), held("fe80::1"))
    assert place(found, "front", Family.IPV6, frozenset()) == Place(local)
    tentative = picture(held("fe80::1", usable=False))
    assert place(tentative, "front", Family.IPV6, frozenset()).own is None


def test_the_state_of_a_tracked_interface() -> None:
    assert state(picture(), "front") == Fact(True)
    assert state(picture(running=False), "front") == Fact(False, "front has no carrier")
    assert state(picture(), "back") == Fact(False, "no such interface")


def test_nobody_reads_a_clock_that_can_step() -> None:
    """The wall clock may jump: no interval is ever taken from it, but for the age of a
    packet, which the kernel stamps with nothing else (`wire._age` bounds it)."""
    for path in Path(lbctl.vrrp.__file__).parent.glob("*.py"):
        if path.name == "wire.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"time_ns", "now", "utcnow", "CLOCK_REALTIME"}, path
                called = isinstance(node.value, ast.Name) and node.value.id == "time"
                assert not (called and node.attr == "time"), path


@pytest.mark.parametrize(
    "name",
    ["packet", "receive", "effects", "router", "node", "explain", "settings", "frames", "places",
     "seldom", "notify", "rules"],
)  # fmt: skip
def test_the_core_knows_no_socket_and_no_clock(name: str) -> None:
    path = Path(lbctl.vrrp.__file__).parent / f"{name}.py"
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert not imported & {"asyncio", "socket", "time", "os", "logging", "pyroute2", "bcc"}


@pytest.mark.parametrize(
    ("ago", "age"), [(0.001, 0.001), (0.004, 0.004), (0.1, 0.0), (3600.0, 0.0), (-3600.0, 0.0)]
)
def test_the_age_of_a_packet_is_small_or_nothing(
    monkeypatch: pytest.MonkeyPatch, ago: float, age: float
) -> None:
    """A clock that stepped an hour makes it 0, not an hour."""
    now = 1_700_000_000 * 10**9
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: now)
    value = struct.pack("=qq", *divmod(now - round(ago * 1e9), 10**9))
    assert _age([(socket.SOL_SOCKET, 35, value)]) == pytest.approx(age, abs=1e-6)


@pytest.mark.parametrize("priority", ["0", "100", "-1", "1e1", "\u00b2", ""])
def test_a_priority_that_the_kernel_would_refuse_is_refused(
    priority: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main([f"--priority={priority}"])
    assert ended.value.code == 2
    assert "from 1 to 99" in capsys.readouterr().err


def test_who_may_not_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/run/lbctl")

    monkeypatch.setattr(run, "Process", refuse)
    monkeypatch.setattr(run.realtime, "be_on_time", lambda priority: [])
    assert run.main([]) == 5
    assert "sudo lbctl vrrp" in capsys.readouterr().err
