"""What a data path cannot do is found before it is applied; `auto` says why it chose."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from lbctl.dataplane.capabilities import ABILITIES, choose, unsupported
from lbctl.dataplane.xdp import abi
from lbctl.errors import DataPlaneError, Exit, Unsupported
from lbctl.model import (
    Config,
    Datapath,
    Endpoint,
    Forwarding,
    Gateway,
    Mode,
    Persistence,
    Scheduler,
    Server,
    Service,
    parse_frontend,
)

WEB = Service(
    (parse_frontend("192.0.2.10:80/tcp"),),
    {"app1": Server(Endpoint.parse("198.51.100.1:80").address)},
    Scheduler("mh"),
)
MARK = parse_frontend("fwmark:7/ipv6")


def config(datapath=Datapath.AUTO, **changes):
    return Config(Gateway("eth0", datapath=datapath), {"web": replace(WEB, **changes)})


def test_xdp_has_room_for_so_many_interfaces_and_prefixes():
    prefixes = [ip_network(f"203.0.113.{n}/32") for n in range(256)] * 5
    six = tuple(ip_network(f"2001:db8:{n:x}::/48") for n in range(1024))
    wide = Gateway("eth0", tuple(f"eth{n}" for n in range(1, 9)), direct=(*prefixes, *six))
    said = unsupported(Config(wide, {"web": WEB}), Datapath.XDP)
    assert said == [
        (("gateway", "back"), "xdp has no room for 9 interfaces (it has 8)"),
        (("gateway", "direct"), "xdp has no room for 1280 prefixes of IPv4 (it has 1024)"),
    ]
    assert unsupported(Config(wide, {"web": WEB}), Datapath.IPVS) == []
    least = replace(wide, back=wide.back[:7], direct=(*prefixes[:1024], *six))
    assert unsupported(Config(least, {"web": WEB}), Datapath.XDP) == []
    assert ABILITIES[Datapath.XDP].interfaces == abi.PORTS


@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"scheduler": Scheduler("sed")}, ("scheduler",), "xdp has no scheduler 'sed' (it has lc"),
        ({"scheduler": Scheduler("mh", frozenset({"mh-port"}))}, ("scheduler",), "flag 'mh-port'"),
        ({"forwarding": Forwarding(Mode.TUN)}, ("mode",), "xdp has no mode 'tun' (it has nat)"),
        ({"persistence": Persistence(7201)}, ("persistence", "timeout"), "beyond 7200 s"),
        ({"persistence": Persistence(engine="sip")}, ("persistence", "engine"), "engine 'sip'"),
        ({"listens": (MARK,)}, ("listen", 0), "firewall marks (fwmark:7/ipv6)"),
        ({"listens": (parse_frontend("192.0.2.10:9/sctp"),)}, ("listen", 0), "sctp"),
        (
            {"servers": {"app1": replace(WEB.servers["app1"], max_connections=5)}},
            ("servers", "app1", "max_connections"),
            "xdp has no max_connections with mh (use wlc, or leave it out)",
        ),
        (
            {
                "servers": {
                    "app1": replace(WEB.servers["app1"], max_connections=5, min_connections=3)
                }
            },
            ("servers", "app1", "min_connections"),
            "xdp has no min_connections of a server",
        ),
    ],
)
def test_what_xdp_lacks_is_named_with_its_place(changes, where, what):
    faults = unsupported(config(**changes), Datapath.XDP)
    assert any(path == ("services", "web", *where) and what in said for path, said in faults)
    assert unsupported(config(**changes), Datapath.IPVS) == []
    assert unsupported(config(**changes), Datapath.AUTO) == []


def test_ipvs_forgets_a_oneshot_flow_before_its_answer_is_translated():
    ((where, what),) = unsupported(config(oneshot=True), Datapath.IPVS)
    assert (where, what) == (
        ("services", "web", "oneshot"),
        "ipvs has no oneshot with nat (use dr or tun, or leave it out)",
    )
    assert unsupported(config(oneshot=True, forwarding=Forwarding(Mode.DR)), Datapath.IPVS) == []


def test_auto_takes_xdp_where_it_can():
    assert choose(config(), {}).datapath is Datapath.XDP


def test_auto_says_what_kept_it_from_xdp():
    choice = choose(config(scheduler=Scheduler("sed")), {})
    assert choice.datapath is Datapath.IPVS
    assert "services.web.scheduler: xdp has no scheduler 'sed'" in choice.why
    choice = choose(config(), {Datapath.XDP: "eth0: large receive offload is on"})
    assert (choice.datapath, choice.why) == (
        Datapath.IPVS,
        "auto: not XDP, since eth0: large receive offload is on",
    )


def test_auto_with_nothing_left_says_both_reasons():
    obstacles = {Datapath.IPVS: "modprobe: module ip_vs not found"}
    with pytest.raises(DataPlaneError, match=r"xdp: .*'sed'.*ipvs: modprobe") as told:
        choose(config(scheduler=Scheduler("sed")), obstacles)
    assert told.value.exit_code == Exit.FAILED  # a kernel with IPVS would do: the file may stay


def test_what_the_file_says_is_not_second_guessed():
    assert choose(config(Datapath.IPVS), {}).datapath is Datapath.IPVS
    with pytest.raises(Unsupported, match=r"datapath xdp: .*mode 'tun'"):
        choose(config(Datapath.XDP, forwarding=Forwarding(Mode.TUN)), {})
