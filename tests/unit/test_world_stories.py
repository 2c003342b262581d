"""What becomes of servers, told as stories: a line is a command or, after `=`, what must
then be so.

    file SERVICE SERVER... [OPTION=VALUE...]; ...   take this configuration
    kernel SERVICE SERVER=WEIGHT...                 start from what the kernel holds
    at SECONDS                                      the clock moves
    see SERVICE/SERVER up|down|unknown [EVIDENCE]   a verdict comes
    drain|maint|ready SERVICE/SERVER [OPTION=VALUE] a person orders
    = SERVICE SERVER:WEIGHT...                      the whole service; `-` is: not in the table
    = deadline SECONDS|never                        when time alone changes something
    = why SERVICE/SERVER RULE: TEXT                 the decision in words
    = touched SERVICE...                            what the last command touched

A server is `NAME[*WEIGHT][@HOST][:PORT]`; app3 is at 198.51.100.3:8080 unless it says
otherwise. A service listens on 192.0.2.N:80/tcp, N by its place in the file.
"""

import re
from dataclasses import replace
from ipaddress import ip_address

import pytest

from lbctl.desired import decide, desired
from lbctl.health.judge import Health
from lbctl.model import (
    Check,
    Config,
    Destination,
    Drain,
    Gateway,
    HttpProbe,
    LastResort,
    Listen,
    Proto,
    Scheduler,
    Server,
    ServerName,
    Service,
    Table,
    VirtualService,
)
from lbctl.world import Admin, Order, Sighting, World, target_of

STORIES = {
    "a new service schedules all until the first verdicts": """
        file web app1 app2*3
        = web app1:1 app2:3
        = why web/app1 weight: configured weight; no verdict yet
        see web/app1 down 3 of 3 probes: connection refused
        = touched web
        = web app1:- app2:3
        = why web/app1 health: down: 3 of 3 probes: connection refused
        see web/app2 up 1 of 1 probe: connected in 2 ms
        = why web/app2 weight: configured weight; up: 1 of 1 probe: connected in 2 ms
    """,
    "without a check the weight is what the file says": """
        file web app1 app2*0 check=none
        = web app1:1 app2:0
        = why web/app1 weight: configured weight; no check
    """,
    "a weight of zero is no failure": """
        file web app1*0 app2
        see web/app1 up
        = web app1:0 app2:1
    """,
    # --- orders ---
    "drain and maint beat health, and keep the flows": """
        file web app1 app2 app3
        see web/app1 up
        see web/app2 up
        drain web/app1 by=ann reason=kernel
        maint web/app2
        = web app1:0 app2:0 app3:1
        = why web/app1 admin: drain ordered by ann: kernel
        = why web/app2 admin: maint ordered
    """,
    "a draining server that dies is out; one in maint is not looked at": """
        file web app1 app2 app3
        drain web/app1
        maint web/app2
        see web/app1 down refused
        see web/app2 down refused
        = web app1:- app2:0 app3:1
        = why web/app1 admin: drain ordered; and down: refused
    """,
    "the drain timeout gives the remaining flows up": """
        file web app1 app2
        drain web/app1 timeout=60
        = deadline 60
        at 59.9
        = web app1:0 app2:1
        at 60
        = web app1:- app2:1
        = why web/app1 admin: drain ordered; drain timeout passed
        = deadline never
    """,
    "an order ends by itself": """
        file web app1 app2
        see web/app1 up
        drain web/app1 until=30
        = deadline 30
        at 30
        = web app1:1 app2:1
        = deadline never
    """,
    "an order outlives its drain timeout": """
        file web app1 app2
        maint web/app1 until=900
        at 300
        = web app1:- app2:1
        = deadline 900
        at 900
        = web app1:1 app2:1
    """,
    "ready lifts an order and nothing else": """
        file web app1 app2
        see web/app1 down refused
        drain web/app1
        ready web/app1
        = web app1:- app2:1
        = why web/app1 health: down: refused
    """,
    "an order survives a reload": """
        file web app1 app2
        drain web/app1
        at 10
        file web app1*5 app2
        = web app1:0 app2:1
        = deadline 300
    """,
    # --- newcomers ---
    "a newcomer waits for its first pass": """
        file web app1
        see web/app1 up
        file web app1 app2
        = touched web
        = web app1:1 app2:-
        = why web/app2 newcomer: new: enters after its first passed check
        see web/app2 up
        = web app1:1 app2:1
    """,
    "a newcomer that fails stays out": """
        file web app1
        file web app1 app2
        see web/app2 down refused
        = web app1:1 app2:-
        = why web/app2 health: down: refused
    """,
    "a newcomer without a check enters at once": """
        file web app1 check=none
        file web app1 app2 check=none
        = web app1:1 app2:1
    """,
    "a newcomer does not wait where nobody else can serve": """
        file web app1
        see web/app1 down refused
        file web app1 app2
        = web app1:- app2:1
    """,
    "servers that replace all others serve at once": """
        file web app1 app2
        see web/app1 up
        see web/app2 up
        file web app3 app4
        = web app3:1 app4:1 app1:0 app2:0
    """,
    "a newcomer that somebody else already sees up enters at once": """
        file web app1; api app2
        see api/app2 up
        file web app1 app2; api app2
        = web app1:1 app2:1
    """,
    "the wait of a newcomer outlives another reload": """
        file web app1
        file web app1 app2
        file web app1*2 app2
        = web app1:2 app2:-
    """,
    "a check that is switched off and on again makes no newcomer": """
        file web app1
        file web app1 app2
        file web app1 app2 check=none
        = web app1:1 app2:1
        file web app1 app2
        = web app1:1 app2:1
    """,
    # --- leaving ---
    "a server that is removed finishes its flows": """
        file web app1 app2 drain=60
        see web/app1 up
        at 5
        file web app2 drain=60
        = web app2:1 app1:0
        = why web/app1 leaving: removed: finishes its flows
        = deadline 65
        at 65
        = web app2:1
    """,
    "a server that was down or never entered has no flows to finish": """
        file web app1 app2
        see web/app1 down refused
        file web app2 app3
        = web app2:1 app3:-
        file web app2
        = web app2:1
    """,
    "removing a server that drains does not give it more time": """
        file web app1 app2 drain=300
        drain web/app1 timeout=100
        at 50
        file web app2 drain=300
        = deadline 100
        at 100
        = web app2:1
    """,
    "a server that comes back while it leaves keeps its flows": """
        file web app1 app2
        see web/app1 up
        file web app2
        = web app2:1 app1:0
        file web app1 app2
        = web app1:1 app2:1
        = deadline never
    """,
    "a service that is removed goes at once": """
        file web app1; api app2
        file web app1
        = touched api
        = web app1:1
        = deadline never
    """,
    # --- renames and moves ---
    "a renamed server changes nothing": """
        file web app1 app2
        see web/app1 up
        file web blue@198.51.100.1 app2
        = web blue:1 app2:1
        = deadline never
    """,
    "a renamed server is still ordered to drain": """
        file web app1 app2
        drain web/app1
        file web blue@198.51.100.1 app2
        = web blue:0 app2:1
    """,
    "a renamed newcomer still waits": """
        file web app1
        file web app1 app2
        file web app1 blue@198.51.100.2
        = web app1:1 blue:-
    """,
    "a port that is written out is the same place": """
        file web app1:0 app2
        see web/app1 up
        file web app1:80 app2
        = web app1:1 app2:1
        = deadline never
    """,
    "a moved server leaves its old place and enters the new one": """
        file web app1 app2
        see web/app1 up
        see web/app2 up
        file web app1:9090 app2
        = web app1:- app2:1 app1:0
        see web/app1 up
        = web app1:1 app2:1 app1:0
    """,
    # --- changed checks ---
    "another check keeps an unsuspected server in": """
        file web app1 app2
        see web/app1 up
        see web/app2 up
        file web app1 app2 check=/health
        = web app1:1 app2:1
    """,
    "another check does not bring a dead server back": """
        file web app1 app2
        see web/app1 down refused
        file web app1 app2 check=/health
        = web app1:- app2:1
        = why web/app1 health: down: before its check changed: refused
        see web/app1 up
        = web app1:1 app2:1
    """,
    "another check does not bring a wholly dead service back": """
        file web app1 app2 last_resort=sorry
        see web/app1 down refused
        see web/app2 down refused
        file web app1 app2 last_resort=sorry check=/health
        = web app1:- app2:- sorry:1
    """,
    "health outlives a reload that does not touch the check": """
        file web app1 app2
        see web/app1 down refused
        file web app1*7 app2
        = web app1:- app2:1
    """,
    "one verdict feeds every service that asks the same": """
        file web app1 app2; api app1 app3
        see web/app1 down refused
        = touched api web
        = web app1:- app2:1
        = api app1:- app3:1
    """,
    "a verdict on what nobody asks touches nothing": """
        file web app1 app2
        file web app2
        see web/app1 down refused
        = touched
        file web app1 app2
        = why web/app1 weight: configured weight; no verdict yet
    """,
    # --- last resort ---
    "none: nothing left is nothing left": """
        file web app1 app2
        see web/app1 down refused
        see web/app2 down refused
        = web app1:- app2:-
    """,
    "all: those that are down serve, those that a person took out do not": """
        file web app1*2 app2 app3 last_resort=all
        see web/app1 down refused
        see web/app2 down refused
        drain web/app3
        = web app1:2 app2:1 app3:0
        = why web/app1 last resort: last resort (all): nothing else is left; down: refused
    """,
    "all: a drained server that died stays out": """
        file web app1 app2 last_resort=all
        drain web/app1
        see web/app1 down refused
        see web/app2 down refused
        = web app1:- app2:1
    """,
    "all ends when one is up again": """
        file web app1 app2 last_resort=all
        see web/app1 down refused
        see web/app2 down refused
        = web app1:1 app2:1
        see web/app1 up
        = web app1:1 app2:-
    """,
    "sorry serves while nothing else does": """
        file web app1 app2 last_resort=sorry
        see web/app1 down refused
        drain web/app2
        = web app1:- app2:0 sorry:1
        = why web/sorry last resort: last resort (sorry): nothing else is left
        see web/app1 up
        = web app1:1 app2:0
    """,
    "a sorry server that itself drains is still the last resort": """
        file web app1 app9 last_resort=sorry
        see web/app1 down refused
        drain web/app9
        = web app1:- app9:0 sorry:1
        = table web 198.51.100.9:8080=1
    """,
    # --- restart ---
    "after a restart every server keeps its place in the kernel": """
        file web app1 app2 app3
        kernel web app1=1 app2=0
        = web app1:1 app2:1 app3:-
        see web/app3 up
        = web app1:1 app2:1 app3:1
    """,
    "a service that the kernel does not know is new": """
        file web app1; api app2
        kernel web app1=1
        = web app1:1
        = api app2:1
    """,
    "a service that had nobody left has nobody after a restart": """
        file web app1 app2
        kernel web
        = web app1:- app2:-
        see web/app2 up
        = web app1:- app2:1
    """,
    "a saved verdict beats the place in the kernel": """
        file web app1 app2
        see web/app1 down refused
        kernel web app1=1 app2=1
        = web app1:- app2:1
    """,
}


class Story:
    """Plays the lines of one story on a world of its own."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.now = 0.0
        self.touched: set[str] = set()

    def play(self, text: str) -> None:
        for line in filter(None, map(str.strip, text.splitlines())):
            verb, _, rest = line.partition(" ")
            if verb == "=":
                self.expect(line, rest)
            elif verb in list(Admin):
                self.order(Admin(verb), rest)
            else:
                getattr(self, verb)(rest)

    # --- commands ---

    def file(self, text: str) -> None:
        config = config_of(text)
        if self.world is None:
            self.world = World(config)
        else:
            self.touched = self.world.reconfigure(config, self.now)

    def kernel(self, text: str) -> None:
        name, *held = text.split()
        service = self.config.services[name]
        servers = {key: int(weight) for key, _, weight in (one.partition("=") for one in held)}
        destinations = {
            service.servers[key].endpoint(service.listens[0]): Destination(weight)
            for key, weight in servers.items()
        }
        table = Table({service.listens[0]: VirtualService(service.scheduler, destinations)})
        self.facts.start_from(table)

    def at(self, text: str) -> None:
        self.now = float(text)

    def see(self, text: str) -> None:
        where, health, *evidence = text.split(maxsplit=2)
        name = ServerName.parse(where)
        service = self.config.services[name.service]
        server = service.servers.get(name.server) or server_of(name.server)[1]
        target = target_of(service, server)
        assert target is not None
        sighting = Sighting(Health(health), " ".join(evidence), self.now)
        self.touched = self.facts.see(target, sighting)

    def order(self, admin: Admin, text: str) -> None:
        where, *options = text.split()
        said = dict(option.split("=") for option in options)
        self.facts.orders[ServerName.parse(where)] = Order(
            admin,
            since=self.now,
            deadline=self.now + float(said.get("timeout", 300)),
            until=self.now + float(said["until"]) if "until" in said else None,
            reason=said.get("reason", ""),
            by=said.get("by", ""),
        )

    # --- expectations ---

    def expect(self, line: str, text: str) -> None:
        what, _, rest = text.partition(" ")
        match what:
            case "deadline":
                deadline = self.facts.deadline(self.now)
                found = "never" if deadline is None else f"{deadline:g}"
            case "why":
                where, _, rest = rest.partition(" ")
                name = ServerName.parse(where)
                said = {d.name: d for d in decide(self.facts, name.service, self.now)}[name]
                found = f"{said.rule}: {said.because}"
            case "touched":
                found = " ".join(sorted(self.touched))
            case "table":
                name, _, rest = rest.partition(" ")
                found = self.scheduled(name)
            case _:
                found = self.weights(what)
        assert found == rest, line

    def weights(self, service: str) -> str:
        found = render(self.facts, service, self.now)
        table = desired(self.facts, self.now)
        self.facts.expire(self.now)
        assert desired(self.facts, self.now) == table, "expire() only forgets what has no effect"
        return found

    def scheduled(self, service: str) -> str:
        table = desired(self.facts, self.now)
        (frontend,) = self.config.services[service].listens
        destinations = table.services[frontend].destinations
        return " ".join(f"{e}={d.weight}" for e, d in destinations.items() if d.weight)

    @property
    def facts(self) -> World:
        assert self.world is not None, "a story starts with a file"
        return self.world

    @property
    def config(self) -> Config:
        return self.facts.config


def render(world: World, service: str, now: float) -> str:
    """Each server with its weight; those whose departure is over are not told."""
    decisions = [
        decision
        for decision in decide(world, service, now)
        if not (decision.rule == "leaving" and decision.weight is None)
    ]
    weights = ((one.name.server, one.weight) for one in decisions)
    return " ".join(f"{name}:{'-' if weight is None else weight}" for name, weight in weights)


def config_of(text: str) -> Config:
    services = {}
    for at, line in enumerate(text.split(";"), start=1):
        name, *words = line.split()
        options = dict(word.split("=") for word in words if "=" in word)
        servers = dict(server_of(word) for word in words if "=" not in word)
        services[name] = service_of(f"192.0.2.{at}", servers, options)
    return Config(Gateway("lan0"), services)


def service_of(vip: str, servers: dict[str, Server], options: dict[str, str]) -> Service:
    check = options.get("check", "tcp")
    service = Service(
        listens=(Listen(ip_address(vip), 80, Proto.TCP),),
        servers=servers,
        scheduler=Scheduler("rr"),
        check=None if check == "none" else Check(),
        drain=Drain(timeout=float(options.get("drain", 300))),
        last_resort=LastResort(options.get("last_resort", "none")),
        sorry=server_of("app9")[1],
    )
    if check.startswith("/"):
        service = replace(service, check=Check(HttpProbe(path=check)))
    return service


def server_of(text: str) -> tuple[str, Server]:
    """`NAME[*WEIGHT][@HOST][:PORT]`; port 0: that of the listen."""
    found = re.fullmatch(r"([a-z]+)(\d*)(?:\*(\d+))?(?:@([\d.]+))?(?::(\d+))?", text)
    assert found is not None, text
    letters, number, weight, host, port = found.groups()
    address = ip_address(host or f"198.51.100.{number}")
    return letters + number, Server(
        address, int(port or 8080) or None, weight=1 if weight is None else int(weight)
    )


@pytest.mark.parametrize("text", STORIES.values(), ids=STORIES.keys())
def test_story(text: str) -> None:
    Story().play(text)
