"""`lbctl ipvsadm`: the words as ipvsadm reads them, and what they mean to lbctl. What it
prints is compared with the real ipvsadm's output in tests/vm."""

import json
import re

import pytest

from lbctl.cli.ipvsadm.argv import Arguments, Command, Misuse, parse
from lbctl.cli.ipvsadm.changes import Change, Failure, Services, changes
from lbctl.cli.ipvsadm.listing import connections, show_services
from lbctl.config import parse as parse_file
from lbctl.config.fields import NAME
from lbctl.model import (
    Encapsulation,
    Endpoint,
    Forwarding,
    Mode,
    Persistence,
    Scheduler,
    Server,
    Service,
    Tunnel,
    parse_frontend,
)

WEB = "192.0.2.10:80/tcp"
APP1 = Server(Endpoint.parse("198.51.100.1:80").address, 80, 5, 100, 50)


def tunnelled(listen, forwarding):
    servers = {"a": Server(APP1.address)}
    return Service((parse_frontend(listen),), servers, forwarding=forwarding)


SERVICES = {
    "web": Service((parse_frontend(WEB),), {"app1": APP1}, Scheduler("wlc")),
    "two": Service(
        (parse_frontend("192.0.2.20:80/tcp"), parse_frontend("192.0.2.20:443/tcp")), {"a": APP1}
    ),
    "bare": Service((parse_frontend("[2001:db8::1]:80/tcp"),)),
    "tunnel": tunnelled("192.0.2.30:80/tcp", Forwarding(Mode.TUN)),
    "gue": tunnelled("192.0.2.31:80/tcp", Forwarding(Mode.TUN, Tunnel(Encapsulation.GUE, 6080))),
    "full": tunnelled("192.0.2.32:80/tcp", Forwarding(Mode.FULLNAT)),
    "direct": Service(
        (parse_frontend("fwmark:7/ipv4"),),
        {"a": Server(APP1.address)},
        forwarding=Forwarding(Mode.DR),
    ),
}


def words(line):
    return parse(line.split())


# --- the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command", "service", "options"),
    [
        ("", "list", "", {}),
        ("-Ln", "list", "", {"numeric": ""}),
        ("-Lcn", "list", "", {"connection": "", "numeric": ""}),
        ("-l --stats --exact", "list", "", {"stats": "", "exact": ""}),
        ("-A -t 192.0.2.10:80 -s rr", "add-service", WEB, {"scheduler": "rr"}),
        ("-At192.0.2.10:80 -srr", "add-service", WEB, {"scheduler": "rr"}),
        (
            "--add-service --tcp-service=192.0.2.10:80 -p 60",
            "add-service",
            WEB,
            {"persistent": "60"},
        ),
        ("-A -p -t 192.0.2.10:80", "add-service", WEB, {"persistent": ""}),
        ("-D -u [2001:db8::1]:53", "delete-service", "[2001:db8::1]:53/udp", {}),
        ("-D --sctp-service 192.0.2.1:9", "delete-service", "192.0.2.1:9/sctp", {}),
        ("-D -f 7", "delete-service", "fwmark:7/ipv4", {}),
        ("-D -f 7 -6", "delete-service", "fwmark:7/ipv6", {}),
        (
            "-d -t 192.0.2.10:80 -r 198.51.100.1",
            "delete-server",
            WEB,
            {"real-server": "198.51.100.1"},
        ),
        ("-C", "flush", "", {}),
        ("-S -n", "save", "", {"numeric": ""}),
    ],
)
def test_words_are_read_as_ipvsadm_reads_them(line, command, service, options):
    found = words(line)
    kinds = {"tcp-service", "udp-service", "sctp-service", "fwmark-service", "ipv6"}
    rest = {name: value for name, value in found.options.items() if name not in kinds}
    assert (found.command, found.service, rest) == (command, service, options)


def test_commands_with_values():
    assert words("--set 900 120 300") == Arguments(Command.SET, values=("900", "120", "300"))
    found = words("--start-daemon master --mcast-interface eth1 --syncid 7")
    assert found.values == ("master",)
    assert found.options == {"mcast-interface": "eth1", "syncid": "7"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-A -D -t 192.0.2.10:80", "multiple commands"),
        ("-A -s rr", "You need to supply the 'service-address' option for the 'add-service'"),
        ("-a -t 192.0.2.10:80", "You need to supply the 'real-server' option"),
        ("-S -t 192.0.2.10:80", "Illegal 'service-address' option with the 'save' command"),
        ("-L --stats --rate", "The option 'stats' conflicts with the 'rate' option"),
        ("-A -t 192.0.2.10:80 -u 192.0.2.10:80", "multiple service addresses"),
        ("-A -t example.org:80", "illegal address"),
        ("-A -t 192.0.2.10:99999", "illegal port"),
        ("-A -t 192.0.2.10", "no service for all ports"),
        ("-A -f 0", "illegal firewall mark"),
        ("-A -t", "needs an argument"),
        ("--set 1 2", "needs 3 arguments"),
        ("--bogus", "unknown option --bogus"),
        ("-LQ", "unknown option -Q"),
        ("list", "unexpected argument"),
        ("-Ln -n", "multiple 'numeric'"),
        ("-A -t 192.0.2.10:²", "illegal port"),
        ("-A -t 192.0.2.10:" + "9" * 5000, "illegal port"),
        ("-A -f ²", "illegal firewall mark"),
        ("-A -t 192.0.2.10:80 -p²", "unknown option -²"),
    ],
)
def test_what_ipvsadm_would_not_take_is_refused(line, said):
    with pytest.raises(Misuse) as refused:
        words(line)
    assert said in str(refused.value)


# --- what they mean -------------------------------------------------------------------------


def meant(line):
    return changes(words(line), Services(SERVICES))


def test_a_new_service_waits_for_its_servers():
    (change,) = meant("-A -t 192.0.2.11:80 -s sh -b sh-port,sh-fallback -p 600 -M 255.255.255.0")
    assert change.path == ("services", "192-0-2-11-80-tcp")
    assert change.value["scheduler"] == "sh sh-fallback sh-port"
    assert change.value["persistence"] == {"timeout": 600, "prefix": 24, "engine": ""}
    assert change.value["servers"] == {}
    assert change.value["check"] == "none"


def test_a_new_service_is_as_it_is_said_whatever_the_files_defaults_say():
    (plain,) = meant("-A -t 192.0.2.11:80 -s rr")
    (lasting,) = meant("-A -t [2001:db8::2]:80 -s rr -p 600")
    defaults = {"persistence": {"timeout": "300s", "prefix": 24, "engine": "sip"}}
    head = {"apiVersion": "lbctl/v1", "gateway": {"front": "eth0"}, "defaults": defaults}
    services = {one.path[1]: one.value for one in (plain, lasting)}
    found = parse_file(json.dumps({**head, "services": services}), "a test").config.services
    assert found["192-0-2-11-80-tcp"].persistence is None
    assert found["2001-db8--2-80-tcp"].persistence == Persistence(600, 128)


def test_the_first_server_says_how_the_service_forwards():
    mode, added = meant("-a -t [2001:db8::1]:80 -r [2001:db8:1::1]:8080 -w 3")
    assert mode == Change(("services", "bare", "mode"), "dr")  # ipvsadm's default
    assert added.path == ("services", "bare", "servers", "2001-db8-1--1-8080")
    assert added.value == {"address": "2001:db8:1::1", "port": 8080, "weight": 3}


def test_a_server_of_another_method_is_refused_with_the_words_that_do_it():
    with pytest.raises(Failure, match=r"service web forwards by nat, and this says dr"):
        meant("-a -t 192.0.2.10:80 -r 198.51.100.2")


GUE = "--tun-type gue --tun-port 6080"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"-a -t 192.0.2.30:80 -r 198.51.100.2 -i {GUE}", "tun with ipip, and this says tun with"),
        (f"-e -t 192.0.2.30:80 -r 198.51.100.1 -i {GUE}", "this says tun with gue to port 6080"),
        ("-e -t 192.0.2.30:80 -r 198.51.100.1 -i --tun-type gre", "this says tun with gre"),
        ("-a -t 192.0.2.31:80 -r 198.51.100.2 -i", "tun with gue to port 6080, and this says tun"),
    ],
)
def test_a_server_in_another_tunnel_is_refused(line, said):
    with pytest.raises(Failure, match=said):
        meant(line)


@pytest.mark.parametrize(
    "line",
    [
        "-e -t 192.0.2.30:80 -r 198.51.100.1 -i -w 7",
        "-e -t 192.0.2.30:80 -r 198.51.100.1 -w 7",
        f"-e -t 192.0.2.31:80 -r 198.51.100.1 -i {GUE} -w 7",
        "-e -t 192.0.2.32:80 -r 198.51.100.1 -m -w 7",  # full NAT is `-m` in its own listing
        "-e -t 192.0.2.32:80 -r 198.51.100.1 -w 7",
    ],
)
def test_a_server_is_edited_in_the_words_of_its_listing(line):
    (change,) = meant(line)
    assert (change.path[2:], change.value) == (("servers", "a", "weight"), 7)


def test_a_first_server_in_a_tunnel_says_which():
    listen = "-a -t [2001:db8::1]:80 -r [2001:db8:1::1]:80 -i"
    assert meant(f"{listen} {GUE}")[1] == Change(
        ("services", "bare", "tunnel"), {"type": "gue", "port": 6080}
    )
    assert meant(listen)[1] == Change(("services", "bare", "tunnel"), {"type": "ipip"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-i --tun-type gue --tun-port 6080 --tun-csum", "no checksum options"),
        ("-i --tun-type bogus", "illegal tunnel type specified: bogus"),
        ("--tun-type gre", "need the 'ipip' option"),
    ],
)
def test_a_tunnel_that_lbctl_cannot_make_is_misuse(words, said):
    for verb in ("-a", "-e"):
        with pytest.raises(Misuse, match=said):
            meant(f"{verb} -t 192.0.2.30:80 -r 198.51.100.{1 if verb == '-e' else 2} {words}")


@pytest.mark.parametrize(
    "lines",
    [
        ("-A -t [2001:db8::1]:80", "-A -t [2001:db8:1::]:80"),
        ("-A -t [2001:db8:0:1::]:80", "-A -t [2001:db8::1:0]:80", "-A -t [2001:db8:1::]:80"),
        ("-A -t [::1]:80", "-A -t [1::]:80", "-A -t [::]:180"),
        ("-A -f 7", "-A -f 7 -6", "-A -t 192.0.2.7:7", "-A -u 192.0.2.7:7"),
        tuple(
            f"-a -t 192.0.2.10:80 -m -r {server}"
            for server in ("[2001:db8:1::1]:8080", "[2001:db8::1:1]:8080", "[2001:db8::1]:18080")
        ),
    ],
)
def test_no_two_objects_have_one_name(lines):
    """And where one of this name is there all the same, the daemon refuses."""
    web = Services({"web": SERVICES["web"]})
    made = [changes(words(line), web)[-1] for line in lines]
    assert len({one.path for one in made}) == len(lines)
    assert {one.expect for one in made} == {"absent"}
    for one in made:
        assert re.fullmatch(NAME, one.path[-1])


def test_limits_change_in_an_order_that_is_valid_at_each_step():
    """As with ipvsadm, what is not said falls back to the default."""
    path = ("services", "web", "servers", "app1")
    assert meant("-e -t 192.0.2.10:80 -r 198.51.100.1 -m -w 7") == [
        Change((*path, "weight"), 7),
        Change((*path, "min_connections"), 0),
        Change((*path, "max_connections"), 0),
    ]
    assert meant("-e -t 192.0.2.10:80 -r 198.51.100.1:80 -w 5 -x 300 -y 200")[1:] == [
        Change((*path, "max_connections"), 300),
        Change((*path, "min_connections"), 200),
    ]


def test_what_an_edit_does_not_say_is_not():
    assert set(meant("-E -t 192.0.2.10:80 -s rr")) == {
        Change(("services", "web", "scheduler"), "rr"),
        Change(("services", "web", "persistence"), "none"),
        Change(("services", "web", "oneshot"), False),
    }
    assert Change(("services", "web", "oneshot"), True) in meant("-E -t 192.0.2.10:80 -s rr -o")


def test_a_service_behind_a_mark_has_servers_without_ports():
    (change,) = meant("-d -f 7 -r 198.51.100.1")
    assert change == Change(("services", "direct", "servers", "a"), None)


def test_what_ipvsadm_means_for_one_listen_is_not_done_to_two():
    with pytest.raises(Failure, match="service two has 2 listens"):
        meant("-E -t 192.0.2.20:80 -s rr")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-A -t 192.0.2.10:80", "Service already exists"),
        ("-D -t 192.0.2.99:80", "No such service"),
        ("-a -t 192.0.2.10:80 -r 198.51.100.1 -m", "Destination already exists"),
        ("-e -t 192.0.2.10:80 -r 198.51.100.9 -m", "No such destination"),
    ],
)
def test_failures_have_ipvsadms_words(line, said):
    with pytest.raises(Failure) as failed:
        meant(line)
    assert failed.value.message == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-A -t 192.0.2.11:80 -p ²", "illegal timeout for persistent service: ²"),
        ("-A -t 192.0.2.11:80 -p 99999999999", "illegal timeout for persistent service"),
        ("-A -t [2001:db8::9]:80 -p 60 -M 129", "invalid netmask: 129"),
        ("-A -t 192.0.2.11:80 -p 60 -M 255.0.255.0", "invalid netmask"),
        ("-a -t 192.0.2.10:80 -r 198.51.100.2 -m -w ²", "illegal weight specified: ²"),
        ("-a -t 192.0.2.10:80 -r 198.51.100.2 -m -x -1", "illegal u-threshold specified: -1"),
    ],
)
def test_bad_numbers_are_refused(line, said):
    with pytest.raises(Misuse) as refused:
        meant(line)
    assert said in str(refused.value)


# --- what is printed ------------------------------------------------------------------------


def service(address, **changes):
    plain = {"proto": "tcp", "address": address, "port": 80, "mark": 0, "family": "ipv4"}
    more = {"scheduler": "rr", "flags": [], "persistence": None, "oneshot": False, "servers": []}
    return {**plain, **more, "counters": [0] * 5, "rates": [0] * 5, **changes}


def test_addresses_are_ordered_as_cs_int_orders_them():
    """10.0.0.1 less 192.0.2.1 overflows to a positive number."""
    lines = list(show_services([service("10.0.0.1"), service("192.0.2.1")]))
    assert [line.split()[1] for line in lines[2:]] == ["192.0.2.1:80", "10.0.0.1:80"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (99_999_999, " 99999999"),
        (100_000_000, "  100000K"),
        (10**9, "    1000M"),
        (10**14, "     100T"),
    ],
)
def test_large_numbers_get_a_unit(count, shown):
    line = list(show_services([service("192.0.2.1", counters=[count] * 5)], "stats"))[2]
    assert line.endswith(shown)
    exact = list(show_services([service("192.0.2.1", counters=[count] * 5)], "stats", exact=True))
    assert exact[2].endswith(f" {count}")


ENTRIES = [
    "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
    "TCP CB007164 A1B2 C000020A 0050 C6336401 1F90 ESTABLISHED     897",
    "UDP CB007164 0000 C000020A 13C4 C6336401 13C4 UDP             297 sip    a84b4c76e66710",
]


def test_connections_are_shown_in_clear():
    assert list(connections(ENTRIES))[2:] == [
        "TCP 14:57  ESTABLISHED 203.0.113.100:41394 192.0.2.10:80      198.51.100.1:8080",
        "UDP 04:57  UDP         203.0.113.100:0    192.0.2.10:5060    198.51.100.1:5060",
    ]


def test_connections_are_shown_with_the_engine_that_keeps_them():
    """The two widths are ipvsadm's own."""
    assert list(connections(ENTRIES, engines=True))[1:] == [
        "pro expire state       source             virtual            destination        "
        "pe name          pe_data",
        "TCP 14:57  ESTABLISHED 203.0.113.100:41394 192.0.2.10:80      198.51.100.1:8080",
        "UDP 04:57  UDP         203.0.113.100:0    192.0.2.10:5060    198.51.100.1:5060 "
        "sip                a84b4c76e66710",
    ]
