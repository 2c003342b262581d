"""What load does to a pool, told as stories on a virtual clock. A line is a command or,
after `=`, what must then be so. One service, web, with servers app1, app2, ...:

    pool SERVERS [OPTION=VALUE...]    hold=30 soft=80 hard=95 back=80 max=40 scheduler=wrr
                                      slow=0 quorum=1 hysteresis=0 resort=none weight=1
    at SECONDS                        the clock moves; what is due is settled on the way
    say APP METRIC=PERCENT... [WORD]  its agent speaks (words of HAProxy's: drain, 50%, ...)
    silent APP, speaks APP            its agent stops answering, and answers again
    up APP, down APP                  a check's verdict
    drain APP, ready APP              a person orders
    unrest PERCENT                    the share of the ring that is in transition
    = WEIGHT...                       of app1, app2, ...; `-`: not in the table
    = why APP RULE: TEXT              the decision in words
    = state STATE                     what the service is doing
    = changes N                       weights that changed since the last `= changes`
"""

from ipaddress import ip_address

import pytest

from lbctl.daemon.reconcile import state_of
from lbctl.desired import Decision, decide, settle
from lbctl.health.agentwords import read_words
from lbctl.health.judge import Health
from lbctl.health.report import Report
from lbctl.model import (
    AgentProbe,
    Check,
    Config,
    Gateway,
    LastResort,
    Listen,
    Metric,
    Overload,
    Quorum,
    Scheduler,
    Server,
    ServerName,
    Service,
    Threshold,
)
from lbctl.world import Admin, Order, Sighting, Target, World, agent_of, target_of

STORIES = {
    "weight falls along the line between soft and hard": """
        pool 3
        = 8 8 8
        say app1 cpu=80
        = 8 8 8
        say app1 cpu=82
        = 7 8 8
        = why app1 load: 1 configured x 8 x 7/8 = 7: cpu 82 %, falls between 80 % and 95 %
        say app1 cpu=88
        = 4 8 8
        say app1 cpu=94
        = 1 8 8
        say app1 cpu=95
        = 0 8 8
        = why app1 load: overloaded: cpu 95 %, at most 95 %
    """,
    "the scarcest of the metrics counts": """
        pool 3
        say app1 cpu=10 memory=88 disk=85
        = 4 8 8
        = why app1 load: 1 configured x 8 x 4/8 = 4: memory 88 %, falls between 80 % and 95 %
        say app1 cpu=10 memory=10 disk=99
        = 0 8 8
        = why app1 load: overloaded: disk 99 %, at most 95 %
    """,
    "one that left returns only below back, and after the hold time": """
        pool 3 hold=30 back=60
        say app1 cpu=97
        = 0 8 8
        at 100
        say app1 cpu=70
        at 200
        = 0 8 8
        say app1 cpu=59
        = 0 8 8
        at 229
        = 0 8 8
        at 230
        = 8 8 8
    """,
    "what wavers around back starts the hold time anew": """
        pool 3 hold=30 back=60
        say app1 cpu=97
        at 10
        say app1 cpu=50
        at 30
        say app1 cpu=65
        at 35
        say app1 cpu=50
        at 64
        = 0 8 8
        at 65
        = 8 8 8
    """,
    "one that returned stays at least the hold time, whatever its agent says": """
        pool 3 hold=30
        say app1 cpu=97
        say app1 cpu=10
        at 30
        = 8 8 8
        at 31
        say app1 cpu=99
        = 1 8 8
        at 59
        = 1 8 8
        at 60
        = 0 8 8
    """,
    "of two one leaves, and the last never does": """
        pool 2
        say app1 cpu=97
        = 0 8
        say app2 cpu=99
        = 8 8
        = state overloaded
        = why app1 weight: configured weight; no verdict yet; all are overloaded: spread evenly
        say app2 cpu=20
        = 8 8
        at 30
        = 0 8
        = state serving
    """,
    "a server that is alone stays": """
        pool 1
        say app1 cpu=99
        = 8
        = state overloaded
    """,
    "no more leave than max_removed allows; the worst go": """
        pool 5 max=40
        say app1 cpu=95
        say app2 cpu=96
        = 0 0 8 8 8
        say app3 cpu=99
        = 0 0 1 8 8
        = why app3 load: 1 configured x 8 x 1/8 = 1: cpu 99 %, falls between 80 % and 95 %
    """,
    "of those that come together the worst go": """
        pool 5 max=20
        say app1 cpu=95 silently
        say app2 cpu=99
        = 1 0 8 8 8
    """,
    "when the pool shrinks the least of the overloaded comes back": """
        pool 5 max=40
        say app1 cpu=96
        say app2 cpu=99
        = 0 0 8 8 8
        down app5
        = 1 0 8 8 -
    """,
    "a silent agent is neutral, not dead": """
        pool 3
        say app1 cpu=90
        = 3 8 8
        silent app1
        at 30
        = 8 8 8
        = why app1 weight: configured weight; no verdict yet; its agent is silent
    """,
    "one that fell silent while overloaded stays out for the hold time": """
        pool 3 hold=30
        say app1 cpu=99
        at 5
        silent app1
        at 34
        = 0 8 8
        at 35
        = 8 8 8
    """,
    "a failed check beats the agent, and a person beats both": """
        pool 3
        say app1 cpu=97
        down app1
        = - 8 8
        drain app2
        say app2 cpu=97
        = - 0 8
        = why app2 admin: drain ordered
    """,
    "words of HAProxy's agents are done, and hold until others are said": """
        pool 3
        say app1 drain
        = 0 8 8
        = why app1 agent: its agent says drain
        say app1 cpu=10
        = 0 8 8
        say app1 ready 50%
        = 4 8 8
        say app1 down#disk broken
        = - 8 8
        = why app1 agent: its agent says down: disk broken
        say app1 up
        at 60
        = 4 8 8
        say app1 0%
        = 0 8 8
    """,
    "weights fall at once and rise after a pause": """
        pool 3 hold=30
        say app1 cpu=94
        = 1 8 8
        at 5
        say app1 cpu=50
        = 1 8 8
        at 29
        = 1 8 8
        at 30
        = 8 8 8
    """,
    "ring weights move once in 30 s, by load": """
        pool 3 scheduler=mh
        say app1 cpu=88
        = 4 8 8
        at 10
        say app1 cpu=94
        = 4 8 8
        at 29
        = 4 8 8
        at 30
        = 1 8 8
    """,
    "ring weights wait while too much of the ring is in transition": """
        pool 3 scheduler=mh
        unrest 25
        say app1 cpu=88
        = 8 8 8
        at 300
        = 8 8 8
        unrest 20
        = 4 8 8
    """,
    "leaving and returning do not wait for the ring": """
        pool 3 scheduler=mh hold=10
        unrest 90
        say app1 cpu=96
        = 0 8 8
        say app1 cpu=10
        at 10
        = 8 8 8
    """,
    "one that comes back starts slowly": """
        pool 2 slow=80
        down app1
        at 10
        up app1
        = 1 8
        = why app1 slow start: 1 configured x 8 x 1/8 = 1: came back; all of it after 80 s
        at 29
        = 1 8
        at 30
        = 2 8
        at 60
        = 5 8
        at 90
        = 8 8
    """,
    "so does one that was overloaded": """
        pool 3 slow=80 hold=30
        say app1 cpu=97
        say app1 cpu=10
        at 30
        = 1 8 8
        at 110
        = 8 8 8
    """,
    "slow start scales what load leaves": """
        pool 2 slow=80
        down app1
        up app1
        at 40
        = 4 8
        say app1 cpu=94
        = 1 8
    """,
    "a new service does not start slowly": """
        pool 2 slow=80
        = 8 8
        up app1
        = 8 8
    """,
    "a quorum is lost below it, and had again above its hysteresis": """
        pool 4 quorum=2 hysteresis=1
        = state serving
        down app1
        down app2
        = state serving
        down app3
        = state without quorum
        up app3
        = state without quorum
        up app2
        = state serving
    """,
    "without a quorum the sorry server takes what is new": """
        pool 3 quorum=2 resort=sorry
        down app1
        = - 8 8
        down app2
        = - - 0
        = state last resort
        = why app3 last resort: last resort (sorry): fewer than 2 servers are left
        up app1
        = 8 - 8
    """,
    "without a quorum all may serve": """
        pool 3 quorum=3 resort=all
        down app1
        = 8 8 8
        = state last resort
    """,
    "flapping load makes at most one transition in a hold time": """
        pool 3 hold=30
        = changes 0
        say app1 cpu=99
        at 5
        say app1 cpu=10
        at 10
        say app1 cpu=99
        at 15
        say app1 cpu=10
        at 20
        say app1 cpu=99
        = changes 1
        at 29
        say app1 cpu=10
        at 59
        = changes 1
        say app1 cpu=99
        at 80
        say app1 cpu=10
        at 88
        = changes 1
    """,
    "weights that are large already are not scaled": """
        pool 2 weight=60000
        = 60000 60000
        say app1 cpu=88
        = 30000 60000
    """,
}
METRICS = {str(metric) for metric in Metric}


class Story:
    """The service, and where its story is."""

    def __init__(self) -> None:
        self.now = 0.0
        self.world = World(Config(Gateway("lan0")))
        self.changes = 0
        self.last: list[int | None] = []

    # --- commands

    def pool(self, servers: str, *options: str) -> None:
        given = {
            **{"hold": "30", "soft": "80", "hard": "95", "back": "80", "max": "40"},
            **{"scheduler": "wrr", "slow": "0", "quorum": "1", "hysteresis": "0"},
            **{"resort": "none", "weight": "1"},
            **dict(option.split("=") for option in options),
        }
        limit = Threshold(*(int(given[key]) / 100 for key in ("soft", "hard", "back")))
        service = Service(
            (Listen.parse("192.0.2.10:80/tcp"),),
            {
                f"app{n}": Server(ip_address(f"198.51.100.{n}"), 80, int(given["weight"]))
                for n in range(1, int(servers) + 1)
            },
            Scheduler(given["scheduler"]),
            check=Check(),
            agent=Check(AgentProbe(), port=9180),
            overload=Overload(
                tuple((metric, limit) for metric in Metric),
                float(given["hold"]),
                int(given["max"]) / 100,
            ),
            slow_start=float(given["slow"]),
            quorum=Quorum(int(given["quorum"]), int(given["hysteresis"])),
            last_resort=LastResort(given["resort"]),
            sorry=Server(ip_address("198.51.100.99"), 80),
        )
        self.world.reconfigure(Config(Gateway("lan0"), {"web": service}), self.now)
        self.settle()
        self.changes = 0

    def at(self, seconds: str) -> None:
        while (due := self.world.deadline(self.now)) is not None and due <= float(seconds):
            self.now = due
            self.settle()
        self.now = float(seconds)
        self.settle()

    def say(self, app: str, *words: str) -> None:
        numbers = dict(word.split("=") for word in words if word.partition("=")[0] in METRICS)
        rest = [word for word in words if "=" not in word and word != "silently"]
        said = read_words(" ".join(rest)) if rest else Report()
        shares = {metric: int(value) / 100 for metric, value in numbers.items()}
        whole = Report(
            percent=said.percent, admin=said.admin, state=said.state, reason=said.reason, **shares
        )
        self.world.hear(self.agent(app), whole)
        self.world.see(self.agent(app), Sighting(Health.UP))
        if "silently" not in words:
            self.settle()

    def silent(self, app: str) -> None:
        self.world.see(self.agent(app), Sighting(Health.DOWN, "3 of 3 probes: timed out"))
        self.settle()

    def up(self, app: str) -> None:
        self.see(app, Health.UP)

    def down(self, app: str) -> None:
        self.see(app, Health.DOWN)

    def see(self, app: str, health: Health) -> None:
        target = target_of(self.service, self.service.servers[app])
        assert target is not None
        self.world.see(target, Sighting(health, "so"))
        self.settle()

    def drain(self, app: str) -> None:
        self.world.orders[ServerName("web", app)] = Order(Admin.DRAIN, self.now, 1e6)
        self.settle()

    def ready(self, app: str) -> None:
        del self.world.orders[ServerName("web", app)]
        self.settle()

    def unrest(self, percent: str) -> None:
        self.world.unrest["web"] = int(percent) / 100
        self.settle()

    # --- what is so

    def weights(self) -> list[int | None]:
        return [one.weight for one in self.decisions() if one.name.server.startswith("app")]

    def why(self, app: str, *text: str) -> None:
        one = next(one for one in self.decisions() if one.name.server == app)
        assert f"{one.rule}: {one.because}" == " ".join(text)

    def state(self, *words: str) -> None:
        found, because = state_of(self.decisions(), self.world.pools.get("web"))
        assert found == " ".join(words), because

    def changed(self, number: str) -> None:
        assert self.changes == int(number)
        self.changes = 0

    # --- the rest

    @property
    def service(self) -> Service:
        return self.world.config.services["web"]

    def agent(self, app: str) -> Target:
        target = agent_of(self.service, self.service.servers[app])
        assert target is not None
        return target

    def decisions(self) -> list[Decision]:
        return decide(self.world, "web", self.now)

    def settle(self) -> None:
        list(settle(self.world, ["web"], self.now))
        before, self.last = self.last, self.weights()
        if before and len(before) == len(self.last):
            self.changes += sum(a != b for a, b in zip(before, self.last, strict=True))


def expect(story: Story, words: list[str]) -> None:
    match words:
        case ["why", app, *text]:
            story.why(app, *text)
        case ["state", *text]:
            story.state(*text)
        case ["changes", number]:
            story.changed(number)
        case _:
            shown = ["-" if one is None else str(one) for one in story.weights()]
            assert shown == words


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    story = Story()
    for number, line in enumerate(STORIES[name].strip().splitlines(), 1):
        command, *words = line.split()
        try:
            if command == "=":
                expect(story, words)
            else:
                getattr(story, command)(*words)
        except AssertionError as error:
            raise AssertionError(f"line {number}, {line.strip()}: {error}") from error
