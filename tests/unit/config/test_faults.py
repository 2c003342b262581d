"""Bad input: what is written, and every line that lbctl says about it."""

import warnings

import pytest

from lbctl.config import MAX_BYTES, Patch, parse
from lbctl.errors import Exit, InvalidConfig

HEAD = "apiVersion: lbctl/v1\ngateway: {front: eth0}\nservices:\n"


def faults(text: str | bytes, **options) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        parse(text, **options)
    assert caught.value.exit_code is Exit.INVALID
    return caught.value.faults


def service(*lines: str, listen="192.0.2.10:80/tcp", servers="{a: 198.51.100.1}") -> str:
    """A file whose lines 6 and on are `lines`, in service `web`."""
    head = f"{HEAD}  web: {{}}\n".replace("web: {}", "web:")
    return (
        head
        + f"    listen: {listen}\n"
        + "".join(f"    {x}\n" for x in lines)
        + (f"    servers: {servers}\n" if servers else "")
    )


IN_A_SERVICE = [
    ("schedular: rr", "6:5: services.web.schedular: unknown key (did you mean 'scheduler'?)"),
    (
        "scheduler: wr",
        "6:16: services.web.scheduler: 'wr' is not a scheduler (did you mean 'wrr'?)",
    ),
    (
        "scheduler: mh sh-port",
        "6:16: services.web.scheduler: 'sh-port' is not a flag of mh "
        "(it knows mh-fallback, mh-port)",
    ),
    (
        "mode: routed",
        "6:11: services.web.mode: 'routed' is not one of nat, fullnat, dr, tun",
    ),
    ("oneshot: no", "6:14: services.web.oneshot: 'no' is not a boolean (write true or false)"),
    (
        "oneshot: true",
        "6:14: services.web.oneshot: is for UDP, and '192.0.2.10:80/tcp' is not (remove it)",
    ),
    (
        "last_resort: sorry",
        "6:18: services.web.last_resort: sorry needs a server (write sorry: ADDRESS:PORT)",
    ),
    (
        "tunnel: ipip",
        "6:5: services.web.tunnel: is for mode tun, not nat (write mode: tun)",
    ),
    (
        "tunnel: gue",
        "6:13: services.web.tunnel: port is for gue, which needs one "
        "(write {type: gue, port: 6080})",
    ),
    (
        "check:",
        "6:11: services.web.check: nothing is not a check "
        "(write tcp, http, none, or a mapping with type)",
    ),
    (
        "check: htpp",
        "6:12: services.web.check: 'htpp' is not a type of check (did you mean 'http'?)",
    ),
    (
        "check: {type: tcp, path: /}",
        "6:24: services.web.check.path: is not for a tcp check (write type: http, or remove it)",
    ),
    ("check: {fall: 0}", "6:19: services.web.check.fall: 0 is too small (at least 1)"),
    ("check: {rise: -1}", "6:19: services.web.check.rise: -1 is too small (at least 1)"),
    ("check: {fall: 2.5}", "6:19: services.web.check.fall: 2.5 is not a whole number"),
    (
        "check: {interval: 2 s}",
        "6:23: services.web.check.interval: '2 s' is not a duration "
        "(write 500ms, 2s, 5m, 1h, or a number of seconds)",
    ),
    (
        "check: {interval: 1:30}",
        "6:23: services.web.check.interval: '1:30' is not a duration "
        "(write 500ms, 2s, 5m, 1h, or a number of seconds)",
    ),
    (
        "check: {interval: 400d}",
        "6:23: services.web.check.interval: 400d is too long (10ms to 1d)",
    ),
    (
        "check: {interval: .inf}",
        "6:23: services.web.check.interval: inf is not a number of seconds",
    ),
    (
        "check: {interval: 0}",
        "6:23: services.web.check.interval: 0s is too short (10ms to 1d)",
    ),
    (
        "check: {interval: 2s, timeout: 3s}",
        "6:36: services.web.check.timeout: 3s is longer than the interval, 2s "
        "(lower it, or raise the interval)",
    ),
    (
        "check: {type: http, body: '['}",
        "6:31: services.web.check.body: '[' is not a regular expression: "
        "unterminated character set at position 0",
    ),
    (  # good for text, and not for the bytes of a datagram
        "check: {type: udp, expect: '\\u00e9'}",
        "6:32: services.web.check.expect: '\\u00e9' is not a regular expression: "
        "bad escape \\u at position 0",
    ),
    (
        "check: {type: http, path: health}",
        "6:31: services.web.check.path: 'health' is not a path (write /health; encode spaces)",
    ),
    (
        "check: {type: http, status: [200, 299-200]}",
        "6:39: services.web.check.status[1]: '299-200' is not a range of HTTP statuses "
        "(100 to 599)",
    ),
    (
        'check: {type: http, headers: {X-A: "a\\r\\nB: c"}}',
        "6:40: services.web.check.headers.X-A: 'a\\x0d\\x0aB: c' is not a header's value "
        "(one line of Latin-1)",
    ),
    (
        "check: {address: 239.1.1.1}",
        "6:22: services.web.check.address: '239.1.1.1' is a multicast address "
        "(use that of one machine)",
    ),
    (
        "persistence: {prefix: 33}",
        "6:27: services.web.persistence.prefix: 33 is too large for IPv4 clients (at most 32)",
    ),
    (
        "persistence: {prefix: 0}",
        "6:27: services.web.persistence.prefix: 0 is too small (at least 1)",
    ),
    (
        "persistence: 1500ms",
        "6:18: services.web.persistence.timeout: 1500ms is not a whole number of seconds",
    ),
    (
        "drain: {timeout: 30d}",
        "6:22: services.web.drain.timeout: 30d is too long (0s to 7d)",
    ),
    (
        "<<: {mode: dr}",
        "6:5: services.web: merge keys are not known here "
        "(use defaults, or an alias for a whole value)",
    ),
    (
        "mode: !!str nat",
        "6:11: services.web.mode: has the tag 'tag:yaml.org,2002:str' "
        "(tags are not known here: remove it)",
    ),
    (
        "vip: *managed",
        "6:10: services.web.vip: *managed names no value before it",
    ),
]


@pytest.mark.parametrize(("line", "fault"), IN_A_SERVICE, ids=[line for line, _ in IN_A_SERVICE])
def test_one_fault_in_a_service(line: str, fault: str) -> None:
    said = faults(service(line))
    # an alias without a value leaves nothing behind, and that is said, too
    assert said[0] == f"lbctl.yaml:{fault}"
    assert len(said) == 1 or "*" in line


SERVERS = [
    ("{}", "6:5: services.web.servers: an empty service (write at least one server)"),
    ("", "6:13: services.web.servers: nothing is not a mapping"),
    ("[198.51.100.1]", "6:14: services.web.servers: a list is not a mapping"),
    (
        "{a: {address: 198.51.100.1, weight: 70000}}",
        "6:50: services.web.servers.a.weight: 70000 is too large (at most 65535)",
    ),
    (
        "{a: {address: 198.51.100.1, weight: -1}}",
        "6:50: services.web.servers.a.weight: -1 is too small (at least 0)",
    ),
    (
        "{a: {address: 198.51.100.1, weight: true}}",
        "6:50: services.web.servers.a.weight: true is not a whole number",
    ),
    (
        "{a: {address: 198.51.100.1, wieght: 1}}",
        "6:42: services.web.servers.a.wieght: unknown key (did you mean 'weight'?)",
    ),
    (
        "{a: {port: 80}}",
        "6:15: services.web.servers.a: 'address' is missing (write address: 198.51.100.11)",
    ),
    (
        "{a: app.example}",
        "6:18: services.web.servers.a.address: 'app.example' is not ADDRESS or ADDRESS:PORT "
        "(names are not resolved)",
    ),
    (
        "{a: 198.51.100.1:99999}",
        "6:18: services.web.servers.a.address: '198.51.100.1:99999' has no valid port (1 to 65535)",
    ),
    (
        "{a: 0.0.0.0}",
        "6:18: services.web.servers.a.address: '0.0.0.0' is the unspecified address "
        "(write the address itself)",
    ),
    (
        "{a: 255.255.255.255}",
        "6:18: services.web.servers.a.address: '255.255.255.255' is the broadcast address "
        "(use that of one machine)",
    ),
    (
        "{a: {address: 198.51.100.1:80, port: 81}}",
        "6:15: services.web.servers.a: has two ports, 80 and 81 (keep one)",
    ),
    (
        "{App: 198.51.100.1}",
        "6:15: services.web.servers.App: is not a name "
        "(a-z, 0-9 and . _ - inside, at most 63 characters)",
    ),
    (
        "{a: 198.51.100.1, b: 198.51.100.1:80}",
        "6:35: services.web.servers.b: '198.51.100.1:80' is in this service twice (keep one); "
        "see services.web.servers.a in lbctl.yaml:6:18",
    ),
    (
        '{a: "2001:db8::1"}',
        "6:18: services.web.servers.a.address: '2001:db8::1' cannot serve '192.0.2.10:80/tcp': "
        "another address family (mode nat needs one service for each)",
    ),
    (
        "{a: 192.0.2.10:8080}",
        "6:18: services.web.servers.a.address: '192.0.2.10' is a VIP: traffic would loop "
        "(write the server's own); see services.web.listen[0] in lbctl.yaml:5:13",
    ),
    (
        "{a: 198.51.100.1, a: 198.51.100.2}",
        "6:32: services.web.servers.a: is written twice (first in line 6): keep one",
    ),
]


@pytest.mark.parametrize(("servers", "fault"), SERVERS, ids=[text for text, _ in SERVERS])
def test_one_fault_among_servers(servers: str, fault: str) -> None:
    assert faults(service(f"servers: {servers}", servers="")) == [f"lbctl.yaml:{fault}"]


LISTENS = [
    ('"80"', "5:13: services.web.listen[0]: '80' has no address (write ADDRESS:PORT/PROTO)"),
    ("80", "5:13: services.web.listen[0]: 80 has no address (write ADDRESS:PORT/PROTO)"),
    ("192.0.2.10:80", "5:13: services.web.listen[0]: '192.0.2.10:80' has no protocol "
     "(write ADDRESS:PORT/PROTO)"),
    ("192.0.2.10:80/icmp", "5:13: services.web.listen[0]: '192.0.2.10:80/icmp': "
     "protocol is one of tcp, udp, sctp"),
    ("224.0.0.1:80/tcp", "5:13: services.web.listen[0]: '224.0.0.1' is a multicast address "
     "(use that of one machine)"),
    ('"[::]:80/tcp"', "5:13: services.web.listen[0]: '::' is the unspecified address "
     "(write the address itself)"),
    ('"[::ffff:192.0.2.1]:80/tcp"', "5:13: services.web.listen[0]: '::ffff:c000:201' is an "
     "IPv4 address (write 192.0.2.1)"),
    ("fwmark:0/ipv4", "5:13: services.web.listen[0]: 'fwmark:0/ipv4': a firewall mark is a "
     "number from 1 to 4294967295"),
    ("fwmark:7/ipv4", "6:18: services.web.servers.a: has no port, and 'fwmark:7/ipv4' gives "
     "none: nothing to check (write check.port)"),
    ("[]", "5:13: services.web.listen: is empty (write at least one, or remove it)"),
    ("[192.0.2.10:80/tcp, 192.0.2.10:80/tcp]", "5:33: services.web.listen[1]: "
     "'192.0.2.10:80/tcp' overlaps (a listen belongs to one service); "
     "see services.web.listen[0] in lbctl.yaml:5:14"),
]  # fmt: skip


@pytest.mark.parametrize(("listen", "fault"), LISTENS, ids=[text for text, _ in LISTENS])
def test_one_fault_in_a_listen(listen: str, fault: str) -> None:
    assert faults(service(listen=listen)) == [f"lbctl.yaml:{fault}"]


WHOLE = [
    (b"", "1:1: the file is empty (write at least apiVersion and gateway)"),
    (b"# nothing\n", "1:1: the file is empty (write at least apiVersion and gateway)"),
    (b"- a\n", "1:1: the file is a list, not a mapping (write apiVersion: lbctl/v1)"),
    (b"gateway: {front: eth0}\n", "1:1: the file has no apiVersion (write apiVersion: lbctl/v1)"),
    (
        b"apiversion: lbctl/v1\n",
        "1:1: the file has no apiVersion "
        "(write apiVersion: lbctl/v1 in place of 'apiversion')",
    ),
    (
        b"apiVersion: lbctl/v2\nwhatever: 1\n",
        "1:13: apiVersion: 'lbctl/v2' is not supported (this lbctl reads lbctl/v1)",
    ),
    (b"apiVersion: lbctl/v1\n", "1:1: gateway: 'front' is missing: the interface that VIPs "
     "live on (write front: eth0)"),
    (
        b"\x7fELF\x02\x01\x01\0\0",
        "1:1: the file has the control character U+007F: not a text file?",
    ),
    (b"a: b\nc: \0", "2:4: the file has the control character U+0000: not a text file?"),
    (b"a: b\nc: d\xff", "2:5: the file is not UTF-8 text: byte 0xff (save it as UTF-8)"),
    ("a: b".encode("utf-16"), "1:1: the file is UTF-16 text (save it as UTF-8)"),
    (b"a" * (MAX_BYTES + 1), "1:1: the file is larger than 8 MiB: no configuration is"),
    (b"[" * 500, "1:34: [0][0][0]: is nested deeper than 32"),
    (b"[" * 100_000, None),  # newer libyaml counts as well, and says so in its own words
    (
        b"a: [b\nc: d\n",
        "2:2: the file is not YAML: did not find expected ',' or ']' "
        "(while parsing a flow sequence from line 1)",
    ),
    (
        b"a:\n\tb: c\n",
        "2:1: the file is not YAML: found character that cannot start any token "
        "(while scanning for the next token from line 2) (indent with spaces, not tabs)",
    ),
    (b"a: &a [*a]\n", None),
    (b"apiVersion: lbctl/v1\ngateway: {front: eth0}\n---\na: b\n", "3:1: the file "
     "has a second document here (one file is one document)"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "fault"), WHOLE, ids=[str(data[:20]) for data, _ in WHOLE])
def test_a_file_that_is_none(data: bytes, fault: str | None) -> None:
    said = faults(data)
    assert said
    assert fault is None or said == [f"lbctl.yaml:{fault}"]


def test_aliases_that_explode_are_refused_before_they_do() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    said = faults("\n".join(lines))
    assert said == ["lbctl.yaml:6:25: a5[3]: takes the file past 500000 values, aliases expanded"]


def test_aliases_that_nest_are_refused() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 40))]
    assert faults("\n".join(lines))[0].endswith("is nested deeper than 32, aliases expanded")


def test_a_fault_in_one_service_lets_all_others_be_reported() -> None:
    text = (
        HEAD
        + """\
  api:
    listen: 192.0.2.10:80/tcp
    servers: {}
  broken: 7
  web:
    listen: ["80", 192.0.2.10:80/tcp]
    mode: dri
    servers:
      app1: {address: 198.51.100.11, weight: 70000}
      app2: "198.51.100.12:8080"
      app3: "198.51.100.12:8080"
  Web: {}
"""
    )
    assert faults(text, name="x.yaml") == [
        "x.yaml:6:5: services.api.servers: an empty service (write at least one server)",
        "x.yaml:7:11: services.broken: 7 is not a mapping",
        "x.yaml:9:14: services.web.listen[0]: '80' has no address (write ADDRESS:PORT/PROTO)",
        "x.yaml:9:20: services.web.listen[1]: '192.0.2.10:80/tcp' overlaps "
        "(a listen belongs to one service); see services.api.listen[0] in x.yaml:5:13",
        "x.yaml:10:11: services.web.mode: 'dri' is not one of nat, fullnat, dr, tun "
        "(did you mean 'dr'?)",
        "x.yaml:12:46: services.web.servers.app1.weight: 70000 is too large (at most 65535)",
        "x.yaml:15:3: services.Web: is not a name "
        "(a-z, 0-9 and . _ - inside, at most 63 characters)",
        "x.yaml:15:3: services.Web: 'listen' is missing (write listen: ADDRESS:PORT/PROTO)",
        "x.yaml:15:3: services.Web: has no servers: an empty service "
        "(write at least one under servers)",
    ]


def test_a_fault_in_defaults_is_said_once() -> None:
    text = (
        HEAD.replace("services:", "defaults: {mode: drr, check: {fall: 0}}\nservices:")
        + """\
  a: {listen: 192.0.2.1:80/tcp, servers: {x: 198.51.100.1}}
  b: {listen: 192.0.2.2:80/tcp, servers: {x: 198.51.100.1}}
"""
    )
    assert faults(text) == [
        "lbctl.yaml:3:18: defaults.mode: 'drr' is not one of nat, fullnat, dr, tun "
        "(did you mean 'dr'?)",
        "lbctl.yaml:3:37: defaults.check.fall: 0 is too small (at least 1)",
    ]


def test_a_setting_that_cannot_be_read_clashes_with_nothing() -> None:
    mode = "mode: 'tum' is not one of nat, fullnat, dr, tun (did you mean 'tun'?)"
    text = service("mode: tum", servers='{a: "2001:db8::1"}')
    assert faults(text) == [f"lbctl.yaml:6:11: services.web.{mode}"]
    text = service(servers='{a: "2001:db8::1"}')
    text = text.replace("services", "defaults: {mode: tum}\nservices")
    assert faults(text) == [f"lbctl.yaml:3:18: defaults.{mode}"]


def test_what_clashes_with_a_default_is_shown_where_the_default_is() -> None:
    text = (
        HEAD.replace("services:", "defaults: {check: {timeout: 1s}}\nservices:")
        + """\
  a: {listen: 192.0.2.1:80/tcp, servers: {x: 198.51.100.1}, check: {interval: 500ms}}
"""
    )
    assert faults(text) == [
        "lbctl.yaml:3:29: services.a.check.timeout: 1s is longer than the interval, 500ms "
        "(lower it, or raise the interval)"
    ]


GATEWAYS = "apiVersion: lbctl/v1\ngateway: {back: eth1}\ngateways:\n  gw1: {front: a}\n"


@pytest.mark.parametrize(
    ("text", "node", "fault"),
    [
        (GATEWAYS + "  gw2: {}\n", "gw1", "5:3: gateways.gw2: 'front' is missing: the interface "
         "that VIPs live on (write front: eth0)"),
        (GATEWAYS + "  gw2: {front: b}\n", None, "3:1: gateways: which of gw1, gw2 is this "
         "gateway? (name it: --node gw1)"),
        (GATEWAYS, "gw3", "3:1: gateways: has no gateway 'gw3' (did you mean 'gw1'?)"),
        (GATEWAYS + "  gw2: {front: 'eth0:1'}\n", "gw1", "5:16: gateways.gw2.front: 'eth0:1' is "
         "not an interface (at most 15 characters)"),
        (GATEWAYS.replace("back: eth1", "direct: 198.51.100.1/24"), "gw1", "2:19: "
         "gateway.direct[0]: '198.51.100.1/24' has bits set past its prefix "
         "(did you mean '198.51.100.0/24'?)"),
    ],
)  # fmt: skip
def test_faults_of_gateways(text: str, node: str | None, fault: str) -> None:
    assert faults(text, node=node) == [f"lbctl.yaml:{fault}"]


def test_a_regex_that_later_pythons_read_otherwise_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests
        said = faults(service("check: {type: http, body: '[[a]'}"))
    assert "Possible nested set" in said[0]


def test_the_sorry_server_has_its_name_to_itself() -> None:
    sorry = "sorry: 198.51.100.9"
    text = service("last_resort: sorry", sorry, servers="{sorry: 198.51.100.1}")
    assert faults(text) == [
        "lbctl.yaml:8:15: services.web.servers.sorry: is the name of the sorry server "
        "(rename this one)"
    ]


def test_dr_keeps_the_port() -> None:
    assert faults(service("mode: dr", servers="{a: 198.51.100.1:8080}")) == [
        "lbctl.yaml:7:18: services.web.servers.a.port: 8080: mode dr keeps the listen's port, 80 "
        "(leave it out)"
    ]


BESIDE = "{front: eth0, probe: 198.51.100.9/24}"
DR = ("mode: dr", "check: {type: http, through: true}")


@pytest.mark.parametrize(
    ("lines", "gateway", "fault"),
    [
        (DR[1:], BESIDE, "6:34: services.web.check.through: is for modes dr and tun: in mode nat "
            "the server has no VIP (remove it)"),
        (DR, "{front: eth0}", "7:34: services.web.check.through: needs an address to ask from "
            "(write gateway.probe: 198.51.100.9/24, one that is unused)"),
        ((DR[0], "check: {through: true, address: 198.51.100.7}"), BESIDE,
            "7:22: services.web.check.through: asks for the VIP, and address names another "
            "(keep one)"),
        ((DR[0], "check: {type: icmp, through: true}"), BESIDE,
            "7:25: services.web.check.through: is not for a icmp check (write type: tcp, "
            "or remove it)"),
        (DR, "{front: eth0, probe: 198.51.100.1/24}",
            "2:31: gateway.probe[0]: '198.51.100.1' is a server's (write an address that "
            "nobody has)"),
        (DR, "{front: eth0, probe: [198.51.100.9/24, 198.51.100.8/24]}",
            "2:49: gateway.probe[1]: '198.51.100.8/24' is a second of its family (keep one); "
            "see gateway.probe[0] in lbctl.yaml:2:32"),
        (DR, "{front: eth0, probe: 198.51.100.9}",
            "2:31: gateway.probe[0]: '198.51.100.9' has no prefix (write 198.51.100.9/24)"),
    ],
    ids=["nat", "no address", "two places", "icmp", "a server's", "two", "no prefix"],
)  # fmt: skip
def test_checks_through_servers_need_a_way(lines, gateway, fault) -> None:
    text = service(*lines).replace("{front: eth0}", gateway)
    assert [one.removeprefix("lbctl.yaml:") for one in faults(text)] == [fault]


def test_a_dr_server_that_is_asked_at_its_own_address_is_a_warning() -> None:
    [said] = parse(service("mode: dr")).warnings
    assert "asks the server's own address: one without the VIP passes" in said
    with_way = service(*DR).replace("{front: eth0}", BESIDE)
    assert parse(with_way).warnings == ()


def test_a_vip_is_managed_or_not() -> None:
    text = (
        service() + "  api: {listen: 192.0.2.10:81/tcp, vip: external, servers: {a: 198.51.100.1}}"
    )
    assert faults(text) == [
        "lbctl.yaml:7:17: services.api.listen[0]: '192.0.2.10' is external here and managed "
        "elsewhere (keep one); see services.web.listen[0] in lbctl.yaml:5:13"
    ]


def test_a_flood_of_faults_is_cut() -> None:
    said = faults(HEAD + "".join(f"  s{n}: 7\n" for n in range(3000)))
    assert len(said) == 1001
    assert said[-1] == "and more faults than these 1000"


def test_an_override_is_named_in_place_of_the_file() -> None:
    weight = Patch(("services", "web", "servers", "a", "weight"), 70000)
    added = Patch(("services", "web", "servers", "b"), {"adress": "198.51.100.1"})
    listen = Patch(("services", "api"), {"listen": "192.0.2.10:80/tcp", "servers": {"a": "::1"}})
    assert sorted(faults(service(), patches=[weight, added, listen])) == [
        "override services.api.listen[0]: '192.0.2.10:80/tcp' overlaps (a listen belongs to one "
        "service); see services.web.listen[0] in lbctl.yaml:5:13",
        "override services.api.servers.a.address: '::1' cannot serve '192.0.2.10:80/tcp': another "
        "address family (mode nat needs one service for each)",
        "override services.web.servers.a.weight: 70000 is too large (at most 65535)",
        "override services.web.servers.b.adress: unknown key (did you mean 'address'?)",
        "override services.web.servers.b: 'address' is missing (write address: 198.51.100.11)",
    ]


def test_an_override_that_deletes_too_much_is_named() -> None:
    gone = Patch(("services", "web", "servers", "a"), None)
    assert faults(service(), patches=[gone]) == [
        "lbctl.yaml:6:5: services.web.servers: an empty service (write at least one server) "
        "(an override deletes services.web.servers.a)"
    ]
