"""Laws: what is dumped reads back equal, and no input does anything but parse or be
refused."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from lbctl.config import Patch, dump, parse
from lbctl.daemon.compare import changes
from lbctl.errors import InvalidConfig
from lbctl.model import (
    SCHEDULERS,
    AgentProbe,
    ApiListener,
    Check,
    ChecksumForm,
    Config,
    Datapath,
    DnsProbe,
    Drain,
    Encapsulation,
    Endpoint,
    ExecProbe,
    Family,
    FirewallMark,
    Forwarding,
    Frontend,
    Gateway,
    GrpcProbe,
    Hook,
    HttpProbe,
    IcmpProbe,
    LastResort,
    Listen,
    Mac,
    Metric,
    Mode,
    Notify,
    Overload,
    Persistence,
    Preempt,
    Proto,
    Quorum,
    Replication,
    Router,
    Scheduler,
    Server,
    Service,
    TcpProbe,
    Threshold,
    Timing,
    Tls,
    TlsProbe,
    Tracker,
    TrackerKind,
    Trigger,
    Tunnel,
    UdpProbe,
    VipOwner,
    XdpMode,
    family_of,
)
from lbctl.vrrp.settings import with_link_local

EXAMPLE = (Path(__file__).parents[3] / "docs" / "examples" / "lbctl.yaml").read_bytes()
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
LITERAL = TEXT.map(lambda text: "".join(c if c.isalnum() or c in " -:#%/'" else "" for c in text))

names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,6}[a-z0-9])?", fullmatch=True) | st.sampled_from(
    ["null", "true", "no", "1e3", "0o17", "010", "0x1f", "1.5"]
)
ports = st.integers(1, 65535)
interfaces = st.from_regex(r"[a-z][a-z0-9._-]{0,10}", fullmatch=True)


def durations(low: float, high: float):
    whole = st.integers(int(low * 1000), int(high * 1000)).map(lambda ms: ms / 1000)
    return whole | st.floats(low, high)


@st.composite
def timings(draw) -> Timing:
    interval = draw(durations(0.01, 86400))
    return Timing(
        interval,
        draw(st.floats(0.001, interval)),
        draw(st.integers(1, 255)),
        draw(st.integers(1, 255)),
        draw(st.floats(0, 0.5)),
        draw(durations(0.01, 86400)),
    )


statuses = st.tuples(st.integers(100, 599), st.integers(100, 599)).map(lambda r: (min(r), max(r)))
http_probes = st.builds(
    HttpProbe,
    path=LITERAL.map(lambda text: "/" + text.replace(" ", "")),
    host=LITERAL.map(lambda text: text.replace(" ", "")),
    method=st.sampled_from(["GET", "HEAD", "OPTIONS"]),
    headers=st.dictionaries(st.from_regex(r"[A-Za-z-]{1,8}", fullmatch=True), TEXT, max_size=2).map(
        lambda headers: tuple(headers.items())
    ),
    statuses=st.lists(statuses, min_size=1, max_size=3).map(tuple),
    body=LITERAL,
)
FILES = st.sampled_from(["", "/etc/lbctl/ca.pem"])


@st.composite
def tls(draw) -> Tls:
    verify, cert = draw(st.booleans()), draw(FILES)
    days = draw(st.integers(0, 90)) if verify else 0
    name = draw(st.sampled_from(["", "www.example.com"]))
    return Tls(name, draw(FILES), verify, days, cert, draw(FILES) if cert else "")


other_probes = st.one_of(
    st.builds(TlsProbe, tls()),
    st.builds(
        HttpProbe,
        tls=tls(),
        version=st.sampled_from(["1.0", "1.1"]),
        keepalive=st.booleans(),
    ),
    st.builds(UdpProbe, st.binary(max_size=20), st.sampled_from(["", "^ok$"])),
    st.builds(
        DnsProbe,
        st.sampled_from(["example.com", "a.b-c.example"]),
        st.sampled_from(["A", "NS"]),
        st.sampled_from(["NOERROR", "NXDOMAIN"]),
    ),
    st.just(DnsProbe("example.com", answer="192.0.2.7")),
    st.builds(IcmpProbe, st.integers(16, 1400)),
    st.builds(GrpcProbe, st.sampled_from(["", "web"]), st.none() | tls()),
    st.builds(ExecProbe, st.just(("/bin/true", "a b", "é"))),
)
agent_probes = st.builds(
    AgentProbe, speaks=st.just("lbctl"), tls=st.none() | tls(), token=FILES
) | st.builds(AgentProbe, speaks=st.just("haproxy"), tls=st.none(), send=LITERAL)
shares = st.integers(0, 99).map(lambda n: n / 100)


@st.composite
def thresholds(draw) -> Threshold:
    hard = draw(st.integers(1, 100)) / 100
    low = st.integers(0, round(hard * 100) - 1).map(lambda n: n / 100)
    return Threshold(draw(low), hard, draw(low))


@st.composite
def overloads(draw) -> Overload:
    metrics = draw(st.lists(st.sampled_from(Metric), unique=True))
    ordered = [metric for metric in Metric if metric in metrics]
    known = tuple((metric, draw(thresholds())) for metric in ordered)
    return Overload(known, draw(durations(0, 3600)), draw(shares))


hooks = st.builds(
    Hook,
    trigger=st.sampled_from(Trigger),
    command=st.just(("/bin/echo", "x y")),
    delay=durations(0, 3600),
    timeout=durations(0.1, 3600),
    cooldown=durations(0, 3600),
    per_hour=st.integers(1, 3600),
    user=st.sampled_from(["", "nobody"]),
)
BESIDE = (ip_interface("203.0.113.254/24"), ip_interface("2001:db8:cc::9/64"))
outside = st.integers(1, 254).map(lambda n: IPv4Address(f"203.0.113.{n}"))
checks = st.builds(
    Check,
    st.just(TcpProbe()) | http_probes | other_probes,
    timings(),
    st.none() | ports,
    st.none() | outside,
)
tunnels = st.sampled_from([Encapsulation.IPIP, Encapsulation.GRE]).map(Tunnel) | ports.map(
    lambda port: Tunnel(Encapsulation.GUE, port)
)
forwardings = st.sampled_from([Mode.NAT, Mode.FULLNAT, Mode.DR]).map(Forwarding) | tunnels.map(
    lambda tunnel: Forwarding(Mode.TUN, tunnel)
)
schedulers = st.sampled_from(SCHEDULERS).map(Scheduler) | st.sampled_from(
    [
        Scheduler("mh", frozenset({"mh-port", "mh-fallback"})),
        Scheduler("sh", frozenset({"sh-port"})),
    ]
)


@st.composite
def frontends(draw, family: Family):
    if draw(st.booleans()):
        host = draw(st.integers(1, 200))
        address = f"192.0.2.{host}" if family is Family.IPV4 else f"2001:db8:aa::{host:x}"
        parsed = IPv4Address(address) if family is Family.IPV4 else IPv6Address(address)
        return Listen(parsed, draw(ports), draw(st.sampled_from(Proto)))
    return FirewallMark(draw(st.integers(1, 2**32 - 1)), family)


@st.composite
def servers(draw, family: Family, scheduler: Scheduler, keeps_port: bool) -> Server:
    number = draw(st.integers(1, 2000))
    if family is Family.IPV4:
        address = IPv4Address("198.18.0.0") + number
    else:
        address = IPv6Address("2001:db8:bb::") + number
    limit = st.just(0) if scheduler.name in ("mh", "sh") else st.integers(0, 2**32 - 1)
    port = None if keeps_port else draw(st.none() | ports)
    most = draw(limit)
    return Server(
        address, port, draw(st.integers(0, 65535)), most, draw(st.just(0) | st.integers(0, most))
    )


def may_go_through(check: Check, forwarding: Forwarding, listen: Frontend) -> bool:
    """Whether a check may ask for the VIP by way of the server."""
    by_port = not isinstance(check.probe, IcmpProbe | ExecProbe)
    whole = forwarding.mode in (Mode.DR, Mode.TUN) and isinstance(listen, Listen)
    return by_port and whole and check.address is None


@st.composite
def services(draw, used: set, owners: dict, reach: set[Family]) -> Service | None:
    """used: frontends of earlier ones. owners: of their addresses, one each."""
    family, forwarding = draw(st.sampled_from(Family)), draw(forwardings)
    scheduler, owner = draw(schedulers), draw(st.sampled_from(VipOwner))
    listens = draw(st.lists(frontends(family), min_size=1, max_size=3, unique=True))
    listens = tuple(
        one
        for one in listens
        if one not in used
        and (not isinstance(one, Listen) or owners.setdefault(one.address, owner) is owner)
    )
    if not listens:
        return None
    used.update(listens)
    keeps_port = forwarding.mode in (Mode.DR, Mode.TUN)
    one = servers(family, scheduler, keeps_port)
    # Without servers it is one that allows it (`allow_empty`), which is what is written then.
    members = draw(st.lists(one, max_size=4, unique_by=lambda server: server.address))
    sorry = draw(st.none() | one.filter(lambda s: all(s.address != m.address for m in members)))
    check = draw(st.none() | checks)
    if check is not None and check.port is None and not isinstance(listens[0], Listen):
        check = None
    if check is not None and family in reach and may_go_through(check, forwarding, listens[0]):
        check = replace(check, through=draw(st.booleans()))
    keys = draw(st.lists(names, min_size=len(members), max_size=len(members), unique=True))
    prefixes = st.integers(1, 32 if family is Family.IPV4 else 128)
    udp = all(not isinstance(x, Listen) or x.proto is Proto.UDP for x in listens)
    return Service(
        listens,
        dict(zip(keys, members, strict=True)),
        scheduler,
        forwarding,
        check,
        draw(
            st.none()
            | st.builds(
                Persistence, st.integers(1, 86400 * 30), prefixes, st.sampled_from(["", "sip"])
            )
        ),
        draw(st.booleans()) if udp else False,
        owner,
        Drain(draw(durations(0, 604800)), draw(durations(0, 86400))),
        draw(st.sampled_from(LastResort))
        if sorry
        else draw(st.sampled_from([LastResort.NONE, LastResort.ALL])),
        sorry,
        **draw(loads(len(members), check is not None)),
    )


@st.composite
def loads(draw, servers: int, checked: bool) -> dict:
    """What a service has about load, as far as the rest allows it."""
    agent = draw(st.none() | st.builds(Check, agent_probes, timings(), ports, st.none() | outside))
    wanted = draw(st.integers(1, max(1, servers)))
    may = [Trigger.OVERLOAD] * (agent is not None) + [Trigger.DOWN, Trigger.UP] * checked
    known = {hook.trigger: hook for hook in draw(st.lists(hooks, max_size=3))}
    return {
        "agent": agent,
        "overload": draw(st.none() | overloads()) if agent is not None else None,
        "slow_start": draw(st.just(0.0) | durations(0, 3600)),
        "quorum": Quorum(wanted, draw(st.integers(0, max(0, servers - wanted)))),
        "hooks": tuple(known[one] for one in Trigger if one in known and one in may),
    }


peers = st.lists(st.sampled_from(["gw2", "tokyo.example"]), min_size=1, unique=True).map(tuple)
api_listeners = st.none() | st.builds(
    ApiListener,
    st.builds(Endpoint, outside, ports),
    *(st.just(f"/etc/lbctl/{name}.pem") for name in ("gw1", "key", "ca")),
    st.just(()) | peers,
    peers,
)


replications = st.none() | st.builds(
    Replication,
    st.builds(Endpoint, st.just(BESIDE[0].ip), ports),
    st.builds(Endpoint, outside, ports),
    st.just("gw2.example"),
    *(st.just(f"/etc/lbctl/{name}.pem") for name in ("gw1", "key", "ca")),
    durations(0, 60),
)


@st.composite
def configs(draw) -> Config:
    used: set = set()
    beside = draw(st.lists(st.sampled_from(BESIDE), max_size=2, unique=True))
    reach = {family_of(one.ip) for one in beside}
    drawn = draw(st.dictionaries(names, services(used, {}, reach), max_size=3))
    gateway = Gateway(
        draw(interfaces),
        tuple(draw(st.lists(interfaces, max_size=2))),
        draw(st.sampled_from(Datapath)),
        draw(st.sampled_from(XdpMode)),
        draw(st.integers(1024, 1 << 26)),
        tuple(
            draw(
                st.lists(st.integers(0, 255), max_size=2).map(
                    lambda third: [IPv4Network(f"198.18.{n}.0/24") for n in third]
                )
            )
        ),
        tuple(beside),
        draw(api_listeners),
        draw(replications),
        draw(st.sampled_from(["", "a secret of the pair"])),
    )
    found = {name: one for name, one in drawn.items() if one is not None}
    return Config(gateway, found, draw(routers(gateway.front, tuple(found))))


@st.composite
def trackers(draw, services: tuple[str, ...], weighed: bool) -> Tracker:
    subjects = {
        TrackerKind.INTERFACE: interfaces,
        TrackerKind.ROUTE: st.integers(0, 255).map(lambda n: f"198.18.{n}.0/24"),
        TrackerKind.SCRIPT: st.sampled_from(["/bin/true", "/usr/bin/test -e '/a b'", "x: y"]),
        TrackerKind.QUORUM: st.sampled_from(services) if services else st.nothing(),
    }
    kind = draw(st.sampled_from([one for one, of in subjects.items() if not of.is_empty]))
    return Tracker(
        kind,
        draw(subjects[kind]),
        draw(st.none() | st.integers(-253, 253)) if weighed else None,
        draw(durations(0.1, 86400)),
        draw(durations(0.01, 3600)),
        draw(st.integers(1, 255)),
        draw(st.integers(1, 255)),
        draw(st.sampled_from(["nobody", "root"])),
        draw(st.integers(1, 100_000)),
    )


@st.composite
def router(draw, name: str, front: str, vrid: int, services: tuple[str, ...]) -> Router:
    family = draw(st.sampled_from(Family))
    version = 2 if family is Family.IPV4 and draw(st.booleans()) else 3
    numbers = draw(st.lists(st.integers(1, 200), min_size=1, max_size=3, unique=True))
    if family is Family.IPV4:
        first, others = IPv4Address(f"192.0.{vrid}.0"), IPv4Address("198.51.100.0")
        addresses = tuple(first + number for number in numbers)
    else:
        first, others = IPv6Address(f"2001:db8:{vrid:x}::"), IPv6Address("fe80::cc:0")
        addresses = with_link_local(vrid, tuple(first + number for number in numbers))
    priority = draw(st.integers(1, 255))
    hundredths = st.integers(1, 4095).map(lambda n: n / 100)
    return Router(
        name=name,
        interface=draw(st.just(front) | interfaces),
        vrid=vrid,
        addresses=addresses,
        priority=priority,
        interval=float(draw(st.integers(1, 255))) if version == 2 else draw(hundredths),
        version=version,
        mac=draw(st.sampled_from(Mac)),
        peers=tuple(others + n for n in draw(st.lists(st.integers(1, 200), max_size=2))),
        checksum=draw(st.sampled_from(ChecksumForm)),
        accept=draw(st.booleans()),
        preempt=draw(st.sampled_from([Preempt.NEVER, Preempt.ALWAYS])),
        preempt_delay=draw(durations(0, 86400)),
        hold=draw(durations(0, 3600)),
        group=draw(st.just("") | names),
        refresh=draw(durations(0, 86400)),
        trackers=tuple(draw(st.lists(trackers(services, priority < 255), max_size=3))),
        notify=draw(
            st.none()
            | st.builds(
                Notify,
                st.sampled_from(["/bin/tell", "/usr/bin/logger -t 'lbctl: x'", "yes"]),
                st.booleans(),
                st.sampled_from(["nobody", "root"]),
                durations(0.1, 3600),
            )
        ),
    )


@st.composite
def routers(draw, front: str, services: tuple[str, ...]) -> dict[str, Router]:
    found = draw(st.lists(names, max_size=3, unique=True))
    return {name: draw(router(name, front, vrid, services)) for vrid, name in enumerate(found, 1)}


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(configs())
@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
def test_what_is_dumped_reads_back_equal(config: Config) -> None:
    assert parse(dump(config)).config == config


NOUNS = (Gateway, Service, Server, Check, Router, Tracker, Notify, Drain, Quorum)


@given(configs(), configs())
@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
def test_a_difference_is_seen_where_there_is_one_and_said_in_the_files_words(
    one: Config, other: Config
) -> None:
    mute = replace(one, services={n: quiet(s) for n, s in one.services.items()})
    said = list[str]()
    for before, after in ((one, one), (one, other), (one, mute), (mute, one)):
        found = list(changes(before, after))
        assert bool(found) is (before != after)
        said += found
    pythons = ("Probe(", "Timing(", "Threshold(", "Tls(", "Hook(", "Tracker(", "IPv4", "IPv6")
    assert not any(word in line for word in pythons for line in said)
    assert all(": " in line for line in said)


def quiet(service: Service) -> Service:
    """The same with little of what can be said."""
    return Service(service.listens, service.servers, service.scheduler)


def test_each_field_of_a_noun_is_tried_with_more_than_its_default() -> None:
    """A field that is new in the model must get into these strategies, and so into the file."""
    tried: dict[tuple[str, str], set[str]] = {
        (noun.__name__, field.name): set() for noun in NOUNS for field in fields(noun)
    }

    def collect(config: Config) -> None:
        for one in _all_of(config):
            for field in fields(one):
                tried[type(one).__name__, field.name].add(repr(getattr(one, field.name)))

    def untried() -> set[tuple[str, str]]:
        return {at for at, seen in tried.items() if len(seen) < 2}

    tries = settings(max_examples=400, deadline=None, suppress_health_check=SLOW, database=None)
    for number in range(1, 6):  # what a round draws is chance; some fields need several others
        if untried():
            seed(number)(tries(given(configs())(collect)))()
    assert untried() == set()


def _all_of(value: object) -> Iterator[Any]:
    if isinstance(value, NOUNS):
        yield value
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _all_of(one)


@pytest.mark.parametrize("text", ["1e3", "0o17", "010", "true", "no", "~", "1:30", " x ", "- a"])
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    listen, server = Listen.parse("192.0.2.1:80/tcp"), Server(IPv4Address("198.51.100.1"))
    probe = HttpProbe(headers=(("X-Probe", text),), body=text)
    name = text if text.isalnum() else "a"
    service = Service((listen,), {name: server}, check=Check(probe))
    config = Config(Gateway("eth0"), {"web": service})
    assert parse(dump(config)).config == config


def refused_or_read(data: bytes | str, patches: list[Patch]) -> None:
    said = ["read"]
    try:
        parse(data, node="gw1", patches=patches)
    except InvalidConfig as error:
        said = error.faults
    assert said
    assert all(fault.isprintable() for fault in said)


KEYS = ["services", "web", "servers", "app1", "weight", "check", "defaults", "gateway", "x"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
patches = st.builds(
    Patch,
    st.lists(st.sampled_from(KEYS) | st.text(max_size=4), min_size=1, max_size=6).map(tuple),
    json_values,
)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_anything_else(data: bytes) -> None:
    refused_or_read(data, [])


@given(st.text(st.sampled_from("abc:-[]{}&*!|>'\"#%@`,? \n\t<012~"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_yaml_does_anything_else(text: str) -> None:
    refused_or_read("apiVersion: lbctl/v1\n" + text, [])


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_no_mutation_of_a_valid_file_does_anything_else(data) -> None:
    mutated = bytearray(EXAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(mutated)))
        length = data.draw(st.integers(0, 12))
        new = data.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"[", b"}", b": ", b"\n", b"- ", b"&a ", b"*a", b"!!x ", b"9" * 50])
        )
        mutated[where : where + length] = new
    refused_or_read(bytes(mutated), [])


@given(st.lists(patches, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_no_override_does_anything_else(given_patches: list[Patch]) -> None:
    refused_or_read(EXAMPLE, given_patches)


SETTINGS = ["listen", "servers", "scheduler", "mode", "tunnel", "check", "persistence", "drain",
            "sorry", "vip", "oneshot", "last_resort"]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
@given(value=json_values)
@settings(max_examples=40, deadline=None)
def test_no_value_of_a_setting_does_anything_else(setting: str, value) -> None:
    refused_or_read(EXAMPLE, [Patch(("services", "web", setting), value)])
