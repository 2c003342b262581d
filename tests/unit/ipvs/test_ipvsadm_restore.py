"""`lbctl ipvsadm -R`: many lines as one change."""

import json
import time

import pytest

from lbctl.cli.ipvsadm import command
from lbctl.cli.ipvsadm.argv import Command, Misuse
from lbctl.cli.ipvsadm.changes import Change, Failure
from lbctl.cli.ipvsadm.restore import fold
from lbctl.errors import InvalidConfig
from lbctl.model import Endpoint, Server, Service, parse_frontend

APP1 = Server(Endpoint.parse("198.51.100.1:80").address, 80)
HELD = {"web": Service((parse_frontend("192.0.2.10:80/tcp"),), {"app1": APP1})}
NEW = ("services", "192-0-2-20-80-tcp")


def folded(*lines, services=HELD):
    return fold(lines, services)


def test_a_new_service_takes_its_servers_along():
    found = folded(
        "# a table",
        "-A -t 192.0.2.20:80 -s rr",
        "-a -t 192.0.2.20:80 -r 198.51.100.1:80 -m -w 3",
        "",
        "-a -t 192.0.2.20:80 -r 198.51.100.2:80 -m",
        "-e -t 192.0.2.20:80 -r 198.51.100.2:80 -m -w 7",
        "-a -t 192.0.2.20:80 -r 198.51.100.3:80 -m",
        "-d -t 192.0.2.20:80 -r 198.51.100.3:80",
        "-E -t 192.0.2.20:80 -s wlc",
    )
    assert list(found.changes) == [NEW]
    made = found.changes[NEW]
    assert made.expect == "absent"
    assert made.value["mode"] == "nat"
    assert made.value["scheduler"] == "wlc"
    assert made.value["servers"] == {
        "198-51-100-1-80": {"address": "198.51.100.1", "port": 80, "weight": 3},
        "198-51-100-2-80": {"address": "198.51.100.2", "port": 80, "weight": 7},
    }


def test_what_is_there_is_changed_where_it_is():
    found = folded(
        "-a -t 192.0.2.10:80 -r 198.51.100.2:80 -m",
        "-e -t 192.0.2.10:80 -r 198.51.100.1:80 -m -w 5",
        "-Z",
    )
    assert [".".join(path) for path in found.changes] == [
        "services.web.servers.198-51-100-2-80",
        "services.web.servers.app1.weight",
    ]
    assert [one.command for one in found.rest] == [Command.ZERO]


def test_what_comes_and_goes_is_no_change():
    assert folded("-A -t 192.0.2.20:80", "-D -t 192.0.2.20:80").changes == {}
    found = folded("-D -t 192.0.2.10:80", "-A -t 192.0.2.10:80 -s rr")
    assert [(path[-1], one.expect) for path, one in found.changes.items()] == [
        ("web", "any"),
        ("192-0-2-10-80-tcp", "absent"),
    ]


def test_all_of_it_may_be_removed_first():
    found = folded("-C --yes", "-A -t 192.0.2.20:80")
    assert found.changes[("services", "web")] == Change(("services", "web"), None, force=True)
    assert NEW in found.changes


@pytest.mark.parametrize(
    ("lines", "kind", "said"),
    [
        (("-A -t 192.0.2.20:80", "-A -t 192.0.2.20:80"), Failure, "line 2: Service already exists"),
        (("", "-a -t 192.0.2.99:80 -r 198.51.100.1"), Failure, "line 2: No such service"),
        (("-A -t 192.0.2.20:\u00b2",), Misuse, "line 1: illegal port"),
        (("-C",), Misuse, "line 1: -C asks, and nobody can answer here"),
        (("-R",), Misuse, "line 1: -R within -R"),
    ],
)
def test_a_line_that_is_refused_is_named(lines, kind, said):
    with pytest.raises(kind) as refused:
        folded(*lines)
    assert str(refused.value).startswith(said)


def test_servers_of_one_service_in_two_tunnels_are_refused():
    """Each line is as `-S` prints it."""
    lines = (
        "-A -t 192.0.2.77:80 -s rr",
        "-a -t 192.0.2.77:80 -r 198.51.100.1:80 -i --tun-type gue --tun-port 6080 --tun-nocsum",
        "-a -t 192.0.2.77:80 -r 198.51.100.2:80 -i -w 1",
    )
    (change,) = folded(*lines[:2]).changes.values()
    assert change.value["tunnel"] == {"type": "gue", "port": 6080}
    with pytest.raises(Failure, match=r"line 3: service .* tun with gue to port 6080"):
        folded(*lines)


def test_a_table_of_thousands_of_lines_takes_a_moment():
    """By processor time: 1,000 services with 10 servers, and one with 3,000."""
    lines = []
    for n in range(1000):
        listen = f"198.18.{n // 250}.{n % 250}:80"
        lines.append(f"-A -t {listen} -s rr")
        lines += [f"-a -t {listen} -r 198.51.100.{i}:80 -m" for i in range(10)]
    lines += [f"-a -t 192.0.2.10:80 -r 198.51.100.2:{port} -m" for port in range(1, 3001)]
    begun = time.process_time()
    found = folded(*lines)
    assert len(found.changes) == 4000
    assert time.process_time() - begun < 5


class Daemon:
    """A client of one that runs HELD; what is posted is kept, or refused by `faults`."""

    def __init__(self, faults=()):
        self.asked, self.posted, self.faults = 0, [], faults

    def text(self, *parts):
        self.asked += 1
        server = {"app1": {"address": "198.51.100.1:80"}}
        services = {"web": {"listen": "192.0.2.10:80/tcp", "servers": server}}
        gateway = {"front": "eth0", "back": ["eth1"]}
        return json.dumps(
            {"apiVersion": "lbctl/v1", "gateways": {"gw": gateway}, "services": services}
        )

    def post(self, *parts, body):
        self.posted.append((parts, body))
        if self.faults:
            raise InvalidConfig(list(self.faults))
        return {"refused": []}


def test_many_lines_are_one_question_and_one_change():
    daemon = Daemon()
    lines = [f"-A -t 192.0.2.{n}:80" for n in range(20, 40)]
    command._restore(daemon, lines)
    assert daemon.asked == 1
    ((parts, body),) = daemon.posted
    assert parts == ("overrides",)
    assert len(body["changes"]) == 20
    assert {one["expect"] for one in body["changes"]} == {"absent"}


def test_what_the_daemon_refuses_names_its_line():
    fault = "override services.192-0-2-20-80-tcp.scheduler: no scheduler of this name"
    with pytest.raises(InvalidConfig) as refused:
        command._restore(Daemon([fault]), ["", "-A -t 192.0.2.20:80 -s foo"])
    assert refused.value.faults == [f"line 2: {fault}"]
