"""Valid input: what each way of writing it means."""

import json
import subprocess
import sys
import time
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lbctl.config import Patch, json_schema, parse
from lbctl.config.duration import seconds, show_duration
from lbctl.config.scalar import resolve
from lbctl.errors import InvalidConfig
from lbctl.model import (
    Check,
    Datapath,
    Drain,
    Encapsulation,
    Family,
    FirewallMark,
    Forwarding,
    Gateway,
    HttpProbe,
    LastResort,
    Listen,
    Mode,
    Persistence,
    Scheduler,
    Server,
    Service,
    Timing,
    Tunnel,
    VipOwner,
)

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "lbctl.yaml"
HEAD = "apiVersion: lbctl/v1\ngateway: {front: eth0}\n"
WEB = Service(
    (Listen.parse("192.0.2.10:80/tcp"),),
    {"a": Server(ip_address("198.51.100.1"))},
)


def web(*lines: str, defaults: str = "{}", listen: str = "192.0.2.10:80/tcp") -> Service:
    text = f"{HEAD}defaults: {defaults}\nservices:\n  web:\n    listen: {listen}\n"
    text += "".join(f"    {line}\n" for line in lines)
    if not any(line.startswith("servers:") for line in lines):
        text += "    servers: {a: 198.51.100.1}\n"
    return parse(text).config.services["web"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("y", "y"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-3", -3),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2026-11-22", "2026-11-22"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("192.0.2.1", "192.0.2.1"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("500ms", 0.5, "500ms"),
        ("2s", 2.0, "2s"),
        ("1.5s", 1.5, "1500ms"),
        ("90s", 90.0, "90s"),
        ("300s", 300.0, "300s"),
        ("5m", 300.0, "300s"),
        ("1h", 3600.0, "60m"),
        ("2d", 172800.0, "2d"),
        (0, 0.0, "0s"),
        (3, 3.0, "3s"),
        (0.25, 0.25, "250ms"),
        (0.0001234, 0.0001234, 0.0001234),
    ],
)
def test_durations(text: object, value: float, shown: object) -> None:
    assert seconds(text) == value
    assert seconds(shown) == value
    assert seconds(show_duration(value)) == value


def test_a_service_of_few_words_has_the_defaults_of_the_model() -> None:
    assert web() == WEB


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("scheduler: mh mh-port", "scheduler", Scheduler("mh", frozenset({"mh-port"}))),
        ("mode: dr", "forwarding", Forwarding(Mode.DR)),
        ("mode: tun", "forwarding", Forwarding(Mode.TUN, Tunnel())),
        ("check: none", "check", None),
        ("check: tcp", "check", Check()),
        ("check: {port: 81}", "check", Check(port=81)),
        ("check: {interval: 500ms}", "check", Check(timing=Timing(interval=0.5, timeout=0.5))),
        ("check: {type: http}", "check", Check(HttpProbe())),
        ("persistence: 5m", "persistence", Persistence(300, 32)),
        ("persistence: 60", "persistence", Persistence(60, 32)),
        ("persistence: none", "persistence", None),
        ("persistence: {prefix: 24, engine: sip}", "persistence", Persistence(300, 24, "sip")),
        ("drain: {quiet: 10s}", "drain", Drain(quiet=10.0)),
        ("vip: external", "vip", VipOwner.EXTERNAL),
        ("last_resort: all", "last_resort", LastResort.ALL),
        ("servers: {b: {address: 198.51.100.1:81}}", "servers",
         {"b": Server(ip_address("198.51.100.1"), 81)}),
        ("servers: {b: {address: 198.51.100.1, port: 81, weight: 0}}", "servers",
         {"b": Server(ip_address("198.51.100.1"), 81, 0)}),
    ],
)  # fmt: skip
def test_one_setting(line: str, field: str, value: object) -> None:
    assert getattr(web(line), field) == value


def test_an_http_check_in_full() -> None:
    check = (
        "check: {type: http, path: /health, host: example.com, method: HEAD, "
        'headers: {X-Probe: "1"}, status: [200, "300-399"], body: "^ok"}'
    )
    assert web(check).check == Check(
        HttpProbe(
            "/health", "example.com", "HEAD", (("X-Probe", "1"),), ((200, 200), (300, 399)), "^ok"
        )
    )


def test_a_tunnel_with_a_port() -> None:
    wanted = Forwarding(Mode.TUN, Tunnel(Encapsulation.GUE, 6080))
    assert web("mode: tun", "tunnel: {type: gue, port: 6080}").forwarding == wanted


def test_a_sorry_server() -> None:
    service = web("last_resort: sorry", "sorry: 198.51.100.9:8080")
    assert service.sorry == Server(ip_address("198.51.100.9"), 8080)


def test_listens_are_one_or_several_and_may_be_marks() -> None:
    service = web(listen="[192.0.2.10:80/tcp, fwmark:7/ipv4]")
    assert service.listens == (WEB.listens[0], FirewallMark(7, Family.IPV4))


def test_a_whole_ipv6_client_has_128_bits() -> None:
    service = web(
        "persistence: 60s", "servers: {a: '2001:db8::1'}", listen='"[2001:db8::10]:80/tcp"'
    )
    assert service.persistence == Persistence(60, 128)


@pytest.mark.parametrize(
    ("defaults", "line", "field", "value"),
    [
        ("{scheduler: rr}", "vip: managed", "scheduler", Scheduler("rr")),
        ("{scheduler: rr}", "scheduler: lc", "scheduler", Scheduler("lc")),
        ("{check: none}", "mode: nat", "check", None),
        ("{check: none}", "check: {fall: 5}", "check", Check(timing=Timing(fall=5))),
        ("{check: {fall: 5}}", "check: none", "check", None),
        ("{check: {fall: 5}}", "check: http", "check", Check(HttpProbe(), Timing(fall=5))),
        ("{check: {type: http, path: /x, rise: 3}}", "check: {fall: 5}", "check",
         Check(HttpProbe("/x"), Timing(rise=3, fall=5))),
        ("{check: {type: http, path: /x, rise: 3}}", "check: tcp", "check",
         Check(timing=Timing(rise=3))),
        ("{drain: {quiet: 1s}}", "drain: {timeout: 2s}", "drain", Drain(2.0, 1.0)),
        ("{persistence: {timeout: 60s}}", "persistence: none", "persistence", None),
        ("{tunnel: gre}", "mode: nat", "forwarding", Forwarding()),
        ("{tunnel: gre}", "mode: tun", "forwarding",
         Forwarding(Mode.TUN, Tunnel(Encapsulation.GRE))),
    ],
)  # fmt: skip
def test_what_a_service_takes_from_defaults(
    defaults: str, line: str, field: str, value: object
) -> None:
    assert getattr(web(line, defaults=defaults), field) == value


def test_gateways_add_to_what_they_have_in_common() -> None:
    text = """\
apiVersion: lbctl/v1
gateway: {front: eth0, datapath: xdp, direct: 10.0.0.0/8}
gateways:
  gw1: {}
  gw2: {front: eth7, back: [eth8, eth9]}
"""
    direct = (ip_network("10.0.0.0/8"),)
    assert parse(text, node="gw1").config.gateway == Gateway(
        "eth0", (), Datapath.XDP, direct=direct
    )
    assert parse(text, node="gw2").config.gateway == Gateway(
        "eth7", ("eth8", "eth9"), Datapath.XDP, direct=direct
    )


@pytest.mark.parametrize("node", [None, "anything"])
def test_a_file_with_one_gateway_needs_no_name(node: str | None) -> None:
    assert parse(HEAD, node=node).config.gateway == Gateway("eth0")


def test_json_is_accepted() -> None:
    document = {
        "apiVersion": "lbctl/v1",
        "gateway": {"front": "eth0"},
        "services": {"web": {"listen": "192.0.2.10:80/tcp", "servers": {"a": "198.51.100.1"}}},
    }
    for text in (json.dumps(document), json.dumps(document, indent="\t", separators=(",", ":"))):
        assert parse(text).config.services == {"web": WEB}


BLOCK = """\
apiVersion: lbctl/v1
gateway:
  front: eth0
services:
  web:
    listen:
      - 192.0.2.10:80/tcp
      - 80
    servers:
      a:
        address: 198.51.100.1
        weight: 70000
"""
FLOW = """\
apiVersion: lbctl/v1
gateway: {front: eth0}
services: {web: {listen: [192.0.2.10:80/tcp, 80], # äöü
  servers: {"a": {"address": 198.51.100.1, ä: 1, weight: 70000}}}}
"""
JSON = """\
{"apiVersion":"lbctl/v1","gateway":{"front":"eth0"},
\t"services": {"web": {"listen": ["192.0.2.10:80/tcp", 80],
\t\t"servers": {"a": {"address":"198.51.100.1",
\t\t\t"weight":70000}}}}}
"""


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (BLOCK, ["8:9", "12:17"]),
        (FLOW, ["3:46", "4:44", "4:58"]),
        (JSON, ["2:55", "4:13"]),
        (BLOCK.replace("\n", "\r\n"), ["8:9", "12:17"]),
        ("\ufeff" + BLOCK, ["8:9", "12:17"]),
    ],
    ids=["block", "flow", "json", "crlf", "bom"],
)
def test_places_are_right(text: str, places: list[str]) -> None:
    for given in (text, text.encode()):
        with pytest.raises(InvalidConfig) as caught:
            parse(given)
        found = [fault.split(": ")[0].removeprefix("lbctl.yaml:") for fault in caught.value.faults]
        assert found == places


def test_aliases_stand_for_whole_values() -> None:
    text = (
        HEAD
        + """\
services:
  web: {listen: 192.0.2.10:80/tcp, servers: &all {a: 198.51.100.1}}
  ssh: {listen: 192.0.2.10:22/tcp, servers: *all}
"""
    )
    services = parse(text).config.services
    assert services["ssh"].servers == services["web"].servers


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("sorry: 198.51.100.9", "sorry: has no effect: last_resort is none "
         "(write last_resort: sorry)"),
        ("servers: {a: {address: 198.51.100.1, weight: 0}}", "servers: every server has weight "
         "0: none takes new connections"),
        ("check: {fast_interval: 5s}", "check.fast_interval: 5s is longer than the interval, 2s: "
         "it has no effect"),
    ],
)  # fmt: skip
def test_warnings(line: str, warning: str) -> None:
    text = f"{HEAD}services:\n  web:\n    listen: 192.0.2.10:80/tcp\n    {line}\n"
    text += "" if line.startswith("servers") else "    servers: {a: 198.51.100.1}\n"
    (said,) = parse(text).warnings
    assert said.endswith(f": services.web.{warning}")
    assert said.startswith("lbctl.yaml:6:")


def test_one_check_of_two_paces_is_warned_about_once() -> None:
    text = (
        HEAD
        + """\
services:
  web: {listen: 192.0.2.10:80/tcp, check: {fall: 10}, servers: &all {a: 198.51.100.1:80, b: 198.51.100.2:80}}
  api: {listen: 192.0.2.11:80/tcp, check: {fall: 1}, servers: *all}
  ssh: {listen: 192.0.2.12:80/tcp, check: {fall: 10}, servers: *all}
  own: {listen: 192.0.2.13:80/tcp, check: {fall: 1, type: http}, servers: *all}
"""  # noqa: E501
    )
    (said,) = parse(text).warnings
    assert "services.api.check: 198.51.100.1:80 is checked for web at another pace" in said


def test_udp_with_a_tcp_check_is_warned_about() -> None:
    text = HEAD + "services: {d: {listen: 192.0.2.53:53/udp, servers: {a: 198.51.100.1}}}\n"
    assert parse(text).warnings == (
        "lbctl.yaml:3:12: services.d.check: a tcp check of a service of udp "
        "(write check: none, or check.port)",
    )


# --- overrides --------------------------------------------------------------------------


def patched(*patches: Patch, servers: str = "{a: 198.51.100.1}", more: str = ""):
    text = f"{HEAD}services:\n  web: {{listen: 192.0.2.10:80/tcp, servers: {servers}{more}}}\n"
    return parse(text, patches=patches)


def at(path: str, value: object = None) -> Patch:
    return Patch(tuple(path.split("/")), value)


@pytest.mark.parametrize("servers", ["{a: 198.51.100.1}", "{a: {address: 198.51.100.1}}"])
def test_a_weight_is_overridden_in_either_form_of_a_server(servers: str) -> None:
    parsed = patched(at("services/web/servers/a/weight", 3), servers=servers)
    assert parsed.stale == ()
    assert parsed.config.services["web"].servers["a"] == Server(ip_address("198.51.100.1"), None, 3)


def test_overrides_add_change_and_delete_in_order() -> None:
    parsed = patched(
        at("services/web/servers/b", {"address": "198.51.100.2"}),
        at("services/web/servers/b/weight", 5),
        at("services/web/servers/a"),
        at("services/web/check/interval", "5s"),
        at("services/web/drain/timeout", 7),
        at("gateway/flow_cache", 4096),
        at("services/api", {"listen": "192.0.2.10:81/tcp", "servers": {"x": "198.51.100.3"}}),
        more=", check: tcp",
    )
    services = parsed.config.services
    assert parsed.stale == ()
    assert services["web"].servers == {"b": Server(ip_address("198.51.100.2"), None, 5)}
    assert services["web"].check == Check(timing=Timing(interval=5.0))
    assert services["web"].drain == Drain(timeout=7.0)
    assert services["api"].servers == {"x": Server(ip_address("198.51.100.3"))}
    assert parsed.config.gateway.flow_cache == 4096


def test_overrides_of_a_file_that_moved_on_are_stale_and_change_nothing() -> None:
    patches = (
        at("services/gone/servers/a/weight", 3),
        at("services/web/servers/gone/weight", 3),
        at("services/web/servers/gone"),
        at("services/web/drain"),
        at("gateways/gw9/front", "eth9"),
        at("services/web/oneshot/deeper", 1),
    )
    parsed = patched(*patches, more=", oneshot: false")
    assert parsed.stale == patches
    assert parsed.config == patched().config


def test_an_override_of_a_shared_value_changes_one_place() -> None:
    text = (
        HEAD
        + """\
services:
  web: {listen: 192.0.2.10:80/tcp, servers: &all {a: 198.51.100.1}}
  ssh: {listen: 192.0.2.10:22/tcp, servers: *all}
"""
    )
    services = parse(text, patches=[at("services/ssh/servers/a/weight", 9)]).config.services
    assert (services["web"].servers["a"].weight, services["ssh"].servers["a"].weight) == (1, 9)


def test_an_override_names_something() -> None:
    with pytest.raises(ValueError, match="names what it changes"):
        Patch(())


# --- the rest ---------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_the_example_is_valid(node: str) -> None:
    parsed = parse(EXAMPLE.read_bytes(), node=node)
    assert parsed.warnings == ()
    assert list(parsed.config.services) == ["web", "dns", "mail"]


def test_the_json_schema_describes_every_key() -> None:
    schema = json_schema()
    sections = {"File": schema, **schema["$defs"]}
    for name, section in sections.items():
        for key, value in section.get("properties", {}).items():
            if key != "type":
                assert value.get("description"), f"{name}.{key}"
        if section.get("type") == "object":
            assert section["additionalProperties"] is False
            assert section["description"]


def test_the_json_schema_agrees_with_the_reader() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    import yaml

    validator = jsonschema.Draft202012Validator(json_schema())
    document = yaml.safe_load(EXAMPLE.read_text())
    assert [error.message for error in validator.iter_errors(document)] == []
    document["services"]["web"]["schedular"] = "rr"
    document["services"]["dns"]["servers"]["ns1"] = {"address": "198.51.100.1", "weight": 70000}
    assert len(list(validator.iter_errors(document))) == 2


def test_who_reads_no_file_pays_for_no_reader() -> None:
    code = (
        "import sys, lbctl.config; "
        "sys.exit(' '.join({'pydantic', 'yaml', 'asyncio'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_thousand_services_of_ten_servers_are_read_in_seconds() -> None:
    lines = [HEAD, "services:\n"]
    for s in range(1000):
        lines.append(f"  s{s}:\n    listen: 192.0.2.1:{s + 1}/tcp\n    servers:\n")
        lines += [f"      app{n}: {{address: 198.18.{s // 4}.{n + 1}, weight: 2}}\n"
                  for n in range(10)]  # fmt: skip
    text = "".join(lines)
    started = time.process_time()
    config = parse(text).config
    took = time.process_time() - started
    print(f"1000 x 10: {took:.2f} s of CPU for {len(text) >> 10} KiB")
    assert sum(len(service.servers) for service in config.services.values()) == 10_000
    assert took < 5
